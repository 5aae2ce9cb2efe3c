"""What every rank of a model needs of its device, for every shape. Pure.

The data flow: files → ModelDescription → `memory_needs` with the engine's MemoryProfile → a
deployment's memory. docs/memory.md has the formulas, and what they were compared with.
"""

from collections.abc import Sequence

from msgspec import Struct

from muai_core.model.architecture import ModelDescription, ModelError
from muai_core.model.memory import MemoryNeeds, Shape, ShardedMemory
from muai_core.planning.activation import rank_activation
from muai_core.planning.estimate_weights import LoadedWeights, loaded_weights
from muai_core.planning.formats import activation_dtype
from muai_core.planning.kv_cache import kv_value_size, rank_kv_cache
from muai_core.planning.shapes import (
    DEVICES_MAX,
    possible_pipeline_parallel_sizes,
    possible_tensor_parallel_sizes,
    refusal,
)
from muai_core.plugin.memory import MemoryProfile


class EstimateRequest(Struct, frozen=True, kw_only=True):
    """What the estimate is for."""

    #: Of weights that are not quantised, and of activations; "auto": what the config says.
    dtype: str = "auto"
    #: "auto": the checkpoint's own format, else `dtype`.
    kv_cache_dtype: str = "auto"
    #: Longest sequence, in tokens; None: what the model is made for.
    context_tokens: int | None = None
    #: Sequences of that length that must fit at once.
    concurrency: int = 1
    #: None: all that are possible, up to DEVICES_MAX devices.
    tensor_parallel_sizes: tuple[int, ...] | None = None
    pipeline_parallel_sizes: tuple[int, ...] | None = None


#: Planned for when neither the request nor the model names a context: what vLLM takes then
#: (config/model.py, _get_and_verify_max_len: no length in the config → 2048).
CONTEXT_TOKENS_UNKNOWN = 2048


def memory_needs(
    model: ModelDescription, profile: MemoryProfile, request: EstimateRequest
) -> MemoryNeeds:
    """Bytes per rank for every shape that is asked for and possible.

    Raises ModelError when none is, when a format is unknown, or when a number is below one.
    """
    return needs_by_context(model, profile, request, (request.context_tokens,))[0]


def needs_by_context(
    model: ModelDescription,
    profile: MemoryProfile,
    request: EstimateRequest,
    contexts: Sequence[int | None],
) -> tuple[MemoryNeeds, ...]:
    """As `memory_needs` for each of these in place of `request.context_tokens`; weights once."""
    architecture = model.architecture
    own = architecture.context_tokens or CONTEXT_TOKENS_UNKNOWN
    lengths = [own if context is None else context for context in contexts]
    if min(*lengths, request.concurrency) < 1:
        raise ModelError("context_tokens and concurrency must be at least 1")
    dtype = computed_dtype(model, profile, request.dtype)
    # The formats are checked before the work.
    kv_value_size(architecture, profile, request.kv_cache_dtype, dtype)
    sizes = _shapes(model, profile, request)
    weights = loaded_weights(model, profile, dtype)
    return tuple(
        MemoryNeeds(
            sharded=tuple(
                _sharded(weights, profile, request, dtype, length, size, stages)
                for size, stages in sizes
            ),
            context_tokens=length,
            concurrency=request.concurrency,
        )
        for length in lengths
    )


def computed_dtype(model: ModelDescription, profile: MemoryProfile, dtype: str) -> str:
    """What the engine makes of `dtype`, "auto" too. Raises ModelError for an unknown one."""
    if dtype != "auto":
        return activation_dtype(dtype)
    if profile.auto_dtype is not None:
        return activation_dtype(profile.auto_dtype)
    own = activation_dtype(model.architecture.dtype)
    if own == "float32" and profile.float32_becomes is not None:
        return profile.float32_becomes
    return own


def _shapes(
    model: ModelDescription, profile: MemoryProfile, request: EstimateRequest
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Tensor-parallel sizes, each with the stage counts that go with it."""
    architecture = model.architecture
    sizes = request.tensor_parallel_sizes
    stages = request.pipeline_parallel_sizes
    # Sizes that were not asked for are bounded; those that were are the caller's own.
    bounded = sizes is None or stages is None
    if sizes is None:
        sizes = possible_tensor_parallel_sizes(architecture, profile)
    if stages is None:
        stages = possible_pipeline_parallel_sizes(architecture, profile)
    found: list[tuple[int, tuple[int, ...]]] = []
    first_refusal = "no parallel size is asked for"
    for size in sorted(set(sizes)):
        allowed = []
        for count in sorted(set(stages)):
            reason = refusal(architecture, profile, Shape(size, count))
            if reason is not None:
                first_refusal = reason
            elif not bounded or size * count <= DEVICES_MAX or count == 1 or size == 1:
                allowed.append(count)
        if allowed:
            found.append((size, tuple(allowed)))
    if not found:
        raise ModelError(first_refusal)
    return tuple(found)


def _sharded(
    weights: LoadedWeights,
    profile: MemoryProfile,
    request: EstimateRequest,
    dtype: str,
    context_tokens: int,
    ranks: int,
    stages: tuple[int, ...],
) -> ShardedMemory:
    architecture, overhead = weights.architecture, profile.overhead
    held = weights.on_rank(ranks)
    cache = rank_kv_cache(
        architecture,
        profile,
        request.kv_cache_dtype,
        dtype,
        ranks,
        context_tokens,
        request.concurrency,
    )
    activation = rank_activation(architecture, overhead, dtype, ranks)
    communication = overhead.tensor_communication_bytes if ranks > 1 else 0
    # An engine that takes a cache of a fixed size takes it in every stage.
    fixed = profile.kv_cache_bytes or 0
    layers = cache.layers if profile.kv_cache_bytes is None else (0,) * len(cache.layers)
    return ShardedMemory(
        tensor_parallel_size=ranks,
        pipeline_parallel_sizes=stages,
        layer_weights_bytes=held.layers,
        first_stage_weights_bytes=held.first,
        last_stage_weights_bytes=held.last,
        tied_weights_bytes=held.tied,
        layer_kv_cache_bytes=layers,
        layer_kv_bytes_per_token=cache.per_token,
        activation_bytes=activation.any_stage,
        last_stage_activation_bytes=activation.last_stage,
        overhead_bytes=overhead.runtime_bytes + overhead.graph_bytes + communication + fixed,
        fixed_kv_cache_bytes=fixed,
        pipeline_overhead_bytes=overhead.pipeline_communication_bytes,
    )
