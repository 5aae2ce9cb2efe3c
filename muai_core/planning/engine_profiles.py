"""Memory profiles of the engines that MuAI knows, also where the engine is not installed. Pure.

What an engine does is from its source, each with the place. How much it holds beside weights and
KV cache cannot be read from any source: those terms are upper ends of public measurements, so that
what is planned fits, and measured starts bring them down. None was fitted to the rows that
docs/memory.md compares the estimate with.
"""

from muai_core.engine_server.memory_line import MEMORY_LINE_PATTERNS
from muai_core.model.device import Platform
from muai_core.planning.log_patterns import VLLM_CPU_LOG_PATTERNS, VLLM_LOG_PATTERNS
from muai_core.plugin.memory import (
    KvCacheLayout,
    MemoryProfile,
    OverheadTerms,
    ParallelismLimits,
    Sharding,
)

_GIB = 1024**3
_MIB = 1024**2

#: A CUDA context with the kernels of torch, cuBLAS and attention takes 0.25 to 0.6 GiB.
_CUDA_RUNTIME_BYTES = 614 * _MIB
#: NCCL channels, the buffers of custom all-reduce and its copies: 0.2 to 1.8 GiB were seen.
_COLLECTIVES_BYTES = 1843 * _MIB
#: Point-to-point channels of NCCL to two neighbours, 16 × 4 MiB each way (NCCL_BUFFSIZE), and the
#: hidden states that are under way.
_SEAM_BYTES = 256 * _MIB

#: vLLM cuts embeddings and output head over the vocabulary, padded to 64 (layers/
#: vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE), pads mxfp4 experts to 128 × 256 (fused_
#: moe/oracle/mxfp4.py, Marlin and TRT-LLM, the largest on CUDA), keeps W_UK and W_UV of a packed
#: kv_b_proj in the activations' format (layers/attention/mla_attention.py), and the sines and
#: cosines of all positions (layers/rotary_embedding/base.py).
_VLLM_SHARDING = Sharding(
    vocabulary_multiple=64,
    mxfp4_multiples=(128, 256),
    unpacks_mla_projection=True,
    keeps_rotary_table=True,
)
_FP8_FORMATS = ("fp8", "fp8_e4m3", "fp8_e5m2")

#: 8192 tokens and 1024 sequences are the defaults of a server on a GPU of 70 GiB and more, 2048 and
#: 256 on others (engine/arg_utils.py, get_batch_defaults): the larger is planned for. In the
#: profile run hidden states are there as input, residual, output of attention and its projection:
#: 4; gate and up of the feed-forward part: 2, and their product: 1. Graphs: 0.1 to 1 GiB were seen.
VLLM_CUDA = MemoryProfile(
    sharding=_VLLM_SHARDING,
    kv_cache=KvCacheLayout(
        block_tokens=16, dtypes=("auto", "bfloat16", "float16", *_FP8_FORMATS, "nvfp4")
    ),
    overhead=OverheadTerms(
        batched_tokens=8192,
        hidden_factor=4.0,
        ffn_factor=3.0,
        logit_tokens=1024,
        runtime_bytes=_CUDA_RUNTIME_BYTES,
        graph_bytes=_GIB,
        tensor_communication_bytes=_COLLECTIVES_BYTES,
        pipeline_communication_bytes=_SEAM_BYTES,
    ),
    float32_becomes="bfloat16",  # config/model.py, _resolve_auto_dtype
    log_patterns=VLLM_LOG_PATTERNS,
)

