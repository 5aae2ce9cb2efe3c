"""The tensors that a checkpoint of an architecture has, worked out from its config alone. Pure.

For models whose weights are not at hand. Names, shapes and formats are those of published
safetensors files; families that are not known specially get the tensors of a Llama of their size.
Not listed: towers for sound, and buffers that engines compute.
"""

from msgspec import structs

from muai_core.model.architecture import Architecture, TensorInfo
from muai_core.planning.tensors_experts import add_experts
from muai_core.planning.tensors_layers import LayerTensors
from muai_core.planning.tensors_settings import Facts
from muai_core.planning.tensors_states import add_mamba2, add_state
from muai_core.planning.tensors_style import Style
from muai_core.planning.tensors_styles import style_of
from muai_core.planning.tensors_table import TensorTable
from muai_core.planning.tensors_towers import add_towers

_FALCON = ("falcon", "RefinedWeb")
#: One part per layer: a state, attention, a dense part or experts.
_ONE_PART = ("mamba", "falcon_mamba", "nemotron_h")
#: Wrappers of several towers whose language model has these prefixes; the others put
#: "language_model." in front of all its names.
_INNER_PREFIX = ("qwen3_vl", "qwen3_5", "qwen3_omni", "gemma3n", "gemma4", "glm4v", "glm46v")
_NO_PREFIX = ("qwen2_vl", "qwen2_5_vl")
#: Families whose checkpoints have layers that guess further tokens after the others (DeepSeek-V3,
#: arXiv 2412.19437, section 2.2), or in a part of their own (Qwen3-Next).
_GUESSING_LAYERS = ("deepseek_v3", "kimi_k2", "glm4_moe", "glm_moe_dsa")
_GUESSING_PART = ("qwen3_next", "qwen3_5")
_MAX_GUESSING = 16
#: Rows beyond the vocabulary that mllama's embeddings have (modeling_mllama.py, MllamaTextModel).
_MLLAMA_ROWS = 8


def tensors_of(architecture: Architecture) -> tuple[TensorInfo, ...]:
    """In the order of the layers. Costs microseconds per tensor; the largest have some 100,000.

    Raises ModelError when the config says absurd sizes or patterns of modules that cannot be read.
    """
    facts = Facts(architecture)
    style = _placed(style_of(architecture.model_type), facts)
    table = TensorTable(facts)
    layers = LayerTensors(facts, style, table)
    _add_embeddings(layers)
    for index in range(architecture.layer_count):
        _add_layer(layers, index)
    if style.final_norm:
        layers.norm(style.prefix + style.final_norm)
    if not architecture.tied_embeddings:
        _add_head(layers)
    _add_guessing(layers)
    if architecture.multimodal:
        add_towers(facts, table)
    return tuple(table.tensors)


def _placed(style: Style, facts: Facts) -> Style:
    """The style with the prefixes that its names have inside a wrapper."""
    wrapper = facts.wrapper
    if wrapper == facts.architecture.model_type or not facts.wrapped:
        return style
    if wrapper.startswith(_NO_PREFIX):
        return style
    if wrapper.startswith(_INNER_PREFIX):
        return structs.replace(style, prefix="model.language_model.")
    inside = "language_model."
    return structs.replace(style, prefix=inside + style.prefix, head=inside + style.head)


def _add_embeddings(layers: LayerTensors) -> None:
    style, table, facts = layers.style, layers.table, layers.facts
    width = facts.whole("word_embed_proj_dim", default=layers.hidden)
    rows = layers.architecture.vocabulary_size
    if layers.architecture.model_type.startswith("mllama"):
        rows += _MLLAMA_ROWS
    table.plain(f"{style.prefix}{style.embedding}.weight", rows, width)
    if width != layers.hidden:
        table.plain(f"{style.prefix}project_in.weight", layers.hidden, width)
        table.plain(f"{style.prefix}project_out.weight", width, layers.hidden)
    if style.positions:
        longest = (layers.architecture.context_tokens or 2048) + style.positions_extra
        table.plain(f"{style.prefix}{style.positions}.weight", longest, layers.hidden)
    if style.embedding_norm:
        layers.norm(style.prefix + style.embedding_norm)


