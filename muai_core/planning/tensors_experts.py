"""A layer's experts: router, one set of weights for each or one for all, the shared one. Pure."""

from muai_core.planning.formats import ceil_div
from muai_core.planning.tensors_layers import LayerTensors


def add_experts(layers: LayerTensors, layer: str) -> None:
    """All of a layer's experts; `layer` is its prefix, with the dot."""
    style, table, architecture = layers.style.experts, layers.table, layers.architecture
    block = f"{layer}{style.block}."
    table.plain(f"{block}{style.router or 'gate'}.weight", architecture.experts, layers.hidden)
    if style.router_bias:
        table.plain(f"{block}{style.router}.bias", architecture.experts)
    if style.correction:
        rows = (1,) if style.correction_rows else ()
        shape = (*rows, architecture.experts)
        table.plain(block + style.correction, *shape, dtype=style.correction_dtype)
    size = architecture.expert_intermediate_size
    if architecture.model_type == "dbrx":
        _add_flat(layers, f"{block}experts.mlp.", size)
    elif table.method == "mxfp4" and style.biases:
        _add_mxfp4(layers, f"{block}{style.experts}", size)
    elif style.stacked and not (table.quantized and style.up):
        _add_stacked(layers, f"{block}{style.experts}", size)
    else:
        _add_single(layers, f"{block}{style.experts}", size)
    _add_shared(layers, layer, block)


def _add_single(layers: LayerTensors, experts: str, size: int) -> None:
    style, count = layers.style.experts, layers.architecture.experts
    for name in (style.gate, style.up):
        if name:
            modules = [f"{experts}{index}.{name}" for index in range(count)]
            layers.table.linears(modules, size, layers.hidden)
    downs = [f"{experts}{index}.{style.down}" for index in range(count)]
    layers.table.linears(downs, layers.hidden, size)


def _add_stacked(layers: LayerTensors, experts: str, size: int) -> None:
    """One tensor for all experts, gate and up in one."""
    style, table = layers.style.experts, layers.table
    count, hidden = layers.architecture.experts, layers.hidden
    fused = style.gate if not style.up else "gate_up_proj"
    if style.stacked == "inputs_first":
        table.plain(experts + fused, count, hidden, 2 * size)
        table.plain(experts + style.down, count, size, hidden)
    else:
        table.plain(experts + fused, count, 2 * size, hidden)
        table.plain(experts + style.down, count, hidden, size)
    if style.biases:
        _add_biases(layers, experts, size)


def _add_biases(layers: LayerTensors, experts: str, size: int) -> None:
    count = layers.architecture.experts
    layers.table.plain(f"{experts}gate_up_proj_bias", count, 2 * size)
    layers.table.plain(f"{experts}down_proj_bias", count, layers.hidden)


def _add_mxfp4(layers: LayerTensors, experts: str, size: int) -> None:
    """Blocks of 32 values in 16 bytes, one byte of scale for each (OCP MX specification 1.0)."""
    count = layers.architecture.experts
    for name, outputs, inputs in (
        ("gate_up_proj", 2 * size, layers.hidden),
        ("down_proj", layers.hidden, size),
    ):
        blocks = ceil_div(inputs, 32)
        layers.table.plain(f"{experts}{name}_blocks", count, outputs, blocks, 16, dtype="U8")
        layers.table.plain(f"{experts}{name}_scales", count, outputs, blocks, dtype="U8")
    _add_biases(layers, experts, size)


def _add_flat(layers: LayerTensors, experts: str, size: int) -> None:
    """DBRX: the experts' rows one after the other."""
    for name in ("w1", "v1", "w2"):
        layers.table.plain(experts + name, layers.architecture.experts * size, layers.hidden)


def _add_shared(layers: LayerTensors, layer: str, block: str) -> None:
    style, size = layers.style.experts, layers.architecture.shared_expert_intermediate_size
    if not style.shared or not size:
        return
    beside = style.shared.removeprefix("../")
    shared = f"{layer}{beside}." if beside != style.shared else f"{block}{style.shared}."
    if style.shared_fused:
        layers.linear(shared + style.shared_fused, 2 * size, layers.hidden)
        layers.linear(shared + style.shared_down, layers.hidden, size)
    else:
        layers.feed_forward(shared, size)
    if style.shared_gate:
        layers.table.plain(f"{block}{style.shared_gate}.weight", 1, layers.hidden)
