"""What a tensor of a checkpoint is for, told from its Hugging Face name alone. Pure.

Names were gathered from the public modelling code of transformers and vLLM and from the indexes of
published checkpoints. An engine cuts a tensor by what it is for (`attention_q` along its outputs,
`mlp_down` along its inputs, `norm` not at all), so this is what sizes per rank are worked out from.
"""

from itertools import pairwise
from typing import Literal

from msgspec import Struct

#: What a tensor is for.
#:
#: `embedding`, `position_embedding`, `output_head`, `norm`: as they say; norms are whole on every
#: rank. `embedding_projection` joins embeddings and layers of unequal width. `attention_qkv` is q,
#: k and v in one tensor. `attention_gate` gates the heads' outputs, `attention_sink` has one value
#: per head, `attention_indexer` picks the tokens to look at. `mla_down` leads into the latent
#: space (q_a, kv_a), `mla_up` out of it (q_b, kv_b). `router` chooses experts, and weighs a shared
#: one. `shared_expert_*` belong to experts that see every token. `*_gate_up` is gate and up in one
#: tensor; `expert_*` are of all experts in one tensor where `Role.expert` is None.
#: `linear_attention_in` / `_out` enter and leave a layer of constant state (Mamba, linear
#: attention), `_x` leads from its channels to dt, B and C, `_dt` from there back to the channels,
#: `_state` has one row per channel or head (A_log, D, dt_bias), `_norm` normalises its channels.
#: `per_layer_input` feeds a layer from embeddings of its own (Gemma 3n). `scalar` is a single
#: factor of a layer. `buffer` is a mask or table that engines build themselves and do not load.
#: `vision`: any tower for images or sound, with what joins it to the text. `mtp`: layers that
#: guess the tokens after the next one. `other`: not known.
RoleKind = Literal[
    "embedding",
    "position_embedding",
    "embedding_projection",
    "output_head",
    "norm",
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_qkv",
    "attention_o",
    "attention_gate",
    "attention_sink",
    "attention_indexer",
    "mla_down",
    "mla_up",
    "router",
    "expert_gate",
    "expert_up",
    "expert_gate_up",
    "expert_down",
    "shared_expert_gate",
    "shared_expert_up",
    "shared_expert_gate_up",
    "shared_expert_down",
    "mlp_gate",
    "mlp_up",
    "mlp_gate_up",
    "mlp_down",
    "linear_attention_in",
    "linear_attention_conv",
    "linear_attention_x",
    "linear_attention_dt",
    "linear_attention_state",
    "linear_attention_norm",
    "linear_attention_out",
    "per_layer_input",
    "scalar",
    "buffer",
    "vision",
    "mtp",
    "other",
]

#: `scale`: factors of a quantised weight or of its inputs; `zero_point`: its offsets; `index`: the
#: order of its groups, its shape, its code book or other notes.
Part = Literal["weight", "bias", "scale", "zero_point", "index"]


class Role(Struct, frozen=True, kw_only=True, gc=False):
    """What one tensor is for."""

    #: Index of the layer of the language model that it belongs to; None: to none of them.
    layer: int | None = None
    kind: RoleKind = "other"
    part: Part = "weight"
    #: Index of the routed expert, None also where one tensor holds all of them.
    expert: int | None = None


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


#: Last components of a name, and the part they stand for; several may follow one another
#: (`weight.absmax`), and the last of them decides.
_PART_OF_LEAF: dict[str, Part] = {
    "weight": "weight",
    "qweight": "weight",
    "weight_packed": "weight",
    "bias": "bias",
    "scale": "scale",
    "scales": "scale",
    "weight_scale": "scale",
    "weight_scale_inv": "scale",
    "weight_scale_2": "scale",
    "weight_global_scale": "scale",
    "input_scale": "scale",
    "input_global_scale": "scale",
    "activation_scale": "scale",
    "output_scale": "scale",
    "k_scale": "scale",
    "v_scale": "scale",
    "q_scale": "scale",
    "SCB": "scale",
    "absmax": "scale",
    "nested_absmax": "scale",
    "qzeros": "zero_point",
    "weight_zero_point": "zero_point",
    "input_zero_point": "zero_point",
    "g_idx": "index",
    "weight_g_idx": "index",
    "weight_shape": "index",
    "weight_format": "index",
    "quant_map": "index",
    "nested_quant_map": "index",
    "quant_state": "index",
    "bitsandbytes__nf4": "index",
    "bitsandbytes__fp4": "index",
}

#: Endings of a component of tensors without a module of their own, as in `gate_up_proj_blocks`.
_PART_OF_ENDING: tuple[tuple[str, Part], ...] = (
    ("_weight_scale_inv", "scale"),
    ("_weight_scale_2", "scale"),
    ("_weight_scale", "scale"),
    ("_scale_inv", "scale"),
    ("_input_scale", "scale"),
    ("_weight_packed", "weight"),
    ("_blocks", "weight"),
    ("_scales", "scale"),
    ("_bias", "bias"),
)

