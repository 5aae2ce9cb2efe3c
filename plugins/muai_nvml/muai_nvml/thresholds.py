"""From which value on a GPU's own counts say that something is wrong; the config may set each.

Sources: DCGM 4.6, `common/DcgmGPUHardwareLimits.h` and `modules/health/DcgmHealthWatch.cpp`, for
retired pages and remapped rows; NVIDIA's "GPU memory error management" for pending remappings and
uncorrectable errors; gpud for slowdowns, which count only while they last.
"""

from msgspec import Struct


class Thresholds(Struct, frozen=True, kw_only=True):
    """0 switches a check off."""

    #: Pages retired, on GPUs before Ampere. The table for them has 64 entries.
    pages_retired: int = 63
    #: Rows remapped after uncorrectable errors, on Ampere and later. The hardware has 512 spares.
    rows_remapped: int = 512
    #: Uncorrectable ECC errors since the driver was loaded.
    ecc_uncorrected: int = 1
    #: Readings in a row with a hardware slowdown: overheating, or an external power brake.
    slowdown_readings: int = 6
