"""What real GPUs report about themselves.

Name, total memory and idle power are what `nvidia-smi` prints on such a GPU with ECC in its default
setting: 81559 MiB, 143771 MiB, 81920 MiB, 46068 MiB and 24564 MiB. NVML's total includes what the
driver keeps for itself: an application on an H100 gets about 79.2 GiB of its 79.6 GiB.

Power limits and links are those of the data sheets, compute capabilities of the CUDA GPU list:

- H100 SXM: 700 W, NVLink 900 GB/s (NVIDIA H100 Tensor Core GPU data sheet)
- H200 SXM: 700 W, NVLink 900 GB/s (NVIDIA H200 Tensor Core GPU data sheet)
- A100 SXM 80 GB: 400 W, NVLink 600 GB/s (NVIDIA A100 Tensor Core GPU data sheet)
- L40S: 350 W, no NVLink (NVIDIA L40S data sheet)
- GeForce RTX 4090: 450 W, no NVLink (NVIDIA GeForce RTX 4090 specifications)
- https://developer.nvidia.com/cuda-gpus
"""

from typing import Literal

from msgspec import Struct

ProfileName = Literal["H100-80GB", "H200-141GB", "A100-80GB", "L40S-48GB", "RTX-4090-24GB"]


class Profile(Struct, frozen=True, kw_only=True):
    """One kind of GPU."""

    #: As NVML and nvidia-smi spell it.
    marketing_name: str
    memory_total_bytes: int
    compute_capability: str
    power_limit_watts: float
    idle_watts: float
    #: Whether GPUs of this kind in one node reach each other over NVLink.
    nvlink: bool


_MIB = 2**20

PROFILES: dict[ProfileName, Profile] = {
    "H100-80GB": Profile(
        marketing_name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=81_559 * _MIB,
        compute_capability="9.0",
        power_limit_watts=700.0,
        idle_watts=70.0,
        nvlink=True,
    ),
    "H200-141GB": Profile(
        marketing_name="NVIDIA H200",
        memory_total_bytes=143_771 * _MIB,
        compute_capability="9.0",
        power_limit_watts=700.0,
        idle_watts=75.0,
        nvlink=True,
    ),
    "A100-80GB": Profile(
        marketing_name="NVIDIA A100-SXM4-80GB",
        memory_total_bytes=81_920 * _MIB,
        compute_capability="8.0",
        power_limit_watts=400.0,
        idle_watts=60.0,
        nvlink=True,
    ),
    "L40S-48GB": Profile(
        marketing_name="NVIDIA L40S",
        memory_total_bytes=46_068 * _MIB,
        compute_capability="8.9",
        power_limit_watts=350.0,
        idle_watts=33.0,
        nvlink=False,
    ),
    "RTX-4090-24GB": Profile(
        marketing_name="NVIDIA GeForce RTX 4090",
        memory_total_bytes=24_564 * _MIB,
        compute_capability="8.9",
        power_limit_watts=450.0,
        idle_watts=15.0,
        nvlink=False,
    ),
}
