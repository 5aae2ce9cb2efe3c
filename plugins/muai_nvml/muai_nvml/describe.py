"""What a GPU is: the facts that stay the same, read when a probe first visits it."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from muai_core.model.device import Device
from muai_nvml.nvml import NvmlFailure, Visit, text
from muai_nvml.return_codes import ABSENT
from muai_nvml.wire import Described

#: nvml.h, NVML_DEVICE_ARCH_*.
_ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
_MIG_ENABLED = 1
_NVLINK_ENDS_AT_SWITCH = 2
_AFFINITY_SCOPE_NODE = 0
#: 4,096 CPUs and as many NUMA nodes.
_MASK_WORDS = 64
#: Rubin has the most, 36 (nvml.h, NVML_NVLINK_MAX_LINKS).
_MOST_NVLINKS = 36


class NvLink(Struct, frozen=True):
    """One NVLink of a GPU that is there, whether or not it is up."""

    number: int
    remote_pci_bus_id: str | None
    at_switch: bool


class Gpu(Struct, kw_only=True):
    """A GPU as its probe knows it."""

    index: int
    handle: Any
    described: Described
    nvlinks: tuple[NvLink, ...]
    #: Handles of `described.devices`: of the GPU itself, or of its MIG instances.
    handles: tuple[Any, ...]

    @property
    def in_mig_mode(self) -> bool:
        """Whether the handles are those of MIG instances, which have fewer values."""
        return bool(self.described.gpu_instances)


def describe(visit: Visit, node: str) -> Gpu:
    """Raises NvmlFailure when the GPU cannot be had, or has no UUID."""
    handle = visit.need("nvmlDeviceGetHandleByIndex", visit.index)
    uuid = text(visit.need("nvmlDeviceGetUUID", handle)) or f"GPU-unknown-{visit.index}"
    pci = visit.get("nvmlDeviceGetPciInfo", handle)
    pci_bus_id = text(pci.busId) if pci is not None else None
    nvlinks = _nvlinks(visit, handle)
    whole = Device(
        uuid=uuid,
        node=node,
        index=visit.index,
        kind="gpu",
        platform="cuda",
        name=text(visit.get("nvmlDeviceGetName", handle)) or "NVIDIA GPU",
        memory_total_bytes=_memory_total_bytes(visit, handle),
        pci_bus_id=pci_bus_id,
        compute_capability=_compute_capability(visit, handle),
        serial_number=text(visit.get("nvmlDeviceGetSerial", handle)),
        vendor="NVIDIA",
        architecture=_ARCHITECTURES.get(visit.get("nvmlDeviceGetArchitecture", handle) or 0),
        driver_version=text(visit.beside("nvmlSystemGetDriverVersion")),
        cuda_version=_cuda_version(visit),
        numa_node=_numa_node(visit, handle, pci_bus_id),
        cpu_affinity=_cpu_affinity(visit, handle),
    )
    mig_mode = visit.get("nvmlDeviceGetMigMode", handle)
    mig_on = mig_mode is not None and mig_mode[0] == _MIG_ENABLED
    instances = _mig_instances(visit, handle, whole) if mig_on else []
    return Gpu(
        index=visit.index,
        handle=handle,
        nvlinks=nvlinks,
        handles=tuple(instance[0] for instance in instances) or (handle,),
        described=Described(
            index=visit.index,
            gpu_uuid=uuid,
            pci_bus_id=pci_bus_id,
            devices=tuple(instance[1] for instance in instances) or (whole,),
            gpu_instances=tuple(instance[2] for instance in instances),
            mig_without_instances=mig_on and not instances,
            on_nvswitch=any(link.at_switch for link in nvlinks),
        ),
    )


def mig_layout(visit: Visit, gpu: Gpu) -> tuple[str, ...] | None:
    """The UUIDs of the MIG instances that are there now; None when MIG is off. Raises as `get`."""
    mode = visit.get("nvmlDeviceGetMigMode", gpu.handle)
    if mode is None or mode[0] != _MIG_ENABLED:
        return None
    handles = _mig_handles(visit, gpu.handle)
    return tuple(text(visit.get("nvmlDeviceGetUUID", handle)) or "" for _, handle in handles)


def known_layout(gpu: Gpu) -> tuple[str, ...] | None:
    """The same, as it was when the GPU was described."""
    if gpu.in_mig_mode:
        return tuple(device.uuid for device in gpu.described.devices)
    return () if gpu.described.mig_without_instances else None


def _mig_handles(visit: Visit, handle: Any) -> list[tuple[int, Any]]:
    most = visit.get("nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    # The numbers may have gaps: those of instances that were destroyed.
    found = ((n, visit.get("nvmlDeviceGetMigDeviceHandleByIndex", handle, n)) for n in range(most))
    return [(number, instance) for number, instance in found if instance is not None]


def _mig_instances(visit: Visit, handle: Any, whole: Device) -> list[tuple[Any, Device, int]]:
    instances = []
    for number, instance in _mig_handles(visit, handle):
        uuid = text(visit.get("nvmlDeviceGetUUID", instance))
        if uuid is None:
            continue
        gpu_instance = visit.get("nvmlDeviceGetGpuInstanceId", instance)
        device = msgspec.structs.replace(
            whole,
            uuid=uuid,
            mig_index=number,
            parent_uuid=whole.uuid,
            name=text(visit.get("nvmlDeviceGetName", instance)) or f"{whole.name} MIG",
            memory_total_bytes=_memory_total_bytes(visit, instance),
        )
        instances.append((instance, device, gpu_instance if gpu_instance is not None else -1))
    return instances


def memory_info(visit: Visit, handle: Any) -> Any:
    """`nvmlMemory_v2_t`; from an old driver `nvmlMemory_t`, which has no `reserved`; None when
    the GPU has no memory of its own. Raises NvmlFailure: without it nothing can be said."""
    version = getattr(visit.nvml.module, "nvmlMemory_v2", None)
    for arguments in ((handle, version), (handle,)) if version is not None else ((handle,),):
        try:
            return visit.need("nvmlDeviceGetMemoryInfo", *arguments)
        except NvmlFailure as failure:
            if failure.code not in ABSENT:
                raise
    return None


def _memory_total_bytes(visit: Visit, handle: Any) -> int:
    memory = memory_info(visit, handle)
    return int(memory.total) if memory is not None else 0


def _compute_capability(visit: Visit, handle: Any) -> str | None:
    version = visit.get("nvmlDeviceGetCudaComputeCapability", handle)
    return f"{version[0]}.{version[1]}" if version is not None else None


def _cuda_version(visit: Visit) -> str | None:
    version = visit.beside("nvmlSystemGetCudaDriverVersion_v2")
    version = version or visit.beside("nvmlSystemGetCudaDriverVersion")
    # nvml.h, NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR.
    return f"{version // 1000}.{version % 1000 // 10}" if version else None


def _bits(words: Any) -> list[int]:
    return [
        64 * place + bit for place, word in enumerate(words) for bit in range(64) if word >> bit & 1
    ]


def _numa_node(visit: Visit, handle: Any, pci_bus_id: str | None) -> int | None:
    """The host's node next to the GPU; nvmlDeviceGetNumaNodeId is about GPUs that are one."""
    mask = visit.get("nvmlDeviceGetMemoryAffinity", handle, _MASK_WORDS, _AFFINITY_SCOPE_NODE)
    nodes = _bits(mask) if mask is not None else []
    if nodes:
        return nodes[0]
    if pci_bus_id is not None:
        domain, _, rest = pci_bus_id.lower().partition(":")
        try:
            path = Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node")
            node = int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            node = -1
        if node >= 0:
            return node
    number: int | None = visit.get("nvmlDeviceGetNumaNodeId", handle)
    return number


def _cpu_affinity(visit: Visit, handle: Any) -> str | None:
    mask = visit.get("nvmlDeviceGetCpuAffinity", handle, _MASK_WORDS)
    return linux_list(_bits(mask)) if mask is not None else None


def linux_list(numbers: list[int]) -> str | None:
    """Ascending numbers as Linux writes them: "0-3,8". None for none."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = (str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return ",".join(words) or None


def _nvlinks(visit: Visit, handle: Any) -> tuple[NvLink, ...]:
    links = []
    for number in range(_MOST_NVLINKS):
        if visit.get("nvmlDeviceGetNvLinkState", handle, number) is None:
            break
        kind = visit.get("nvmlDeviceGetNvLinkRemoteDeviceType", handle, number)
        remote = visit.get("nvmlDeviceGetNvLinkRemotePciInfo", handle, number)
        links.append(
            NvLink(
                number,
                text(remote.busId) if remote is not None else None,
                kind == _NVLINK_ENDS_AT_SWITCH,
            )
        )
    return tuple(links)
