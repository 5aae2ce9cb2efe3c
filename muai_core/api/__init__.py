"""GPUs and engines for Python programs. Synchronous and thread-safe.

A thin façade over what `muai` itself is made of: the same device sources, the same health, the same
placement, the same engines. It needs no controller; where one runs, prefer its command line and its
endpoint, because the two do not know of each other's claims.

    manager = get_gpu_manager()
    manager.detect_gpus()
    with manager.allocate_gpus(tensor_parallel=2, pipeline_parallel=2) as allocation:
        print(allocation.stages)
    manager.check_health(0)
    manager.get_metrics()

    with VLLMEngine(VLLMConfig(tensor_parallel_size=2)) as engine:
        engine.load_model("models/llama-3-8b")
        print(engine.get_allocated_gpus(), engine.generate("Hello", max_tokens=8))
"""

from muai_core.api.allocation import AllocationError, GPUAllocation
from muai_core.api.engine import ServedEngine
from muai_core.api.engine_config import DeepSpeedConfig, EngineConfig, VLLMConfig
from muai_core.api.engine_result import EngineAllocation, EngineError, Fallback, Generation
from muai_core.api.engines import DeepSpeedEngine, VLLMEngine
from muai_core.api.gpu import GPUInfo, HealthReport, UnknownGPU
from muai_core.api.gpu_manager import GPUManager, get_gpu_manager
from muai_core.api.gpu_monitor import GPUMonitor, create_gpu_monitor

__all__ = [
    "AllocationError",
    "DeepSpeedConfig",
    "DeepSpeedEngine",
    "EngineAllocation",
    "EngineConfig",
    "EngineError",
    "Fallback",
    "GPUAllocation",
    "GPUInfo",
    "GPUManager",
    "GPUMonitor",
    "Generation",
    "HealthReport",
    "ServedEngine",
    "UnknownGPU",
    "VLLMConfig",
    "VLLMEngine",
    "create_gpu_monitor",
    "get_gpu_manager",
]