def _add_head(layers: LayerTensors) -> None:
    style, rows = layers.style, layers.architecture.vocabulary_size
    layers.table.plain(f"{style.head}.weight", rows, layers.hidden)
    if style.head_bias:
        layers.table.plain(f"{style.head}.bias", rows)


def _norms(facts: Facts, style: Style) -> tuple[str, ...]:
    """Falcon's depend on what runs side by side (modeling_falcon.py, FalconDecoderLayer)."""
    if style.layers != "h" or not facts.architecture.model_type.startswith(_FALCON):
        return style.norms
    if facts.flag("new_decoder_architecture", default=False):
        two = facts.whole("num_ln_in_parallel_attn", default=2) == 2
        return ("ln_attn", "ln_mlp") if two else ("input_layernorm",)
    return style.norms[:1] if facts.flag("parallel_attn", default=True) else style.norms


def _add_layer(layers: LayerTensors, index: int) -> None:
    architecture, style = layers.architecture, layers.style
    layer = f"{style.prefix}{style.layers}.{index}."
    for norm in _norms(layers.facts, style):
        layers.norm(layer + norm)
    kind = architecture.layer_kinds[index]
    if index in layers.cross_layers:
        layers.cross_attention(layer)
    elif kind == "linear":
        add_state(layers, layer)
    elif kind == "mla" or (kind != "none" and layers.facts.has("kv_lora_rank")):
        layers.latent_attention(layer)
    elif kind != "none":
        layers.attention(layer, shared=index in architecture.kv_shared_layers)
        if architecture.state_beside_attention:
            add_mamba2(layers, f"{layer}mamba.")
    if architecture.model_type.startswith(_ONE_PART) and kind != "none":
        return
    _add_feed_forward(layers, layer, with_experts=index in layers.expert_layers)


def _add_feed_forward(layers: LayerTensors, layer: str, *, with_experts: bool) -> None:
    if with_experts:
        add_experts(layers, layer)
    else:
        layers.feed_forward(layer + layers.style.mlp, layers.dense_size)


def _add_guessing(layers: LayerTensors) -> None:
    """Layers that guess the tokens after the next one, where checkpoints have them."""
    facts, family = layers.facts, layers.architecture.model_type
    if family.startswith(_GUESSING_LAYERS):
        count = facts.whole("num_nextn_predict_layers", default=0, most=_MAX_GUESSING)
        for index in range(count):
            _add_guessing_layer(layers, layers.architecture.layer_count + index)
    elif family.startswith(_GUESSING_PART):
        default = 1 if facts.architecture.settings else 0
        count = facts.whole("mtp_num_hidden_layers", default=default, most=_MAX_GUESSING)
        if count:
            _add_guessing_part(layers, count)


def _add_guessing_layer(layers: LayerTensors, index: int) -> None:
    style, hidden, table = layers.style, layers.hidden, layers.table
    layer, rows = f"{style.prefix}{style.layers}.{index}.", layers.architecture.vocabulary_size
    table.plain(f"{layer}embed_tokens.weight", rows, hidden)
    for norm in ("enorm", "hnorm", *style.norms):
        layers.norm(layer + norm)
    table.plain(f"{layer}eh_proj.weight", hidden, 2 * hidden)
    if layers.facts.has("kv_lora_rank"):
        layers.latent_attention(layer)
    else:
        layers.attention(layer)
    _add_feed_forward(layers, layer, with_experts=bool(layers.expert_layers))
    layers.norm(f"{layer}shared_head.norm")
    table.plain(f"{layer}shared_head.head.weight", rows, hidden)


def _add_guessing_part(layers: LayerTensors, count: int) -> None:
    hidden = layers.hidden
    layers.table.plain("mtp.fc.weight", hidden, 2 * hidden)
    for norm in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        layers.norm(f"mtp.{norm}")
    for index in range(count):
        layer = f"mtp.layers.{index}."
        for norm in layers.style.norms:
            layers.norm(layer + norm)
        layers.attention(layer)
        _add_feed_forward(layers, layer, with_experts=bool(layers.expert_layers))
