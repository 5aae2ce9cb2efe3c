"""From the metadata of a GGUF file to the one set of words for all families. Pure.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp, gguf-py constants.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from muai_core.model.architecture import (
    Architecture,
    LayerKind,
    ModelError,
    Quantization,
    TensorInfo,
)
from muai_core.planning.architecture_experts import MAX_EXPERTS_IN_ALL
from muai_core.planning.architecture_values import (
    MAX_EXPERTS,
    MAX_FEED_FORWARD,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_SIZE,
    MAX_TOKENS,
    MAX_VOCABULARY,
    ConfigValues,
)
from muai_core.planning.architecture_weights import stored_dtype
from muai_core.planning.gguf_names import has_attention, has_experts, has_state

#: Every n-th layer looks at everything, the others slide, where the file does not say it by layer.
_FULL_EVERY = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
}
_NO_DECODERS = frozenset(
    {"bert", "clip", "jina-bert-v2", "modern-bert", "nomic-bert", "nomic-bert-moe", "t5"}
    | {"t5encoder", "wavtokenizer-dec"}
)
_NOT_LATENT = frozenset({"minicpm3"})
_UNPACKED = {"F64", "F32", "F16", "BF16"}


class _Metadata:
    """Values under the prefix of the file's architecture, as in `llama.block_count`."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.values = ConfigValues(metadata)
        family = self.values.word("general.architecture")
        if family is None:
            raise ModelError("general.architecture is missing: needed is a family, such as llama")
        self.family = family

    def whole(self, name: str, *, least: int = 1, most: int) -> int | None:
        """One number; of one per layer, the largest."""
        return self.values.largest(f"{self.family}.{name}", least=least, most=most)

    def required(self, name: str, *, least: int = 1, most: int) -> int:
        found = self.whole(name, least=least, most=most)
        return (
            found
            if found is not None
            else self.values.required(f"{self.family}.{name}", least=least, most=most)
        )


def architecture_of_gguf(
    metadata: Mapping[str, Any],
    layers: Mapping[int, frozenset[str]],
    tensors: Sequence[TensorInfo],
    block_values: Mapping[str, tuple[int, int]],
) -> Architecture:
    """`layers` has the GGUF names in each layer, `block_values` values and bytes per block by type.

    What the tensors show is taken from them, the rest from the metadata. Raises ModelError with one
    line that names the key, the value and what is allowed.
    """
    said = _Metadata(metadata)
    if said.family in _NO_DECODERS:
        raise ModelError(
            f"general.architecture is '{said.family}', which does not generate text: allowed: "
            "a decoder-only language model"
        )
    layer_count = _layer_count(said)
    hidden_size = said.required("embedding_length", most=MAX_SIZE)
    heads = said.required("attention.head_count", least=0, most=MAX_HEADS)
    latent = _number(said, "attention.kv_lora_rank") if said.family not in _NOT_LATENT else None
    kinds, beside = _kinds(said, layers, layer_count, latent is not None)
    if not heads and any(kind in ("full", "sliding", "mla") for kind in kinds):
        key = f"{said.family}.attention.head_count"
        raise said.values.error(key, heads, f"whole numbers from 1 to {MAX_HEADS:,}")
    kv_heads = heads if latent is not None else _kv_heads(said, heads)
    key_size, value_size = _head_sizes(said, hidden_size, heads)
    context_tokens = said.whole("context_length", most=MAX_TOKENS)
    return Architecture(
        model_type=said.family,
        layer_count=layer_count,
        layer_kinds=kinds,
        hidden_size=hidden_size,
        intermediate_size=said.whole("feed_forward_length", least=0, most=MAX_FEED_FORWARD) or 0,
        vocabulary_size=_vocabulary(said, tensors),
        attention_heads=heads,
        kv_heads=kv_heads,
        key_head_size=key_size,
        value_head_size=value_size,
        kv_lora_rank=latent,
        qk_rope_head_size=(
            said.required("rope.dimension_count", most=MAX_SIZE) if latent is not None else None
        ),
        q_lora_rank=_number(said, "attention.q_lora_rank") if latent is not None else None,
        sliding_window=_window(said) if "sliding" in kinds else None,
        kv_shared_layers=_kv_shared(said, layer_count),
        linear_state_values=_state_values(said, hidden_size),
        state_beside_attention=beside,
        tied_embeddings=all(tensor.name != "lm_head.weight" for tensor in tensors),
        context_tokens=context_tokens,
        dtype=_dtype(tensors),
        quantization=_quantization(tensors, block_values),
        **_experts(said, layers, layer_count),
    )


def _number(said: _Metadata, name: str) -> int | None:
    # A file writes 0 for "does not have it".
    return said.whole(name, least=0, most=MAX_SIZE) or None


def _layer_count(said: _Metadata) -> int:
    """Without the layers that guess tokens ahead, which stand behind the others."""
    count = said.required("block_count", most=MAX_LAYERS)
    ahead = said.whole("nextn_predict_layers", least=0, most=MAX_LAYERS) or 0
    if ahead >= count:
        key = f"{said.family}.nextn_predict_layers"
        raise said.values.error(key, ahead, f"fewer than the {count:,} layers")
    return count - ahead


def _kinds(
    said: _Metadata, layers: Mapping[int, frozenset[str]], count: int, latent: bool
) -> tuple[tuple[LayerKind, ...], bool]:
    """One per layer; and whether layers with attention have a state beside it."""
    slides = _sliding_layers(said, count)
    found: list[LayerKind] = []
    beside = False
    for layer in range(count):
        names = layers.get(layer, frozenset())
        if has_attention(names):
            beside = beside or has_state(names)
            kind: LayerKind = "sliding" if slides[layer] else "full"
            found.append("mla" if latent and kind == "full" else kind)
        else:
            found.append("linear" if has_state(names) else "none")
    return tuple(found), beside


