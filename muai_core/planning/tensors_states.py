"""Layers of constant state: Mamba, gated delta net, short convolutions, recurrent units. Pure.

Names and shapes as in transformers' `modeling_*.py` of each family.
"""

from collections.abc import Callable

from muai_core.planning.formats import ceil_div
from muai_core.planning.tensors_layers import LayerTensors

_MAX_KERNEL = 1024


def add_state(layers: LayerTensors, layer: str) -> None:
    """The part of a layer that keeps a state instead of keys and values."""
    family = layers.architecture.model_type
    for start, add in _BY_FAMILY.items():
        if family.startswith(start):
            add(layers, layer)
            return
    if layers.facts.has("linear_num_value_heads"):
        _add_delta_net(layers, layer)
    elif layers.facts.has("mamba_n_heads") or layers.facts.has("mamba_num_heads"):
        add_mamba2(layers, f"{layer}mamba.")
    elif layers.facts.has("mamba_d_state") or layers.facts.has("state_size"):
        _add_mamba(layers, f"{layer}mamba.")
    else:
        _add_lightning(layers, layer)


def _kernel(layers: LayerTensors, *names: str) -> int:
    return layers.facts.whole(*names, default=4, most=_MAX_KERNEL)


def _inner(layers: LayerTensors) -> int:
    facts = layers.facts
    expanded = facts.whole("mamba_expand", "expand", default=2, most=100) * layers.hidden
    return facts.whole("mamba_d_ssm", default=expanded)


def _add_mamba(layers: LayerTensors, module: str, *, norms: bool = False) -> None:
    """Mamba 1 (arXiv 2312.00752); `norms`: of dt, B and C, as Jamba has them."""
    facts, table = layers.facts, layers.table
    inner = _inner(layers)
    if layers.architecture.model_type in ("mamba", "falcon_mamba"):
        inner = facts.whole("intermediate_size", default=inner)
    states = facts.whole("mamba_d_state", "state_size", default=16)
    rank = facts.whole("mamba_dt_rank", "time_step_rank", default=ceil_div(layers.hidden, 16))
    bias = facts.flag("mamba_proj_bias", default=facts.flag("use_bias", default=False))
    layers.linear(f"{module}in_proj", 2 * inner, layers.hidden, bias=bias)
    table.plain(f"{module}conv1d.weight", inner, 1, _kernel(layers, "mamba_d_conv", "conv_kernel"))
    if facts.flag("mamba_conv_bias", default=facts.flag("use_conv_bias", default=True)):
        table.plain(f"{module}conv1d.bias", inner)
    layers.linear(f"{module}x_proj", rank + 2 * states, inner)
    layers.linear(f"{module}dt_proj", inner, rank, bias=True)
    table.plain(f"{module}A_log", inner, states)
    table.plain(f"{module}D", inner)
    layers.linear(f"{module}out_proj", layers.hidden, inner, bias=bias)
    if norms:
        for name, size in (("dt", rank), ("b", states), ("c", states)):
            table.plain(f"{module}{name}_layernorm.weight", size)


def add_mamba2(layers: LayerTensors, module: str) -> None:
    """Mamba 2 (arXiv 2405.21060): heads, groups, a norm before the way out."""
    facts, table = layers.facts, layers.table
    heads = facts.whole("mamba_n_heads", "mamba_num_heads", "num_heads", default=128)
    inner = _inner(layers)
    if facts.has("mamba_head_dim") or not facts.has("mamba_expand"):
        head = facts.whole("mamba_head_dim", "mamba_d_head", "head_dim", default=0)
        inner = facts.whole("mamba_d_ssm", default=heads * head or inner)
    groups = facts.whole("mamba_n_groups", "n_groups", default=1)
    states = facts.whole("mamba_d_state", "ssm_state_size", "state_size", default=128)
    channels = inner + 2 * groups * states
    bias = facts.flag("mamba_proj_bias", default=facts.flag("use_bias", default=False))
    layers.linear(f"{module}in_proj", inner + channels + heads, layers.hidden, bias=bias)
    kernel = _kernel(layers, "mamba_d_conv", "conv_kernel")
    table.plain(f"{module}conv1d.weight", channels, 1, kernel)
    if facts.flag("mamba_conv_bias", default=facts.flag("use_conv_bias", default=True)):
        table.plain(f"{module}conv1d.bias", channels)
    for name in ("A_log", "D", "dt_bias"):
        table.plain(module + name, heads)
    if facts.flag("mamba_rms_norm", default=layers.architecture.model_type != "falcon_h1"):
        table.plain(f"{module}norm.weight", inner)
    layers.linear(f"{module}out_proj", layers.hidden, inner, bias=bias)