#: On CPUs: blocks of 128 tokens (platforms/cpu.py), 2048 batched tokens and 128
#: sequences for each rank (engine/arg_utils.py), planned for two ranks; no graphs; workers share
#: memory. Resident, beside weights and a cache of 1 or of 3 GiB (0.32, SmolLM2-135M, eager, two
#: cores): worker 0.84 GiB, engine core 0.64, API server 0.71.
VLLM_CPU = MemoryProfile(
    sharding=_VLLM_SHARDING,
    kv_cache=KvCacheLayout(
        block_tokens=128, dtypes=("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
    ),
    overhead=OverheadTerms(
        batched_tokens=4096,
        hidden_factor=4.0,
        ffn_factor=3.0,
        logit_tokens=256,
        runtime_bytes=2304 * _MIB,
        tensor_communication_bytes=128 * _MIB,
    ),
    float32_becomes="bfloat16",
    log_patterns=VLLM_CPU_LOG_PATTERNS,
)

#: DeepSpeed's AutoTP leaves embeddings and routed experts whole on every rank, cuts the output head
#: along its inputs (LmHeadLinearAllreduce), heads by those of keys and values and inner sizes in
#: multiples of 64 (module_inject/tp_shard.py, get_shard_size; tp_grain_size). Run with 0.19.8: the
#: parameters of 4-layer toys on two ranks are what the estimate says, to the last one
#: (tests/planning/test_deepspeed_shares.py). It unpacks what transformers unpacks. The cache is
#: transformers' DynamicCache: no blocks, no windows. Stages are processes of MuAI's own, so only
#: the layers limit their number.
_DEEPSPEED_SHARDING = Sharding(
    embedding="replicated",
    output_head="hidden",
    experts="replicated",
    inner_multiple=64,
    keeps_packed=False,
)
_DYNAMIC_CACHE = KvCacheLayout(block_tokens=1, trims_sliding_window=False)

DEEPSPEED_CUDA = MemoryProfile(
    sharding=_DEEPSPEED_SHARDING,
    kv_cache=_DYNAMIC_CACHE,
    limits=ParallelismLimits(heads_must_divide=False),
    overhead=OverheadTerms(
        ffn_factor=3.0,
        runtime_bytes=_CUDA_RUNTIME_BYTES,
        tensor_communication_bytes=_COLLECTIVES_BYTES,
        pipeline_communication_bytes=_SEAM_BYTES,
    ),
)

#: A rank on CPUs: interpreter, torch, transformers and DeepSpeed, 1 GiB; shared memory for the
#: collectives, 69 MB per rank (csrc/cpu/comm/shm.cpp).
DEEPSPEED_CPU = MemoryProfile(
    sharding=_DEEPSPEED_SHARDING,
    kv_cache=_DYNAMIC_CACHE,
    limits=ParallelismLimits(heads_must_divide=False),
    overhead=OverheadTerms(
        batched_tokens=2048,
        ffn_factor=3.0,
        logit_tokens=16,
        runtime_bytes=_GIB,
        tensor_communication_bytes=128 * _MIB,
        pipeline_communication_bytes=64 * _MIB,
    ),
)

#: One process on one device; GGUF types become `dtype` (GgufConfig(dequantize=True)).
_TRANSFORMERS_SHARDING = Sharding(
    embedding="replicated", output_head="replicated", keeps_packed=False
)
_ONE_DEVICE = ParallelismLimits(tensor_parallel_max=1, pipeline_parallel_max=1)

TRANSFORMERS_CUDA = MemoryProfile(
    sharding=_TRANSFORMERS_SHARDING,
    kv_cache=_DYNAMIC_CACHE,
    limits=_ONE_DEVICE,
    overhead=OverheadTerms(ffn_factor=3.0, runtime_bytes=_CUDA_RUNTIME_BYTES),
    log_patterns=MEMORY_LINE_PATTERNS,
)

#: The process without a model takes 1 GiB at most: interpreter, torch, transformers.
TRANSFORMERS_CPU = MemoryProfile(
    sharding=_TRANSFORMERS_SHARDING,
    kv_cache=_DYNAMIC_CACHE,
    limits=_ONE_DEVICE,
    overhead=OverheadTerms(
        batched_tokens=2048, ffn_factor=3.0, logit_tokens=16, runtime_bytes=_GIB
    ),
    log_patterns=MEMORY_LINE_PATTERNS,
)

_PROFILES: dict[tuple[str, Platform], MemoryProfile] = {
    ("deepspeed", "cpu"): DEEPSPEED_CPU,
    ("deepspeed", "cuda"): DEEPSPEED_CUDA,
    ("transformers", "cpu"): TRANSFORMERS_CPU,
    ("transformers", "cuda"): TRANSFORMERS_CUDA,
    ("vllm", "cpu"): VLLM_CPU,
    ("vllm", "cuda"): VLLM_CUDA,
}


def engine_profile(engine: str, platform: Platform) -> MemoryProfile | None:
    """How this engine lays a model out on this platform; None: not known."""
    return _PROFILES.get((engine, platform))


def profiled_engines(platform: Platform) -> tuple[str, ...]:
    """The engines whose memory is known on this platform, sorted."""
    return tuple(sorted(name for name, known in _PROFILES if known == platform))
