"""The options under `devices.nvml`. Import it only when options are validated."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from muai_nvml.thresholds import Thresholds
from muai_nvml.xid_policy import XidAction

Count = Annotated[int, Field(ge=0, le=10**9)]
_DEFAULT = Thresholds()


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ThresholdOptions(_Section):
    """From which value on a GPU's own counts say that something is wrong; 0 switches one off."""

    pages_retired: Count = _DEFAULT.pages_retired
    """Retired memory pages that make a GPU older than Ampere failed."""
    rows_remapped: Count = _DEFAULT.rows_remapped
    """Memory rows remapped after uncorrectable errors that make a GPU failed."""
    ecc_uncorrected: Count = _DEFAULT.ecc_uncorrected
    """Uncorrectable memory errors since the driver was loaded that make a GPU failed; degraded
    where the driver says that it contained them."""
    slowdown_readings: Count = _DEFAULT.slowdown_readings
    """Readings in a row with a hardware slowdown (heat, power brake) that make a GPU degraded."""

    def as_thresholds(self) -> Thresholds:
        return Thresholds(**self.model_dump())


class NvmlOptions(_Section):
    """How NVIDIA GPUs are watched."""

    deadline_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """Seconds within which a GPU must answer; one that does not is unresponsive, and suspect."""
    misses_until_failed: Annotated[int, Field(ge=1, le=100)] = 3
    """Deadlines missed in a row that make a GPU failed."""
    slow_interval_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """Seconds between two looks at what rarely changes: ECC counts, remapped rows, NVLink, limits.
    An event of the driver's makes MuAI look at once."""
    xid_actions: dict[Annotated[int, Field(ge=1, le=9999)], XidAction] = {}
    """What an XID makes of its GPU, instead of NVIDIA's catalogue: `{31: ignore, 74: fail_reset}`.
    ignore: counted, no more; restart_app: counted, and suspect when it recurs; degrade; suspect;
    fail_reset, fail_reboot, fail_service: failed, until an operator has done what the word says."""
    thresholds: ThresholdOptions = ThresholdOptions()
    """From which value on a GPU's own counts say that something is wrong."""
    library_dir: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The directory of another libnvidia-ml.so.1 than the system's, for drills with a fake one."""
