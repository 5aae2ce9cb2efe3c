"""GPUs for Python programs: see them, share them out, watch them. Synchronous and thread-safe.

A thin façade over what `muai` itself is made of: the same device sources, the same health, the same
placement. It needs no controller and starts none; where one runs, prefer its command line and its
endpoint, because the two do not know of each other's claims.

    manager = get_gpu_manager()
    manager.detect_gpus()
    with manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2) as allocation:
        print(allocation.stages)
    manager.check_health(0)
    manager.get_metrics()
"""

from muai_core.api.allocation import AllocationError, GPUAllocation
from muai_core.api.gpu import GPUInfo, HealthReport, UnknownGPU
from muai_core.api.gpu_manager import GPUManager, get_gpu_manager
from muai_core.api.gpu_monitor import GPUMonitor, create_gpu_monitor

__all__ = [
    "AllocationError",
    "GPUAllocation",
    "GPUInfo",
    "GPUManager",
    "GPUMonitor",
    "HealthReport",
    "UnknownGPU",
    "create_gpu_monitor",
    "get_gpu_manager",
]