_TOWERS = frozenset(
    _names(
        "visual vision_tower vision_model vision_encoder vision vit vpm resampler "
        "vision_embed_tokens multi_modal_projector mm_projector vision_projector "
        "vision_language_adapter patch_merger embed_vision embed_audio audio_tower audio_model "
        "audio_encoder audio_projector audio speech_encoder projector mlp1 image_newline "
        "image_embed aligner connector img_projection pre_mm_projector_norm sound_encoder "
        "sound_projection mm_input_projection_weight"
    )
)
_MTP = frozenset(_names("mtp mtp_layers mtp_block nextn eh_proj enorm hnorm shared_head"))
_LAYER_LISTS = frozenset(_names("layers h blocks block layer"))
_LINEAR_BLOCKS = frozenset(_names("linear_attn mamba conv temporal_block mixer mamba_decoder"))
_ATTENTION_BLOCKS = frozenset(
    _names(
        "self_attn attn attention self_attention cross_attn mixer temporal_block "
        "attn_block shared_transformer"
    )
)
_SHARED = frozenset(_names("shared_expert shared_experts shared_mlp"))

_EMBEDDINGS = frozenset(
    _names(
        "embed_tokens wte word_embeddings tok_embeddings embed_in embeddings embedding "
        "token_embeddings shared embed_tokens_per_layer"
    )
)
_POSITIONS = frozenset(_names("wpe embed_positions position_embeddings"))
_HEADS = frozenset(_names("lm_head embed_out output output_layer"))
_BUFFERS = frozenset(
    _names(
        "inv_freq masked_bias rotary_emb rope_freqs position_ids diagonal_decay key_decay "
        "query_decay slope_rate"
    )
)
_ROUTERS = frozenset(
    _names(
        "gate router wg shared_expert_gate moe_statics e_score_correction_bias expert_bias "
        "per_expert_scale"
    )
)
_SCALARS = frozenset(_names("cross_attn_attn_gate cross_attn_mlp_gate layer_scalar"))

_EMBEDDING_PROJECTIONS = frozenset(
    _names(
        "project_in project_out embedding_hidden_mapping_in per_layer_model_projection "
        "altup_projections altup_unembed_projections"
    )
)
_PER_LAYER_INPUTS = frozenset(_names("per_layer_input_gate per_layer_projection altup laurel"))

#: Of an attention block.
_ATTENTION: dict[str, RoleKind] = {
    **dict.fromkeys(_names("q_proj wq query q to_q"), "attention_q"),
    **dict.fromkeys(_names("k_proj wk key k to_k"), "attention_k"),
    **dict.fromkeys(_names("v_proj wv value v to_v"), "attention_v"),
    **dict.fromkeys(
        _names("qkv_proj Wqkv wqkv W_pack c_attn query_key_value linear_qkv qkv"), "attention_qkv"
    ),
    **dict.fromkeys(_names("o_proj out_proj wo dense c_proj linear_proj to_out"), "attention_o"),
    **dict.fromkeys(_names("gate_proj output_gate g_proj"), "attention_gate"),
    **dict.fromkeys(_names("sinks attention_sink_bias attention_sink"), "attention_sink"),
    **dict.fromkeys(
        _names(
            "q_a_proj kv_a_proj_with_mqa kv_a_proj fused_qkv_a_proj wq_a wkv_a wkv_a_with_mqa wkv"
        ),
        "mla_down",
    ),
    **dict.fromkeys(_names("q_b_proj kv_b_proj k_b_proj v_b_proj wq_b wkv_b"), "mla_up"),
}

#: Of a layer of constant state, whatever its block is called.
_LINEAR: dict[str, RoleKind] = {
    **dict.fromkeys(
        _names(
            "in_proj in_proj_qkvz in_proj_ba in_proj_qkv in_proj_z in_proj_b in_proj_a b_proj "
            "f_a_proj f_b_proj g_a_proj g_b_proj linear_x linear_y"
        ),
        "linear_attention_in",
    ),
    **dict.fromkeys(_names("conv1d conv_1d q_conv1d k_conv1d v_conv1d"), "linear_attention_conv"),
    **dict.fromkeys(_names("x_proj"), "linear_attention_x"),
    **dict.fromkeys(_names("dt_proj"), "linear_attention_dt"),
    **dict.fromkeys(
        _names(
            "A_log D dt_bias recurrent_param input_gate_weight input_gate_bias "
            "recurrent_gate_weight recurrent_gate_bias"
        ),
        "linear_attention_state",
    ),
    **dict.fromkeys(_names("linear_out"), "linear_attention_out"),
}

