"""The catalogue of GPUs: what real ones report about themselves, for plans without hardware.

Name, total memory and idle power are what `nvidia-smi` prints on such a GPU with ECC in its default
setting. NVML's total includes what the driver keeps for itself; the usable memory is what an
application sees, as PyTorch prints it: "GPU 0 has a total capacity of 79.10 GiB". It differs by
some tens of MiB between drivers; the smaller figure is taken.

Power limits and links are those of NVIDIA's data sheets, compute capabilities of the CUDA GPU list
(https://developer.nvidia.com/cuda-gpus). SXM boards have as many NVLinks from each GPU to every
other as `nvidia-smi topo -m` shows: NV12 on an HGX A100, NV18 on an HGX H100, H200 and B200 (all
through NVSwitch). On boards with V100s only the four GPUs of one half are all linked.
"""

from typing import Literal

from msgspec import Struct

CardName = Literal[
    "B200-180GB",
    "H200-141GB",
    "H100-80GB",
    "H100-PCIE-80GB",
    "H100-NVL-94GB",
    "H20-96GB",
    "A100-80GB",
    "A100-PCIE-80GB",
    "A100-40GB",
    "A100-PCIE-40GB",
    "L40S-48GB",
    "L40-48GB",
    "L4-24GB",
    "A40-48GB",
    "A10-24GB",
    "A10G-24GB",
    "A30-24GB",
    "T4-16GB",
    "V100-32GB",
    "V100-16GB",
    "RTX-PRO-6000-96GB",
    "RTX-6000-ADA-48GB",
    "RTX-A6000-48GB",
    "RTX-5090-32GB",
    "RTX-4090-24GB",
    "RTX-3090-24GB",
]


class GpuKind(Struct, frozen=True, kw_only=True):
    """What a plan has to know of a kind of GPU."""

    #: As NVML and nvidia-smi spell it.
    marketing_name: str
    memory_total_bytes: int
    #: What applications can have when nobody else is there.
    memory_usable_bytes: int
    compute_capability: str | None = None
    #: NVLinks from a GPU to each other of its island; 0: none.
    nvlinks: int = 0
    #: GPUs of an island at most; None: all of a box.
    island_size: int | None = None

    @property
    def nvlink(self) -> bool:
        """Whether GPUs of this kind in one node reach each other over NVLink."""
        return self.nvlinks > 0

    @property
    def memory_reserved_bytes(self) -> int:
        """What the driver keeps."""
        return self.memory_total_bytes - self.memory_usable_bytes


class Card(GpuKind, frozen=True, kw_only=True):
    """A kind of GPU of the catalogue, with all that a simulated one tells."""

    power_limit_watts: float
    idle_watts: float


def _card(
    marketing_name: str,
    total_mib: int,
    usable_gib: float,
    compute_capability: str,
    power_limit_watts: float,
    idle_watts: float,
    nvlinks: int = 0,
    island_size: int | None = None,
) -> Card:
    return Card(
        marketing_name=marketing_name,
        memory_total_bytes=total_mib * 2**20,
        memory_usable_bytes=int(usable_gib * 2**30),
        compute_capability=compute_capability,
        nvlinks=nvlinks,
        island_size=island_size,
        power_limit_watts=power_limit_watts,
        idle_watts=idle_watts,
    )


CARDS: dict[CardName, Card] = {
    "B200-180GB": _card("NVIDIA B200", 183_359, 178.35, "10.0", 1000.0, 140.0, 18),
    "H200-141GB": _card("NVIDIA H200", 143_771, 139.72, "9.0", 700.0, 75.0, 18),
    "H100-80GB": _card("NVIDIA H100 80GB HBM3", 81_559, 79.10, "9.0", 700.0, 70.0, 18),
    "H100-PCIE-80GB": _card("NVIDIA H100 PCIe", 81_559, 79.10, "9.0", 350.0, 50.0),
    "H100-NVL-94GB": _card("NVIDIA H100 NVL", 95_830, 93.02, "9.0", 400.0, 64.0, 12, 2),
    "H20-96GB": _card("NVIDIA H20", 97_871, 95.00, "9.0", 500.0, 74.0, 18),
    "A100-80GB": _card("NVIDIA A100-SXM4-80GB", 81_920, 79.15, "8.0", 400.0, 60.0, 12),
    "A100-PCIE-80GB": _card("NVIDIA A100 80GB PCIe", 81_920, 79.15, "8.0", 300.0, 43.0),
    "A100-40GB": _card("NVIDIA A100-SXM4-40GB", 40_960, 39.39, "8.0", 400.0, 45.0, 12),
    "A100-PCIE-40GB": _card("NVIDIA A100-PCIE-40GB", 40_960, 39.39, "8.0", 250.0, 32.0),
    "L40S-48GB": _card("NVIDIA L40S", 46_068, 44.39, "8.9", 350.0, 33.0),
    "L40-48GB": _card("NVIDIA L40", 46_068, 44.39, "8.9", 300.0, 35.0),
    "L4-24GB": _card("NVIDIA L4", 23_034, 21.96, "8.9", 72.0, 12.0),
    "A40-48GB": _card("NVIDIA A40", 46_068, 44.34, "8.6", 300.0, 22.0),
    "A10-24GB": _card("NVIDIA A10", 23_028, 21.98, "8.6", 150.0, 15.0),
    "A10G-24GB": _card("NVIDIA A10G", 23_028, 21.98, "8.6", 300.0, 16.0),
    "A30-24GB": _card("NVIDIA A30", 24_576, 23.50, "8.0", 165.0, 28.0),
    "T4-16GB": _card("Tesla T4", 15_360, 14.56, "7.5", 70.0, 9.0),
    "V100-32GB": _card("Tesla V100-SXM2-32GB", 32_768, 31.73, "7.0", 300.0, 42.0, 1, 4),
    "V100-16GB": _card("Tesla V100-SXM2-16GB", 16_384, 15.77, "7.0", 300.0, 42.0, 1, 4),
    "RTX-PRO-6000-96GB": _card(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_887, 94.97, "12.0", 600.0, 28.0
    ),
    "RTX-6000-ADA-48GB": _card("NVIDIA RTX 6000 Ada Generation", 49_140, 47.37, "8.9", 300.0, 20.0),
    "RTX-A6000-48GB": _card("NVIDIA RTX A6000", 49_140, 47.41, "8.6", 300.0, 22.0),
    "RTX-5090-32GB": _card("NVIDIA GeForce RTX 5090", 32_607, 31.36, "12.0", 575.0, 20.0),
    "RTX-4090-24GB": _card("NVIDIA GeForce RTX 4090", 24_564, 23.52, "8.9", 450.0, 15.0),
    "RTX-3090-24GB": _card("NVIDIA GeForce RTX 3090", 24_576, 23.57, "8.6", 350.0, 20.0),
}
