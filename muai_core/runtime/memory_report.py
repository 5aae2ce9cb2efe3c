"""The memory estimate of one model as data: a pure view, the stable JSON of `muai memory`."""

from collections import Counter
from typing import Any, Literal

from msgspec import Struct

from muai_core.model.architecture import Architecture, ModelDescription, Quantization
from muai_core.model.device import Platform
from muai_core.model.memory import MemoryNeeds, RankMemory, Shape, even_partition, stage_layers
from muai_core.planning.estimate import (
    CONTEXT_TOKENS_UNKNOWN,
    EstimateRequest,
    computed_dtype,
    needs_by_context,
)
from muai_core.planning.estimate_weights import loaded_bytes
from muai_core.planning.roles import role_of
from muai_core.planning.shapes import possible_tensor_parallel_sizes, refusal
from muai_core.planning.wording import gib
from muai_core.plugin.memory import MemoryProfile

View = dict[str, Any]

#: Larger shapes are refused: a list of their ranks would say nothing to anyone.
DEVICES_MAX = 4096

#: What is shown when nothing is asked for: every possible tensor-parallel size up to the largest of
#: these, and what is in the way of these; so many stages; so many tokens, below the model's own.
_TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
_PIPELINE_PARALLEL_SIZES = (1, 2, 4)
_CONTEXTS = (4096, 32768)

#: What weights are known from, in words.
_ORIGINS = {
    "safetensors": "from the safetensors headers, each tensor with its own format",
    "gguf": "from the GGUF header, each tensor with its own format",
    "config": "worked out from config.json, no weights at hand",
}


class Card(Struct, frozen=True):
    """A GPU that the ranks may fit on."""

    name: str
    #: What applications can have when nobody else is there.
    usable_bytes: int


class MemoryQuestion(Struct, frozen=True, kw_only=True):
    """What `muai memory` is asked."""

    #: The model as the user named it.
    source: str
    model: ModelDescription
    engine: str
    #: Who says how the engine lays models out: its plugin, or what MuAI knows of it.
    profile_origin: Literal["plugin", "built-in"]
    profile: MemoryProfile
    platform: Platform
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    concurrency: int = 1
    #: None: those that are usual.
    tensor_parallel_sizes: tuple[int, ...] | None = None
    pipeline_parallel_sizes: tuple[int, ...] | None = None
    max_model_lens: tuple[int, ...] | None = None
    card: Card | None = None
    #: What measured starts changed in the profile, one line each.
    calibration: tuple[str, ...] = ()


