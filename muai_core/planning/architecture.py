"""From the dict of a Hugging Face config.json to the one set of words for all families. Pure."""

from collections.abc import Mapping
from typing import Any

from muai_core.model.architecture import Architecture, ModelError
from muai_core.planning.architecture_defaults import class_defaults, text_type, ties_embeddings
from muai_core.planning.architecture_experts import Experts, experts_of
from muai_core.planning.architecture_kinds import check_family, check_generates
from muai_core.planning.architecture_layers import is_latent, layers_of
from muai_core.planning.architecture_quantization import quantization_of
from muai_core.planning.architecture_states import linear_state_values
from muai_core.planning.architecture_values import (
    MAX_FEED_FORWARD,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_SIZE,
    MAX_TOKENS,
    MAX_VOCABULARY,
    ConfigValues,
    shown,
)
from muai_core.planning.tensors_settings import settings_of

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_KEYS = ("hidden_size", "n_embd", "d_model", "n_embed")
_HEADS_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
_KV_HEADS_KEYS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_HEAD_SIZE_KEYS = ("head_dim", "kv_channels", "attention_head_dim")
_FEED_FORWARD_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff")
# ChatGLM's vocab_size counts tokens; its embeddings have padded_vocab_size rows.
_VOCABULARY_KEYS = ("padded_vocab_size", "vocab_size")
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "n_ctx",
)
#: Where a wrapper of several towers keeps the config of its language model.
_TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")
_TOWER_KEYS = (
    "vision_config",
    "audio_config",
    "visual",
    "vision_tower",
    "mm_vision_tower",
    "img_processor",
    "vit_config",
    "speech_config",
)
_MAX_NESTING = 4
_DTYPES = ("bfloat16", "float16", "float32")
_DTYPE_NAMES = {"half": "float16", "float": "float32", "float64": "float32"}
#: Scaled rotary positions that stretch the context by `factor` (vLLM, config/model.py).
_STRETCHING_ROPE = frozenset({"linear", "dynamic", "yarn"})
_NO_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2"})


class _Heads:
    """Attention heads and their sizes; all 0 in a model without attention."""

    def __init__(self, values: ConfigValues, model_type: str, hidden_size: int) -> None:
        self.count = self.kv_count = self.key_size = self.value_size = 0
        if model_type in _NO_ATTENTION:
            return
        self.count = values.required(*_HEADS_KEYS, most=MAX_HEADS)
        self.kv_count = _kv_heads(values, model_type, self.count)
        if values.find("kv_lora_rank")[1] is not None:
            self._latent(values, model_type)
        else:
            self.key_size = self.value_size = _head_size(values, hidden_size, self.count)

    def _latent(self, values: ConfigValues, model_type: str) -> None:
        rope = values.required("qk_rope_head_dim", most=MAX_SIZE)
        self.key_size = values.required("qk_nope_head_dim", least=0, most=MAX_SIZE) + rope
        # Where all heads' keys and values are kept, values are padded to the size of keys.
        padded = not is_latent(values, model_type)
        self.value_size = self.key_size if padded else values.required("v_head_dim", most=MAX_SIZE)


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """What the model is made of; `config` is never changed.

    A wrapper of several towers is described by its language model, with `multimodal` set. Keys that
    are missing have the value of transformers' class for that family. Raises ModelError with one
    line that names the key, the value and what is allowed.
    """
    check_generates(config)
    text, model_type = _text_config(config)
    check_family(config, model_type)
    whole = ConfigValues(config)
    layer_count = _layer_count(text)
    hidden_size = text.required(*_HIDDEN_KEYS, most=MAX_SIZE)
    heads = _Heads(text, model_type, hidden_size)
    context_tokens = _context_tokens(text, model_type)
    layers = layers_of(text, model_type, layer_count, context_tokens)
    dense_size = _feed_forward_size(text, model_type, hidden_size)
    experts = experts_of(text, model_type, layer_count, dense_size)
    dtype = _dtype(text, whole)
    needs_state = "linear" in layers.kinds or layers.state_beside_attention
    latent = is_latent(text, model_type)
    return Architecture(
        model_type=model_type,
        class_names=whole.words("architectures") or text.words("architectures") or (),
        layer_count=layer_count,
        layer_kinds=layers.kinds,
        hidden_size=hidden_size,
        intermediate_size=_dense_size(text, model_type, layer_count, dense_size, experts),
        vocabulary_size=text.required(*_VOCABULARY_KEYS, most=MAX_VOCABULARY),
        attention_heads=heads.count,
        kv_heads=heads.kv_count,
        key_head_size=heads.key_size,
        value_head_size=heads.value_size,
        kv_lora_rank=text.required("kv_lora_rank", most=MAX_SIZE) if latent else None,
        qk_rope_head_size=text.required("qk_rope_head_dim", most=MAX_SIZE) if latent else None,
        q_lora_rank=text.whole("q_lora_rank", most=MAX_SIZE) if latent else None,
        sliding_window=layers.sliding_window,
        kv_shared_layers=layers.kv_shared,
        linear_state_values=(
            linear_state_values(text, hidden_size, heads.count, dtype) if needs_state else 0
        ),
        state_beside_attention=layers.state_beside_attention,
        experts=experts.count,
        experts_per_token=experts.per_token,
        expert_intermediate_size=experts.intermediate_size,
        shared_expert_intermediate_size=experts.shared_intermediate_size,
        expert_layers=experts.layers,
        tied_embeddings=_tied(text, whole, model_type),
        context_tokens=context_tokens,
        dtype=dtype,
        quantization=quantization_of(whole) or quantization_of(text),
        multimodal=any(config.get(key) for key in _TOWER_KEYS),
        settings=settings_of(config),
    )