def _add_delta_net(layers: LayerTensors, layer: str) -> None:
    """Gated delta net (arXiv 2412.06464); Qwen 3.5 has four ways in where Qwen3-Next has two."""
    facts, table, module = layers.facts, layers.table, f"{layer}linear_attn."
    value_heads = facts.whole("linear_num_value_heads", default=32)
    value_size = facts.whole("linear_value_head_dim", default=128)
    keys = facts.whole("linear_num_key_heads", default=16) * facts.whole(
        "linear_key_head_dim", default=128
    )
    values = value_heads * value_size
    if layers.architecture.model_type.startswith("qwen3_next"):
        layers.linear(f"{module}in_proj_qkvz", 2 * keys + 2 * values, layers.hidden)
        layers.linear(f"{module}in_proj_ba", 2 * value_heads, layers.hidden)
    else:
        layers.linear(f"{module}in_proj_qkv", 2 * keys + values, layers.hidden)
        layers.linear(f"{module}in_proj_z", values, layers.hidden)
        layers.linear(f"{module}in_proj_b", value_heads, layers.hidden)
        layers.linear(f"{module}in_proj_a", value_heads, layers.hidden)
    kernel = _kernel(layers, "linear_conv_kernel_dim")
    table.plain(f"{module}conv1d.weight", 2 * keys + values, 1, kernel)
    table.plain(f"{module}A_log", value_heads)
    table.plain(f"{module}dt_bias", value_heads)
    table.plain(f"{module}norm.weight", value_size)
    layers.linear(f"{module}out_proj", layers.hidden, values)


def _add_short_convolution(layers: LayerTensors, layer: str) -> None:
    module, hidden = f"{layer}conv.", layers.hidden
    bias = layers.facts.flag("conv_bias", default=False)
    layers.linear(f"{module}in_proj", 3 * hidden, hidden, bias=bias)
    kernel = layers.facts.whole("conv_L_cache", default=3, most=_MAX_KERNEL)
    layers.table.plain(f"{module}conv.weight", hidden, 1, kernel)
    if bias:
        layers.table.plain(f"{module}conv.bias", hidden)
    layers.linear(f"{module}out_proj", hidden, hidden, bias=bias)


def _add_recurrent_unit(layers: LayerTensors, layer: str) -> None:
    """Griffin's (arXiv 2402.19427)."""
    module, hidden, table = f"{layer}temporal_block.", layers.hidden, layers.table
    width = layers.facts.whole("lru_width", default=hidden)
    heads = max(1, layers.architecture.attention_heads)
    for name in ("linear_y", "linear_x"):
        layers.linear(module + name, width, hidden, bias=True)
    layers.linear(f"{module}linear_out", hidden, width, bias=True)
    table.plain(f"{module}conv_1d.weight", width, 1, _kernel(layers, "conv1d_width"))
    table.plain(f"{module}conv_1d.bias", width)
    table.plain(f"{module}rg_lru.recurrent_param", width)
    for gate in ("input_gate", "recurrent_gate"):
        each = width // heads
        table.plain(f"{module}rg_lru.{gate}_weight", heads, each, each)
        table.plain(f"{module}rg_lru.{gate}_bias", heads, each)


def _add_lightning(layers: LayerTensors, layer: str) -> None:
    """Lightning attention (arXiv 2401.04658), as MiniMax-Text-01 has it."""
    architecture, module = layers.architecture, f"{layer}self_attn."
    width = architecture.attention_heads * architecture.key_head_size
    layers.linear(f"{module}qkv_proj", 3 * width, layers.hidden)
    layers.linear(f"{module}output_gate", width, layers.hidden)
    layers.linear(f"{module}out_proj", layers.hidden, width)
    layers.table.plain(f"{module}norm.weight", width)


def _add_kimi_delta(layers: LayerTensors, layer: str) -> None:
    """Kimi delta attention (arXiv 2510.26692)."""
    facts, table, module = layers.facts, layers.table, f"{layer}self_attn."
    heads = facts.whole("linear_attn_config.num_heads", default=layers.architecture.attention_heads)
    size = facts.whole("linear_attn_config.head_dim", default=128)
    kernel = _kernel(layers, "linear_attn_config.short_conv_kernel_size")
    width = heads * size
    for name in "qkv":
        layers.linear(f"{module}{name}_proj", width, layers.hidden)
        table.plain(f"{module}{name}_conv1d.weight", width, 1, kernel)
    for name in "fg":
        layers.linear(f"{module}{name}_a_proj", size, layers.hidden)
        layers.linear(f"{module}{name}_b_proj", width, size)
    layers.linear(f"{module}b_proj", heads, layers.hidden)
    table.plain(f"{module}A_log", 1, 1, heads, 1, dtype="F32")
    table.plain(f"{module}dt_bias", width, dtype="F32")
    table.plain(f"{module}o_norm.weight", size)
    layers.linear(f"{module}o_proj", layers.hidden, width)


_BY_FAMILY: dict[str, Callable[[LayerTensors, str], None]] = {
    "lfm2": _add_short_convolution,
    "recurrent_gemma": _add_recurrent_unit,
    "kimi_linear": _add_kimi_delta,
    "jamba": lambda layers, layer: _add_mamba(layers, f"{layer}mamba.", norms=True),
    "mamba2": lambda layers, layer: add_mamba2(layers, f"{layer}mixer."),
    "nemotron_h": lambda layers, layer: add_mamba2(layers, f"{layer}mixer."),
    "mamba": lambda layers, layer: _add_mamba(layers, f"{layer}mixer."),
    "falcon_mamba": lambda layers, layer: _add_mamba(layers, f"{layer}mixer."),
    "falcon_h1": lambda layers, layer: add_mamba2(layers, f"{layer}mamba."),
    "bamba": lambda layers, layer: add_mamba2(layers, f"{layer}mamba."),
    "granitemoehybrid": lambda layers, layer: add_mamba2(layers, f"{layer}mamba."),
    "minimax": _add_lightning,
}