class ShapeRefused(Exception):
    """None of the shapes that were asked for is possible; one line says what is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        #: The name of the size in `models.<name>`.
        self.field = field


def memory_view(question: MemoryQuestion) -> View:
    """The estimate for every shape and context that was asked for; keys as in docs/cli.md.

    `ranks` is there when one shape was asked for. Raises ShapeRefused when no shape is possible,
    ModelError when the engine does not offer a format.
    """
    shapes = _shapes(question)
    refusals = {shape: _refusal(question, shape) for shape in shapes}
    possible = [shape for shape, reason in refusals.items() if reason is None]
    if not possible:
        raise ShapeRefused(*next(reason for reason in refusals.values() if reason is not None))
    by_context = _needs(question, possible)
    reference = by_context[max(by_context)]
    whole = reference.at(1)
    views = [
        _possible_view(question, shape, by_context)
        if reason is None
        else _impossible_view(shape, reason)
        for shape, reason in refusals.items()
    ]
    view = {
        "source": question.source,
        "engine": question.engine,
        "platform": question.platform,
        "model": {
            **_model_view(question.model),
            "kv_bytes_per_token": whole.kv_bytes_per_token(range(whole.layer_count)),
        },
        "dtype": computed_dtype(question.model, question.profile, question.dtype),
        "kv_cache_dtype": question.kv_cache_dtype,
        "concurrency": question.concurrency,
        "max_model_len": reference.context_tokens,
        "card": None
        if question.card is None
        else {"name": question.card.name, "usable_bytes": question.card.usable_bytes},
        "terms": _terms(question),
        "shapes": views,
    }
    if len(shapes) == 1:
        view["ranks"] = views[0]["ranks"]
    return view


def _shapes(question: MemoryQuestion) -> list[Shape]:
    """Those that were asked for, fewest devices first."""
    tensor = question.tensor_parallel_sizes
    if tensor is None:
        architecture, most = question.model.architecture, _TENSOR_PARALLEL_SIZES[-1]
        possible = possible_tensor_parallel_sizes(architecture, question.profile)
        tensor = (*_TENSOR_PARALLEL_SIZES, *(size for size in possible if size <= most))
    stages = question.pipeline_parallel_sizes or _PIPELINE_PARALLEL_SIZES
    found = {Shape(size, count) for size in tensor for count in stages}
    return sorted(found, key=lambda shape: (shape.pipeline_parallel_size, shape))


def _refusal(question: MemoryQuestion, shape: Shape) -> tuple[str, str] | None:
    """The size that is impossible and why; None: the shape is possible."""
    architecture, profile = question.model.architecture, question.profile
    size = shape.tensor_parallel_size
    if shape.device_count > DEVICES_MAX:
        message = f"{shape} has {shape.device_count} devices; {DEVICES_MAX} are possible at most"
        return "tensor_parallel_size", message
    for field, tried in (
        ("tensor_parallel_size", Shape(size, 1)),
        ("pipeline_parallel_size", shape),
    ):
        why_not = refusal(architecture, profile, tried)
        if why_not is not None:
            return field, why_not
    return None


def _needs(question: MemoryQuestion, possible: list[Shape]) -> dict[int, MemoryNeeds]:
    """Context length → what the possible shapes need for it, ascending; TP 1 is always there."""
    lengths = question.max_model_lens
    if lengths is None:
        own = question.model.architecture.context_tokens or CONTEXT_TOKENS_UNKNOWN
        lengths = (*(length for length in _CONTEXTS if length < own), own)
    request = EstimateRequest(
        dtype=question.dtype,
        kv_cache_dtype=question.kv_cache_dtype,
        concurrency=question.concurrency,
        tensor_parallel_sizes=(1, *(shape.tensor_parallel_size for shape in possible)),
        pipeline_parallel_sizes=(1, *(shape.pipeline_parallel_size for shape in possible)),
    )
    found = needs_by_context(question.model, question.profile, request, sorted(frozenset(lengths)))
    return {needs.context_tokens: needs for needs in found}


def _possible_view(
    question: MemoryQuestion, shape: Shape, by_context: dict[int, MemoryNeeds]
) -> View:
    layer_count = question.model.architecture.layer_count
    partition = even_partition(layer_count, shape.pipeline_parallel_size)
    longest = by_context[max(by_context)]
    return {
        **_sizes(shape),
        "possible": True,
        "reason": None,
        "layers": list(partition),
        "ranks": _ranks_view(longest, shape, partition),
        "contexts": [
            _context_view(length, needs.ranks(shape, partition), shape, question.card)
            for length, needs in by_context.items()
        ],
    }


def _impossible_view(shape: Shape, reason: tuple[str, str]) -> View:
    return {
        **_sizes(shape),
        "possible": False,
        "reason": f"{reason[0]} {reason[1]}",
        "layers": [],
        "ranks": [],
        "contexts": [],
    }


def _sizes(shape: Shape) -> View:
    return {
        "tensor_parallel_size": shape.tensor_parallel_size,
        "pipeline_parallel_size": shape.pipeline_parallel_size,
    }


def _ranks_view(needs: MemoryNeeds, shape: Shape, partition: tuple[int, ...]) -> list[View]:
    """One entry per rank, in rank order: rank = stage × TP + place within the stage."""
    sharded = needs.at(shape.tensor_parallel_size)
    found: list[View] = []
    for stage, layers in enumerate(stage_layers(partition)):
        rank = {
            **_parts(sharded.rank(layers)),
            "kv_bytes_per_token": sharded.kv_bytes_per_token(layers),
            "layers": [layers.start, layers.stop],
        }
        for place in range(shape.tensor_parallel_size):
            found.append(
                {"rank": len(found), "stage": stage, "tensor_parallel_rank": place, **rank}
            )
    return found


def _context_view(
    length: int, stages: tuple[RankMemory, ...], shape: Shape, card: Card | None
) -> View:
    """The largest rank by kind, and all ranks together."""
    largest = max(stages, key=lambda rank: rank.total_bytes)
    return {
        "max_model_len": length,
        "largest_rank": _parts(largest),
        "all_ranks_bytes": shape.tensor_parallel_size * sum(rank.total_bytes for rank in stages),
        "fits": None if card is None else largest.total_bytes <= card.usable_bytes,
    }


def _parts(rank: RankMemory) -> View:
    return {
        "weights_bytes": rank.weights_bytes,
        "kv_cache_bytes": rank.kv_cache_bytes,
        "activation_bytes": rank.activation_bytes,
        "overhead_bytes": rank.overhead_bytes,
        "total_bytes": rank.total_bytes,
    }


def _terms(question: MemoryQuestion) -> View:
    """What each kind of bytes is worked out from, and which are estimates, one line each."""
    profile, engine = question.profile, question.engine
    overhead = profile.overhead
    origin = f"estimated: constants of engine {engine} on {question.platform}"
    origin += ", from its plugin" if question.profile_origin == "plugin" else ", built into MuAI"
    if question.calibration:
        origin += "; corrected by measured starts: " + "; ".join(question.calibration)
    return {
        "weights": f"{_ORIGINS[question.model.origin]}; cut as engine {engine} does",
        "kv_cache": _kv_cache_term(question),
        "activation": f"{origin}; for {overhead.batched_tokens} tokens in one pass",
        "overhead": (
            f"{origin}; runtime {gib(overhead.runtime_bytes)}, graphs {gib(overhead.graph_bytes)}, "
            f"communication {gib(overhead.tensor_communication_bytes)} within a stage and "
            f"{gib(overhead.pipeline_communication_bytes)} between stages"
        ),
    }


def _kv_cache_term(question: MemoryQuestion) -> str:
    profile = question.profile
    if profile.kv_cache_bytes is not None:
        fixed = gib(profile.kv_cache_bytes)
        return (
            f"engine {question.engine} takes {fixed}, whatever the context; bytes per token exact"
        )
    block_tokens = profile.kv_cache.block_tokens
    term = "exact" if block_tokens == 1 else f"exact, in blocks of {block_tokens} tokens"
    if len(frozenset(question.model.architecture.layer_kinds)) > 1:
        term += "; engines may pad where layers of several kinds share blocks"
    return term


def _model_view(model: ModelDescription) -> View:
    architecture = model.architecture
    return {
        "model_type": architecture.model_type,
        "class_names": list(architecture.class_names),
        "origin": model.origin,
        "parameters": parameter_count(model),
        "tensors": len(model.tensors),
        "stored_bytes": model.stored_bytes,
        "stored_dtypes": _stored_dtypes(model),
        "dtype": architecture.dtype,
        "quantization": _quantization_view(architecture.quantization),
        "layers": architecture.layer_count,
        "layer_kinds": dict(Counter(architecture.layer_kinds)),
        "attention": attention_kind(architecture),
        "attention_heads": architecture.attention_heads,
        "kv_heads": architecture.kv_heads,
        "sliding_window": architecture.sliding_window,
        "hidden_size": architecture.hidden_size,
        "vocabulary_size": architecture.vocabulary_size,
        "tied_embeddings": architecture.tied_embeddings,
        "experts": architecture.experts,
        "experts_per_token": architecture.experts_per_token,
        "context_tokens": architecture.context_tokens,
        "multimodal": architecture.multimodal,
    }


def parameter_count(model: ModelDescription) -> int:
    """Weights of the model: packed ones counted one by one, scales and buffers not at all."""
    layer_count, quantization = model.architecture.layer_count, model.architecture.quantization
    found = 0
    for tensor in model.tensors:
        role = role_of(tensor.name, layer_count)
        if role.kind != "buffer":
            # Unpacked to float32, where every weight takes four bytes.
            found += loaded_bytes(tensor, role, quantization, False, "float32") // 4
    return found


def _stored_dtypes(model: ModelDescription) -> View:
    """Format → bytes stored in it, most first."""
    found: Counter[str] = Counter()
    for tensor in model.tensors:
        found[tensor.dtype] += tensor.size_bytes
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _quantization_view(quantization: Quantization | None) -> View | None:
    if quantization is None:
        return None
    return {
        "method": quantization.method,
        "bits": quantization.bits,
        "group_size": quantization.group_size,
    }


def attention_kind(architecture: Architecture) -> str | None:
    """MLA, MHA, MQA or GQA; None: no layer has keys and values."""
    kinds = architecture.layer_kinds
    if "mla" in kinds:
        return "MLA"
    if "full" not in kinds and "sliding" not in kinds:
        return None
    if architecture.kv_heads == architecture.attention_heads:
        return "MHA"
    return "MQA" if architecture.kv_heads == 1 else "GQA"