def _text_config(config: Mapping[str, Any]) -> tuple[ConfigValues, str]:
    """The language model's part of the config, and its type."""
    values = ConfigValues(config)
    model_type = values.word("model_type") or ""
    nested = False
    for _ in range(_MAX_NESTING):
        inner = values.section(*_TEXT_KEYS)
        if inner is None or not inner.values:
            break
        values, nested = inner, True
        model_type = inner.word("model_type") or text_type(model_type)
    if not model_type and nested is False and not values.values:
        raise ModelError("it is empty: needed is the config of a model, with model_type")
    defaults = class_defaults(model_type, nested=nested)
    return ConfigValues(values.values, values.where, defaults), model_type or "unknown"


def _layer_count(values: ConfigValues) -> int:
    count = values.whole(*_LAYER_KEYS, most=MAX_LAYERS)
    listed = values.find("layers_block_type", "hybrid_override_pattern")[1]
    if count is None and isinstance(listed, str | list | tuple) and 0 < len(listed) <= MAX_LAYERS:
        return len(listed)  # Nemotron-H says it only so
    return count or values.required(*_LAYER_KEYS, most=MAX_LAYERS)


def _kv_heads(values: ConfigValues, model_type: str, heads: int) -> int:
    name, count = "num_key_value_heads", heads
    inside = values.section("attn_config")
    one_for_all = values.flag("multi_query")
    if model_type in ("falcon", "RefinedWeb", "RefinedWebModel"):
        several = values.flag("new_decoder_architecture") or one_for_all is False
        name = "num_kv_heads"
        count = (
            (values.whole("num_kv_heads", "n_head_kv", most=MAX_HEADS) or heads) if several else 1
        )
    elif model_type == "gpt_bigcode":
        count = 1 if one_for_all else heads
    elif values.flag("multi_query_attention"):
        name = "multi_query_group_num"
        count = values.required(name, most=MAX_HEADS)
    elif inside is not None and inside.find("kv_n_heads")[1] is not None:
        name = "attn_config.kv_n_heads"
        count = inside.required("kv_n_heads", most=MAX_HEADS)
    else:
        name = values.find(*_KV_HEADS_KEYS)[0]
        count = values.whole(*_KV_HEADS_KEYS, most=MAX_HEADS) or heads
    if heads % count:
        raise values.error(name, count, f"divisors of the {heads:,} attention heads")
    return count


def _head_size(values: ConfigValues, hidden_size: int, heads: int) -> int:
    size = values.whole(*_HEAD_SIZE_KEYS, most=MAX_SIZE)
    if size is not None:
        return size
    if hidden_size % heads:
        name = values.find(*_HEADS_KEYS)[0]
        allowed = f"divisors of the hidden size {hidden_size:,}, or any with head_dim beside it"
        raise values.error(name, heads, allowed)
    return hidden_size // heads


def _feed_forward_size(values: ConfigValues, model_type: str, hidden_size: int) -> int:
    """`intermediate_size` as the config has it, or as the family works it out; 0: not said."""
    size = values.largest(*_FEED_FORWARD_KEYS, least=0, most=MAX_FEED_FORWARD)
    if size:
        # The first Qwen splits it between gate and up.
        return size // 2 if model_type == "qwen" else size
    if model_type == "mpt":
        expansion = values.decimal("expansion_ratio", least=0.01, most=100) or 4
        return int(expansion * hidden_size)
    if model_type in ("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj"):
        return 4 * hidden_size
    return 0


def _dense_size(
    values: ConfigValues, model_type: str, layer_count: int, dense_size: int, experts: Experts
) -> int:
    """Of the dense feed-forward part: of the layers without experts, if there are any."""
    if model_type.startswith("llama4"):
        return values.whole("intermediate_size_mlp", most=MAX_FEED_FORWARD) or dense_size
    if model_type == "granitemoehybrid" and not experts.count:
        return values.whole("shared_intermediate_size", most=MAX_FEED_FORWARD) or dense_size
    if dense_size or model_type in _NO_ATTENTION:
        return dense_size
    if len(experts.layers) == layer_count:
        return experts.intermediate_size
    return values.required(*_FEED_FORWARD_KEYS, most=MAX_FEED_FORWARD)


def _context_tokens(values: ConfigValues, model_type: str) -> int | None:
    tokens = values.whole(*_CONTEXT_KEYS, most=MAX_TOKENS)
    name, rope = values.find("rope_scaling", "rope_parameters")
    if tokens is None or not isinstance(rope, Mapping) or model_type.startswith("gemma"):
        return tokens
    scaling = ConfigValues(rope, f"{values.where}{name}.")
    kind = scaling.find("rope_type", "type")[1]
    if not isinstance(kind, str) or kind not in _STRETCHING_ROPE:
        return tokens
    factor = scaling.decimal("factor", least=0.001, most=1e6) or 1.0
    original = scaling.whole("original_max_position_embeddings", most=MAX_TOKENS)
    if kind == "yarn":
        return int((original or tokens) * factor)
    return int(tokens * factor)


def _dtype(text: ConfigValues, whole: ConfigValues) -> str:
    for values in (text, whole):
        name, value = values.find("torch_dtype", "dtype")
        if value is None or value == "auto":
            continue
        word = value.removeprefix("torch.") if isinstance(value, str) else ""
        word = _DTYPE_NAMES.get(word, word)
        if word not in _DTYPES:
            raise ModelError(
                f"{values.where}{name} is {shown(value)}: allowed: auto, {', '.join(_DTYPES)}"
            )
        return word
    return "bfloat16"


def _tied(text: ConfigValues, whole: ConfigValues, model_type: str) -> bool:
    for values in (text, whole):
        said = values.flag("tie_word_embeddings", "tie_embedding")
        if said is not None:
            return said
    return ties_embeddings(model_type)
