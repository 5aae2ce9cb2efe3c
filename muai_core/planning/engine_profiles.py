"""Memory profiles of the engines that MuAI knows, also where the engine is not installed. Pure."""

from muai_core.model.device import Platform
from muai_core.plugin.memory import (
    KvCacheLayout,
    MemoryProfile,
    OverheadTerms,
    ParallelismLimits,
    Sharding,
)

_GIB = 1024**3
_MIB = 1024**2

VLLM_CUDA = MemoryProfile(
    sharding=Sharding(vocabulary_multiple=64),
    kv_cache=KvCacheLayout(
        block_tokens=16, dtypes=("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
    ),
    overhead=OverheadTerms(
        batched_tokens=8192,
        logit_tokens=1024,
        runtime_bytes=600 * _MIB,
        graph_bytes=_GIB,
        tensor_communication_bytes=_GIB,
        pipeline_communication_bytes=512 * _MIB,
    ),
)

DEEPSPEED_CUDA = MemoryProfile(
    sharding=Sharding(
        embedding="replicated", output_head="replicated", experts="replicated", keeps_packed=False
    ),
    kv_cache=KvCacheLayout(block_tokens=1),
    limits=ParallelismLimits(heads_must_divide=False),
    overhead=OverheadTerms(runtime_bytes=600 * _MIB, tensor_communication_bytes=_GIB),
)

TRANSFORMERS_CUDA = MemoryProfile(
    sharding=Sharding(embedding="replicated", output_head="replicated", keeps_packed=False),
    kv_cache=KvCacheLayout(block_tokens=1),
    limits=ParallelismLimits(tensor_parallel_max=1, pipeline_parallel_max=1),
    overhead=OverheadTerms(runtime_bytes=600 * _MIB),
)

_PROFILES: dict[tuple[str, Platform], MemoryProfile] = {
    ("vllm", "cuda"): VLLM_CUDA,
    ("deepspeed", "cuda"): DEEPSPEED_CUDA,
    ("transformers", "cuda"): TRANSFORMERS_CUDA,
}


def engine_profile(engine: str, platform: Platform) -> MemoryProfile | None:
    """How this engine lays a model out on this platform; None: not known."""
    return _PROFILES.get((engine, platform))


def profiled_engines(platform: Platform) -> tuple[str, ...]:
    """The engines whose memory is known on this platform, sorted."""
    return tuple(sorted(name for name, known in _PROFILES if known == platform))