def _sliding_layers(said: _Metadata, count: int) -> tuple[bool, ...]:
    if _window(said) is None:
        return (False,) * count
    key = f"{said.family}.attention.sliding_window_pattern"
    pattern = said.values.find(key)[1]
    if isinstance(pattern, list | tuple):
        flags = said.values.wholes(key, most=1) or ()
        return tuple(bool(flags[layer]) if layer < len(flags) else False for layer in range(count))
    every = said.whole("attention.sliding_window_pattern", most=MAX_LAYERS)
    every = every or _FULL_EVERY.get(said.family, 1)
    return tuple((layer + 1) % every != 0 for layer in range(count))


def _window(said: _Metadata) -> int | None:
    window = said.whole("attention.sliding_window", least=0, most=MAX_TOKENS)
    context = said.whole("context_length", most=MAX_TOKENS)
    return None if not window or (context is not None and window >= context) else window


def _kv_heads(said: _Metadata, heads: int) -> int:
    count = said.whole("attention.head_count_kv", least=0, most=MAX_HEADS) or heads
    if count and heads % count:
        key = f"{said.family}.attention.head_count_kv"
        raise said.values.error(key, count, f"divisors of the {heads:,} attention heads")
    return count


def _head_sizes(said: _Metadata, hidden_size: int, heads: int) -> tuple[int, int]:
    """Of a key and of a value; 0 without attention."""
    if not heads:
        return 0, 0
    key = _number(said, "attention.key_length_mla") or _number(said, "attention.key_length")
    value = _number(said, "attention.value_length_mla") or _number(said, "attention.value_length")
    if key is None and hidden_size % heads:
        name = f"{said.family}.attention.head_count"
        allowed = f"divisors of the embedding length {hidden_size:,}"
        raise said.values.error(name, heads, f"{allowed}, or any with attention.key_length")
    key = key or hidden_size // heads
    return key, value or key


def _kv_shared(said: _Metadata, count: int) -> tuple[int, ...]:
    last = said.whole("attention.shared_kv_layers", least=0, most=count) or 0
    return tuple(range(count - last, count))


def _state_values(said: _Metadata, hidden_size: int) -> int:
    """See architecture_states: the convolution's last inputs, and the recurrent state."""
    short = said.whole("shortconv.l_cache", most=MAX_SIZE)
    if short is not None:
        return hidden_size * (short - 1)
    width = said.whole("ssm.inner_size", most=MAX_FEED_FORWARD)
    if width is None:
        return 0
    kernel = said.required("ssm.conv_kernel", most=MAX_SIZE)
    state = said.required("ssm.state_size", most=MAX_SIZE)
    groups = said.whole("ssm.group_count", least=0, most=MAX_HEADS) or 0
    return (width + 2 * groups * state) * (kernel - 1) + width * state


def _vocabulary(said: _Metadata, tensors: Sequence[TensorInfo]) -> int:
    for tensor in tensors:
        if tensor.name == "model.embed_tokens.weight" and len(tensor.shape) == 2:
            rows = ConfigValues({"token_embd.weight": tensor.shape[0]})
            return rows.required("token_embd.weight", most=MAX_VOCABULARY)
    return said.required("vocab_size", most=MAX_VOCABULARY)


def _experts(
    said: _Metadata, layers: Mapping[int, frozenset[str]], layer_count: int
) -> dict[str, Any]:
    count = said.whole("expert_count", least=0, most=MAX_EXPERTS) or 0
    found = tuple(
        layer for layer in range(layer_count) if has_experts(layers.get(layer, frozenset()))
    )
    if not count or not found:
        return {}
    if count * len(found) > MAX_EXPERTS_IN_ALL:
        raise ModelError(
            f"{said.family}.expert_count is {count:,} in {len(found):,} layers: allowed are "
            f"{MAX_EXPERTS_IN_ALL:,} experts in all"
        )
    size = said.whole("expert_feed_forward_length", most=MAX_FEED_FORWARD)
    size = size or said.required("feed_forward_length", most=MAX_FEED_FORWARD)
    shared = said.whole("expert_shared_feed_forward_length", least=0, most=MAX_FEED_FORWARD)
    if shared is None:
        shared = size * (said.whole("expert_shared_count", least=0, most=MAX_EXPERTS) or 0)
    return {
        "experts": count,
        "experts_per_token": said.whole("expert_used_count", most=count) or 1,
        "expert_intermediate_size": size,
        "shared_expert_intermediate_size": shared,
        "expert_layers": found,
    }


def _packed(tensors: Sequence[TensorInfo]) -> str | None:
    """The quantised type of most bytes."""
    stored: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype not in _UNPACKED:
            stored[tensor.dtype] = stored.get(tensor.dtype, 0) + tensor.size_bytes
    return max(sorted(stored), key=lambda dtype: stored[dtype]) if stored else None


def _dtype(tensors: Sequence[TensorInfo]) -> str:
    if _packed(tensors) is None:
        return stored_dtype(tensors) or "bfloat16"
    # Beside packed weights, float32 is only what is too small to pack.
    return "float16" if any(tensor.dtype == "F16" for tensor in tensors) else "bfloat16"


def _quantization(
    tensors: Sequence[TensorInfo], block_values: Mapping[str, tuple[int, int]]
) -> Quantization | None:
    dtype = _packed(tensors)
    if dtype is None:
        return None
    values, size_bytes = block_values[dtype]
    return Quantization(
        method="gguf", bits=8 * size_bytes // values, group_size=values if values > 1 else None
    )
