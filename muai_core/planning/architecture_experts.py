"""A mixture of experts, from the many ways in which configs say it. Pure."""

from msgspec import Struct

from muai_core.model.architecture import ModelError
from muai_core.planning.architecture_values import (
    MAX_EXPERTS,
    MAX_FEED_FORWARD,
    MAX_LAYERS,
    ConfigValues,
)

#: In all layers together: five times as many as the largest model known, and no table gets large.
MAX_EXPERTS_IN_ALL = 2**17

_COUNT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_routed_experts",
    "moe_num_experts",
)
_PER_TOKEN_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
_SIZE_KEYS = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size")
_SHARED_COUNT_KEYS = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
)


class Experts(Struct, frozen=True, kw_only=True):
    count: int = 0
    per_token: int = 0
    intermediate_size: int = 0
    shared_intermediate_size: int = 0
    layers: tuple[int, ...] = ()


def experts_of(values: ConfigValues, model_type: str, layer_count: int, dense_size: int) -> Experts:
    """`dense_size` is the `intermediate_size` of the config, 0 when it has none.

    Raises ModelError when the config contradicts itself.
    """
    inside = values.section("ffn_config") if model_type == "dbrx" else None
    values = inside or values
    count = values.largest(*_COUNT_KEYS, least=0, most=MAX_EXPERTS) or 0
    if count < 2 or values.flag("enable_moe_block") is False:
        return Experts()
    layers = _layers(values, model_type, layer_count)
    if not layers:
        return Experts()
    if count * len(layers) > MAX_EXPERTS_IN_ALL:
        raise ModelError(
            f"{values.where}{values.find(*_COUNT_KEYS)[0]} is {count:,} in {len(layers):,} layers: "
            f"allowed are {MAX_EXPERTS_IN_ALL:,} experts in all"
        )
    own = values.largest(*_SIZE_KEYS, most=MAX_FEED_FORWARD)
    if own is None and inside is not None:
        own = inside.required("ffn_hidden_size", most=MAX_FEED_FORWARD)
    size = own or dense_size
    if not size:
        raise ModelError(
            f"{values.where}{_SIZE_KEYS[0]} is missing: needed with {count:,} experts is a whole "
            f"number from 1 to {MAX_FEED_FORWARD:,}"
        )
    # DeepSeek V2's class has no number of its own; at least one expert sees a token.
    per_token = values.largest(*_PER_TOKEN_KEYS, most=count) or 1
    return Experts(
        count=count,
        per_token=per_token,
        intermediate_size=size,
        shared_intermediate_size=_shared_size(values, model_type, size),
        layers=layers,
    )


def _shared_size(values: ConfigValues, model_type: str, size: int) -> int:
    if model_type.startswith("llama4"):
        return size
    whole = values.whole(
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        least=0,
        most=MAX_FEED_FORWARD,
    )
    if whole is not None:
        return whole
    shared = values.largest(*_SHARED_COUNT_KEYS, least=0, most=MAX_EXPERTS) or 0
    each = values.whole("moe_shared_expert_intermediate_size", most=MAX_FEED_FORWARD) or size
    return shared * each


def _layers(values: ConfigValues, model_type: str, count: int) -> tuple[int, ...]:
    listed = _listed(values, count)
    if listed is not None:
        return listed
    if model_type == "jamba":
        period = values.required("expert_layer_period", most=MAX_LAYERS)
        offset = values.required("expert_layer_offset", least=0, most=MAX_LAYERS)
        return tuple(layer for layer in range(count) if layer % period == offset)
    if model_type.startswith("llama4"):
        step = values.whole("interleave_moe_layer_step", most=MAX_LAYERS) or 1
        return tuple(range(step - 1, count, step))
    if values.find("moe_layer_start_index")[1] is not None:
        return _from_to(values, count)
    dense = frozenset(values.wholes("mlp_only_layers", most=MAX_LAYERS) or ())
    first = values.whole("first_k_dense_replace", "num_dense_layers", least=0, most=MAX_LAYERS) or 0
    every = values.whole("moe_layer_freq", most=MAX_LAYERS) or 1
    step = values.whole("decoder_sparse_step", most=MAX_LAYERS) or 1
    return tuple(
        layer
        for layer in range(first, count)
        if layer % every == 0 and (layer + 1) % step == 0 and layer not in dense
    )


def _listed(values: ConfigValues, count: int) -> tuple[int, ...] | None:
    words = values.words("mlp_layer_types")
    if words is not None:
        return tuple(layer for layer, word in enumerate(words[:count]) if word == "sparse")
    kinds = values.words("layer_types", "layers_block_type") or ()
    if "moe" in kinds:
        return tuple(layer for layer, word in enumerate(kinds[:count]) if word == "moe")
    pattern = values.find("hybrid_override_pattern")[1]
    if isinstance(pattern, str):
        return tuple(layer for layer, letter in enumerate(pattern[:count]) if letter == "E")
    layers = values.wholes("moe_layers", most=MAX_LAYERS)
    if layers is not None:
        return tuple(sorted({layer for layer in layers if layer < count}))
    if isinstance(values.find("moe_layer_freq")[1], list | tuple):
        flags = values.wholes("moe_layer_freq", most=1) or ()
        return tuple(layer for layer, flag in enumerate(flags[:count]) if flag)
    return None


def _from_to(values: ConfigValues, count: int) -> tuple[int, ...]:
    """ERNIE 4.5: from one layer to another, every so many."""
    start = values.largest("moe_layer_start_index", least=0, most=MAX_LAYERS) or 0
    end = values.largest("moe_layer_end_index", least=-1, most=MAX_LAYERS)
    last = count - 1 if end is None or end < 0 else min(end, count - 1)
    every = values.whole("moe_layer_interval", most=MAX_LAYERS) or 1
    return tuple(layer for layer in range(start, last + 1) if (layer + 1) % every == 0)
