"""What each layer remembers, from the many ways in which configs say it. Pure.

The rules for missing keys are those of transformers' config classes (`configuration_*.py`).
"""

from collections.abc import Callable

from msgspec import Struct

from muai_core.model.architecture import LayerKind, ModelError
from muai_core.planning.architecture_values import MAX_LAYERS, MAX_TOKENS, ConfigValues

#: Words of `layer_types` and `layers_block_type`.
_KIND_OF_WORD: dict[str, LayerKind] = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "hybrid": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "local": "sliding",
    "indexed_attention": "full",
    "linear_attention": "linear",
    "mamba": "linear",
    "mamba2": "linear",
    "conv": "linear",
    "recurrent": "linear",
    "mlp": "none",
    "moe": "none",
}
#: Letters of `hybrid_override_pattern` (Nemotron-H).
_KIND_OF_LETTER: dict[str, LayerKind] = {"M": "linear", "*": "full", "-": "none", "E": "none"}

#: Every n-th layer looks at everything, the others slide.
_FULL_EVERY = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "gemma4_text": 6,
    "gpt_oss": 2,
    "olmo3": 4,
}
_WINDOW_FROM_LAYER = frozenset({"dots1", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"})
_ALL_LINEAR = frozenset({"falcon_mamba", "mamba", "mamba2"})
#: Attention and a state side by side in each attention layer.
_STATE_BESIDE_ATTENTION = frozenset({"falcon_h1", "zamba2"})
#: Multi-head latent attention by its keys, but engines keep the keys and values of all heads.
_NOT_LATENT = frozenset({"minicpm3"})
_MAX_PATTERN_LETTERS = MAX_LAYERS


class Layers(Struct, frozen=True):
    kinds: tuple[LayerKind, ...]
    sliding_window: int | None
    kv_shared: tuple[int, ...]
    state_beside_attention: bool


def layers_of(
    values: ConfigValues, model_type: str, count: int, context_tokens: int | None
) -> Layers:
    """Raises ModelError when the config contradicts itself or names an unknown kind of layer."""
    window = _window(values, model_type)
    kinds = _kinds(values, model_type, count, window)
    if "sliding" in kinds and window is None:
        raise ModelError(
            f"{values.where}sliding_window is missing: there are layers that slide; "
            f"needed is a whole number from 1 to {MAX_TOKENS:,}"
        )
    if window is not None and context_tokens is not None and window >= context_tokens:
        kinds, window = _replaced(kinds, "sliding", "full"), None
    if "sliding" not in kinds:
        window = None
    if is_latent(values, model_type):
        kinds = _replaced(kinds, "full", "mla")
    beside = model_type in _STATE_BESIDE_ATTENTION and "full" in kinds
    return Layers(kinds, window, _kv_shared(values, count), beside)


def is_latent(values: ConfigValues, model_type: str) -> bool:
    """Whether attention is multi-head latent attention (MLA)."""
    return values.find("kv_lora_rank")[1] is not None and model_type not in _NOT_LATENT


def _window(values: ConfigValues, model_type: str) -> int | None:
    if values.flag("use_sliding_window") is False:
        return None
    keys: tuple[str, ...] = ("sliding_window", "attention_window_size", "sliding_window_size")
    if model_type.startswith("llama4"):
        keys = ("attention_chunk_size",)
    # Configs write 0 for no window.
    return values.whole(*keys, least=0, most=MAX_TOKENS) or None


def _kinds(
    values: ConfigValues, model_type: str, count: int, window: int | None
) -> tuple[LayerKind, ...]:
    listed = _listed(values, count)
    if listed is not None:
        # A config without a window may still list layers that would slide.
        return listed if window is not None else _without_window(values, listed)
    every: LayerKind
    if model_type in _ALL_LINEAR:
        every = "linear"
        return (every,) * count
    rule = _hybrid_rule(values, model_type) or _sliding_rule(values, model_type, window)
    if rule is None:
        every = "sliding" if window is not None else "full"
        return (every,) * count
    return tuple(rule(layer) for layer in range(count))


def _without_window(values: ConfigValues, kinds: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    if values.flag("use_sliding_window") is False:
        return _replaced(kinds, "sliding", "full")
    return kinds


def _listed(values: ConfigValues, count: int) -> tuple[LayerKind, ...] | None:
    """One entry per layer, in one of the ways of writing it."""
    words = values.words("layer_types", "layers_block_type")
    if words is not None:
        _check_length(values, "layer_types", len(words), count)
        unknown = [word for word in words if word not in _KIND_OF_WORD]
        if unknown:
            raise values.error("layer_types", unknown[0], ", ".join(_KIND_OF_WORD))
        return tuple(_KIND_OF_WORD[word] for word in words[:count])
    pattern = values.find("hybrid_override_pattern")[1]
    if pattern is not None:
        known = isinstance(pattern, str) and set(pattern[:_MAX_PATTERN_LETTERS]) <= {
            *_KIND_OF_LETTER
        }
        if not known:
            letters = " ".join(_KIND_OF_LETTER)
            raise values.error("hybrid_override_pattern", pattern, f"a text of the signs {letters}")
        _check_length(values, "hybrid_override_pattern", len(pattern), count)
        return tuple(_KIND_OF_LETTER[letter] for letter in pattern[:count])
    numbers = values.wholes("attn_type_list", most=1)
    if numbers is not None:
        _check_length(values, "attn_type_list", len(numbers), count)
        return tuple("full" if number else "linear" for number in numbers[:count])
    return None


def _check_length(values: ConfigValues, name: str, length: int, count: int) -> None:
    if length < count:
        raise ModelError(
            f"{values.where}{name} has {length:,} entries: needed is one for each of {count:,} "
            "layers"
        )


def _hybrid_rule(values: ConfigValues, model_type: str) -> Callable[[int], LayerKind] | None:
    """Which layers attend, in families where the others keep a state."""

    def among(layers: tuple[int, ...]) -> Callable[[int], LayerKind]:
        found = frozenset(layers)
        return lambda layer: "full" if layer in found else "linear"

    if model_type.startswith(("qwen3_next", "qwen3_5")):
        every = values.whole("full_attention_interval", most=MAX_LAYERS) or 4
        return lambda layer: "linear" if (layer + 1) % every else "full"
    if model_type == "jamba":
        period = values.required("attn_layer_period", most=MAX_LAYERS)
        offset = values.required("attn_layer_offset", least=0, most=MAX_LAYERS)
        return lambda layer: "full" if layer % period == offset else "linear"
    if model_type == "recurrent_gemma":
        blocks = values.words("block_types", "_block_types") or ("recurrent", "recurrent", "local")
        return lambda layer: "linear" if blocks[layer % len(blocks)] == "recurrent" else "sliding"
    attending = values.wholes("attn_layer_indices", "full_attn_idxs", most=MAX_LAYERS)
    if attending is None and model_type == "zamba2":
        attending = values.wholes("hybrid_layer_ids", most=MAX_LAYERS)
    linear = values.section("linear_attn_config")
    if attending is None and linear is not None:
        counted_from_1 = linear.wholes("full_attn_layers", least=1, most=MAX_LAYERS) or ()
        attending = tuple(layer - 1 for layer in counted_from_1)
    if attending is not None:
        return among(attending)
    if model_type in ("bamba", "granitemoehybrid"):
        return lambda _: "linear"
    return None


def _sliding_rule(
    values: ConfigValues, model_type: str, window: int | None
) -> Callable[[int], LayerKind] | None:
    """Which layers slide, in families where not all do."""
    if model_type == "smollm3":
        return lambda _: "full"  # it slides only where positions are encoded; full is no less
    if window is None:
        return None
    if model_type.startswith("llama4"):
        encoded = values.wholes("no_rope_layers", most=1)
        every = values.whole("no_rope_layer_interval", most=MAX_LAYERS) or 4

        def chunked(layer: int) -> bool:
            if encoded and layer < len(encoded):
                return bool(encoded[layer])
            return bool((layer + 1) % every)

        return lambda layer: "sliding" if chunked(layer) else "full"
    if model_type in _WINDOW_FROM_LAYER:
        first = values.whole("max_window_layers", least=0, most=MAX_LAYERS) or 0
        return lambda layer: "sliding" if layer >= first else "full"
    keys = ("sliding_window_pattern", "_sliding_window_pattern")
    name, pattern = values.find(*keys)
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        letters = pattern[:_MAX_PATTERN_LETTERS]
        return lambda layer: "sliding" if letters[layer % len(letters)] == "L" else "full"
    if isinstance(pattern, str):
        raise values.error(name, pattern, "a whole number, or a text of the letters L and G")
    every = values.whole(*keys, most=MAX_LAYERS) or _FULL_EVERY.get(model_type, 0)
    if not every:
        return None
    return lambda layer: "sliding" if (layer + 1) % every else "full"


def _kv_shared(values: ConfigValues, count: int) -> tuple[int, ...]:
    """The last layers (Gemma 3n), or all but one of each group (cross-layer attention)."""
    last = values.whole("num_kv_shared_layers", least=0, most=count) or 0
    if last:
        return tuple(range(count - last, count))
    group = values.whole("cla_share_factor", most=MAX_LAYERS) or 1
    if values.flag("use_cla") and group > 1:
        return tuple(layer for layer in range(count) if layer % group)
    return ()


def _replaced(
    kinds: tuple[LayerKind, ...], old: LayerKind, new: LayerKind
) -> tuple[LayerKind, ...]:
    return tuple(new if kind == old else kind for kind in kinds)
