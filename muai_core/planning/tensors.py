"""The tensors that a checkpoint of an architecture has, worked out from its config alone. Pure.

For models whose weights are not at hand. Names, shapes and formats are those of published
safetensors files; families that are not known specially get the tensors of a Llama of their size.
Not listed: the towers of families without a table of their own (their sizes are not in the config in
one common way), and buffers that engines compute.
"""

from muai_core.model.architecture import Architecture, TensorInfo
from muai_core.planning.tensors_experts import add_experts
from muai_core.planning.tensors_layers import LayerTensors
from muai_core.planning.tensors_settings import Facts
from muai_core.planning.tensors_states import add_mamba2, add_state
from muai_core.planning.tensors_styles import Style, style_of
from muai_core.planning.tensors_table import TensorTable

_FALCON = ("falcon", "RefinedWeb")
#: One part per layer: a state, attention, a dense part or experts.
_ONE_PART = ("mamba", "falcon_mamba", "nemotron_h")


def tensors_of(architecture: Architecture) -> tuple[TensorInfo, ...]:
    """In the order of the layers. Costs microseconds per tensor; the largest have some 100,000.

    Raises ModelError when the config says absurd sizes or patterns of modules that cannot be read.
    """
    facts = Facts(architecture)
    style = style_of(architecture.model_type)
    table = TensorTable(facts)
    layers = LayerTensors(facts, style, table)
    _add_embeddings(layers)
    for index in range(architecture.layer_count):
        _add_layer(layers, index)
    if style.final_norm:
        layers.norm(style.prefix + style.final_norm)
    if not architecture.tied_embeddings:
        _add_head(layers)
    return tuple(table.tensors)


def _add_embeddings(layers: LayerTensors) -> None:
    style, table, facts = layers.style, layers.table, layers.facts
    width = facts.whole("word_embed_proj_dim", default=layers.hidden)
    rows = layers.architecture.vocabulary_size
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
    if kind == "linear":
        add_state(layers, layer)
    elif kind == "mla" or layers.facts.has("kv_lora_rank"):
        layers.latent_attention(layer)
    elif kind != "none":
        layers.attention(layer, shared=index in architecture.kv_shared_layers)
        if architecture.state_beside_attention:
            add_mamba2(layers, f"{layer}mamba.")
    if architecture.model_type.startswith(_ONE_PART) and kind != "none":
        return
    if index in layers.expert_layers:
        add_experts(layers, layer)
    else:
        layers.feed_forward(layer + style.mlp, layers.dense_size)
