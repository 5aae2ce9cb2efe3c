"""What lies between the GPUs of a node: NVLink, PCIe, and whether one may read the other."""

from collections.abc import Sequence
from itertools import combinations

from muai_core.model.device import DeviceLink, LinkKind
from muai_nvml.describe import Gpu
from muai_nvml.nvml import Visit

#: Each pair costs three calls: 6,000 for these.
MOST_GPUS = 64
#: nvml.h, nvmlGpuTopologyLevel_t; 0 is two GPUs of one board, behind the board's own switch.
_LEVELS: dict[int, LinkKind] = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
#: nvml.h, nvmlGpuP2PCapsIndex_t and nvmlGpuP2PStatus_t. pynvml's own constant is a tuple.
_READ, _NVLINK = 0, 2
_OK = 0
_UNKNOWN = 6


def read_links(visit: Visit, gpus: Sequence[Gpu]) -> tuple[DeviceLink, ...]:
    """Each pair once, by the UUIDs of whole GPUs; none that the driver says nothing of."""
    if len(gpus) > MOST_GPUS:
        return ()
    found = []
    for a, b in combinations(gpus, 2):
        level = visit.beside("nvmlDeviceGetTopologyCommonAncestor", a.handle, b.handle)
        read = visit.beside("nvmlDeviceGetP2PStatus", a.handle, b.handle, _READ)
        nvlinks = _between(a, b)
        over_nvlink = nvlinks > 0
        if not over_nvlink and a.nvlinks and b.nvlinks:
            over_nvlink = visit.beside("nvmlDeviceGetP2PStatus", a.handle, b.handle, _NVLINK) == _OK
            if over_nvlink:
                # Through a switch each can give the other all that it has.
                nvlinks = min(len(a.nvlinks), len(b.nvlinks))
        if level is None and not over_nvlink:
            continue
        found.append(
            DeviceLink(
                a=a.described.gpu_uuid,
                b=b.described.gpu_uuid,
                kind="NVL" if over_nvlink else _LEVELS.get(level, "SYS"),
                nvlinks=nvlinks,
                p2p=None if read is None or read == _UNKNOWN else read == _OK,
            )
        )
    return tuple(found)


def _between(a: Gpu, b: Gpu) -> int:
    """NVLinks that end at the other one directly, or at a switch that both are connected to."""
    direct = sum(
        link.remote_pci_bus_id is not None and link.remote_pci_bus_id == b.described.pci_bus_id
        for link in a.nvlinks
    )
    if direct:
        return direct
    return min(sum(link.at_switch for link in a.nvlinks), sum(link.at_switch for link in b.nvlinks))
