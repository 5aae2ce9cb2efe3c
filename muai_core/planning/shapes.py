"""Which tensor- and pipeline-parallel sizes a model and an engine allow, and why not. Pure."""

from collections.abc import Iterator

from muai_core.model.architecture import Architecture
from muai_core.model.memory import Shape
from muai_core.planning.formats import ceil_div
from muai_core.planning.shard_alignment import alignment_refusals
from muai_core.plugin.memory import MemoryProfile

#: Larger replicas are planned only when a size is asked for by name.
DEVICES_MAX = 64


def refusal(architecture: Architecture, profile: MemoryProfile, shape: Shape) -> str | None:
    """Why the shape is impossible, with the sizes that are possible; None: it is possible."""
    size, stages = shape.tensor_parallel_size, shape.pipeline_parallel_size
    reason = _tensor_refusal(architecture, profile, size)
    if reason is not None:
        possible = possible_tensor_parallel_sizes(architecture, profile)
        return f"{size} is not possible: {reason}: {_listed(possible)}"
    reason = _pipeline_refusal(architecture, profile, stages)
    if reason is not None:
        most = possible_pipeline_parallel_sizes(architecture, profile)[-1]
        return f"{stages} is not possible: {reason}; at most {most}"
    return None


def possible_tensor_parallel_sizes(
    architecture: Architecture, profile: MemoryProfile
) -> tuple[int, ...]:
    """Ascending, up to DEVICES_MAX; never empty."""
    return tuple(
        size
        for size in range(1, DEVICES_MAX + 1)
        if size == 1 or _tensor_refusal(architecture, profile, size) is None
    )


def possible_pipeline_parallel_sizes(
    architecture: Architecture, profile: MemoryProfile
) -> tuple[int, ...]:
    """Ascending, up to DEVICES_MAX; never empty."""
    most = min(architecture.layer_count, DEVICES_MAX)
    limit = profile.limits.pipeline_parallel_max
    return tuple(range(1, max(1, most if limit is None else min(most, limit)) + 1))


def possible_shapes(architecture: Architecture, profile: MemoryProfile) -> tuple[Shape, ...]:
    """All shapes of up to DEVICES_MAX devices, the fewest devices first."""
    found = [
        Shape(size, stages)
        for size in possible_tensor_parallel_sizes(architecture, profile)
        for stages in possible_pipeline_parallel_sizes(architecture, profile)
        if size * stages <= DEVICES_MAX
    ]
    return tuple(sorted(found, key=lambda shape: (shape.device_count, shape)))


def _tensor_refusal(architecture: Architecture, profile: MemoryProfile, size: int) -> str | None:
    """The reason in words that a list of sizes can follow."""
    if size < 1:
        return "it must be at least 1; possible"
    if size == 1:
        return None
    limit = profile.limits.tensor_parallel_max
    if limit is not None and size > limit:
        return f"the engine takes at most {limit}; possible"
    for reason in _reasons(architecture, profile, size):
        return reason
    return None


def _reasons(architecture: Architecture, profile: MemoryProfile, size: int) -> Iterator[str]:
    heads, kv_heads = architecture.attention_heads, architecture.kv_heads
    if profile.limits.heads_must_divide:
        if heads % size:
            yield f"the model has {heads} attention heads; sizes that divide them"
        if kv_heads % size and size % kv_heads:
            yield (
                f"the model has {kv_heads} KV heads; "
                "sizes that divide them or are a multiple of them"
            )
    sharding = profile.sharding
    if "vocabulary" in (sharding.embedding, sharding.output_head):
        multiple = sharding.vocabulary_multiple
        padded = ceil_div(architecture.vocabulary_size, multiple) * multiple
        if padded % size:
            yield f"the vocabulary is {padded} tokens after padding; sizes that divide it"
    yield from alignment_refusals(architecture, profile, size)


def _pipeline_refusal(
    architecture: Architecture, profile: MemoryProfile, stages: int
) -> str | None:
    if stages < 1:
        return "it must be at least 1"
    limit = profile.limits.pipeline_parallel_max
    if limit is not None and stages > limit:
        return f"the engine takes no more than {limit} stage{'s' if limit > 1 else ''}"
    if stages > architecture.layer_count:
        return f"the model has {architecture.layer_count} layers"
    return None


def _listed(sizes: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in sizes)
