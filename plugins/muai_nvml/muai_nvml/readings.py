"""One look at one GPU: memory, processes, utilization, temperature, power."""

from typing import Any

from muai_core.model.device import DeviceProcess, DeviceReading
from muai_nvml.describe import Gpu, memory_info
from muai_nvml.kinship import Kinship
from muai_nvml.nvml import NvmlFailure, Visit
from muai_nvml.return_codes import UNKNOWN

_GPU_SENSOR = 0
#: What is beyond was not measured.
_TEMPERATURES_CELSIUS = range(-100, 301)
_MOST_PERCENT = 100


def read_gpu(visit: Visit, gpu: Gpu, kinship: Kinship) -> tuple[DeviceReading, ...]:
    """A reading for each device of the GPU: itself, or its MIG instances. Raises NvmlFailure.

    Temperature and power are the whole GPU's, also for its MIG instances.
    """
    utilization = visit.get("nvmlDeviceGetUtilizationRates", gpu.handle)
    temperature = visit.first(
        ("nvmlDeviceGetTemperatureV", gpu.handle, _GPU_SENSOR),
        ("nvmlDeviceGetTemperature", gpu.handle, _GPU_SENSOR),
    )
    if temperature is not None and int(temperature) not in _TEMPERATURES_CELSIUS:
        temperature = None
    if utilization is not None and utilization.gpu > _MOST_PERCENT:
        utilization = None
    power_mw = visit.get("nvmlDeviceGetPowerUsage", gpu.handle)
    readings = []
    for device, handle in zip(gpu.described.devices, gpu.handles, strict=True):
        memory = _memory(visit, handle)
        processes = _processes(visit, handle, kinship)
        used = int(memory.used) if memory is not None else None
        reserved = getattr(memory, "reserved", None)
        readings.append(
            DeviceReading(
                uuid=device.uuid,
                memory_used_bytes=used,
                memory_reserved_bytes=int(reserved) if reserved is not None else None,
                memory_free_bytes=int(memory.free) if memory is not None else None,
                memory_foreign_bytes=_foreign_bytes(used, processes),
                utilization_percent=(
                    float(utilization.gpu)
                    if utilization is not None and not gpu.in_mig_mode
                    else None
                ),
                temperature_celsius=float(temperature) if temperature is not None else None,
                power_watts=power_mw / 1000 if power_mw is not None else None,
                processes=processes or (),
            )
        )
    return tuple(readings)


def _memory(visit: Visit, handle: Any) -> Any:
    """As `memory_info`. Raises NvmlFailure also when it says what cannot be."""
    memory = memory_info(visit, handle)
    if memory is not None and max(memory.used, memory.free) > memory.total:
        words = f"{memory.used} bytes used and {memory.free} free of {memory.total}"
        raise NvmlFailure(UNKNOWN, f"nvmlDeviceGetMemoryInfo ({words})")
    return memory


def _processes(visit: Visit, handle: Any, kinship: Kinship) -> tuple[DeviceProcess, ...] | None:
    """None when the driver does not list them. A process that computes and draws is in both
    lists with the same memory."""
    lists = [
        visit.get("nvmlDeviceGetComputeRunningProcesses", handle),
        visit.get("nvmlDeviceGetGraphicsRunningProcesses", handle),
    ]
    if lists[0] is None:
        return None
    memory: dict[int, int | None] = {}
    for process in (process for found in lists for process in found or ()):
        used = process.usedGpuMemory
        known = memory.get(process.pid)
        memory[process.pid] = known if used is None else max(int(used), known or 0)
    found = []
    for pid in sorted(memory):
        visit.call = f"reading /proc/{pid}"
        name, own = kinship.look_up(pid)
        found.append(DeviceProcess(pid=pid, memory_bytes=memory[pid], name=name, own=own))
    return tuple(found)


def _foreign_bytes(used: int | None, processes: tuple[DeviceProcess, ...] | None) -> int | None:
    """What is used by others than MuAI; None unless each process's memory and owner are known."""
    if used is None or processes is None:
        return None
    if any(process.own is None or process.memory_bytes is None for process in processes):
        return None
    own = sum(process.memory_bytes or 0 for process in processes if process.own)
    return max(0, used - own)