#: Of a feed-forward block: which of its four tensors.
_FEED_FORWARD: dict[str, Literal["gate", "up", "gate_up", "down"]] = {
    **dict.fromkeys(_names("gate_proj w1 c_fc_0"), "gate"),
    **dict.fromkeys(_names("up_proj w3 v1 fc1 fc_in c_fc c_fc_1 dense_h_to_4h"), "up"),
    **dict.fromkeys(_names("gate_up_proj input_linear proj_1 gate_and_up_proj"), "gate_up"),
    **dict.fromkeys(
        _names("down_proj w2 fc2 fc_out c_proj dense_4h_to_h output_linear proj_2"), "down"
    ),
}
_EXPERT: dict[str, RoleKind] = {
    "gate": "expert_gate",
    "up": "expert_up",
    "gate_up": "expert_gate_up",
    "down": "expert_down",
}
_SHARED_EXPERT: dict[str, RoleKind] = {
    "gate": "shared_expert_gate",
    "up": "shared_expert_up",
    "gate_up": "shared_expert_gate_up",
    "down": "shared_expert_down",
}
_MLP: dict[str, RoleKind] = {
    "gate": "mlp_gate",
    "up": "mlp_up",
    "gate_up": "mlp_gate_up",
    "down": "mlp_down",
}

#: Components that are names of tensors in full, whatever they end with.
_WHOLE_NAMES = (_SCALARS, _BUFFERS, _ROUTERS, _LINEAR, _ATTENTION)


def role_of(name: str, layer_count: int | None = None) -> Role:
    """What the tensor of this name is for; never raises, an unknown name is `other`.

    A layer with an index of `layer_count` or more, as DeepSeek-V3 has one, is `mtp`: its names do
    not tell. Costs some microseconds; nothing is remembered between calls.
    """
    components = name.split(".")
    layer = expert = None
    for before, component in pairwise(components):
        if component.isdecimal() and component.isascii() and len(component) < 7:
            if before == "experts":
                expert = int(component)
            elif layer is None and before in _LAYER_LISTS:
                layer = int(component)
    components, part = _parted(components)
    around = frozenset(components)
    if not _TOWERS.isdisjoint(components[:3]):
        return Role(kind="vision", part=part)
    kind = _kind(components, around, layer)
    if kind == "other" and part == "scale" and components[-1] in _ATTENTION_BLOCKS:
        # Of the stored keys and values, as in `self_attn.k_scale`.
        kind = "scalar"
    if around & _MTP or (layer is not None and layer_count is not None and layer >= layer_count):
        kind = "mtp"
    return Role(layer=layer, kind=kind, part=part, expert=expert)


def _parted(components: list[str]) -> tuple[list[str], Part]:
    """The components that name the module, and the part that the rest stands for."""
    part: Part = "weight"
    end = len(components)
    while end > 1 and components[end - 1] in _PART_OF_LEAF:
        end -= 1
    if end < len(components):
        part = _PART_OF_LEAF[components[-1]]
        return components[:end], part
    last = components[-1]
    if any(last in names for names in _WHOLE_NAMES):
        return components, "bias" if last.endswith("_bias") else "weight"
    for ending, part in _PART_OF_ENDING:
        if last.endswith(ending):
            return [*components[:-1], last[: -len(ending)]], part
    return components, "weight"


def _kind(components: list[str], around: frozenset[str], layer: int | None) -> RoleKind:
    """What the module is for, given the names of all modules around it."""
    last = components[-1]
    if last in _BUFFERS or (last in ("attn", "attention") and len(components) > 1):
        return "buffer"
    if "indexer" in around:
        return "attention_indexer"
    if last in _LINEAR:
        return _LINEAR[last]
    if around & _LINEAR_BLOCKS and not around & _SHARED:
        kind = _in_linear_block(last, around)
        if kind is not None:
            return kind
    if _is_norm(last):
        return "norm"
    if last in _SCALARS or "act_fn" in around:
        return "scalar"
    if last in _EMBEDDING_PROJECTIONS:
        return "embedding_projection"
    if last in _PER_LAYER_INPUTS or not _PER_LAYER_INPUTS.isdisjoint(around):
        return "per_layer_input"
    if layer is None:
        if last in _POSITIONS:
            return "position_embedding"
        if last in _HEADS:
            return "output_head"
        if last in _EMBEDDINGS:
            return "embedding"
    if last in _EMBEDDINGS or last in _HEADS:
        return "mtp" if layer is not None else "other"
    return _in_layer(last, around)


def _in_linear_block(last: str, around: frozenset[str]) -> RoleKind | None:
    if last in ("norm", "o_norm"):
        return "linear_attention_norm"
    if last == "out_proj":
        return "linear_attention_out"
    if last == "conv":
        return "linear_attention_conv"
    return None


def _in_layer(last: str, around: frozenset[str]) -> RoleKind:
    if around & _SHARED and last in _FEED_FORWARD:
        return _SHARED_EXPERT[_FEED_FORWARD[last]]
    if "experts" in around and last in _FEED_FORWARD:
        return _EXPERT[_FEED_FORWARD[last]]
    if last in _ROUTERS or (last == "layer" and "router" in around):
        return "router"
    if around & _ATTENTION_BLOCKS and last in _ATTENTION:
        return _ATTENTION[last]
    if last in ("input_linear", "output_linear") and "block_sparse_moe" in around:
        return _EXPERT[_FEED_FORWARD[last]]
    if last in _FEED_FORWARD:
        return _MLP[_FEED_FORWARD[last]]
    return "other"


def _is_norm(last: str) -> bool:
    return "norm" in last or last.startswith("ln_") or last in ("ln1", "ln2", "ln")
