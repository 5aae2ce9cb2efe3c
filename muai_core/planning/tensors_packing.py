"""How a linear layer's weight is stored: as it is, or packed by a method of quantisation. Pure.

A packing gives what stands for one `weight` of (outputs, inputs): ends of names, formats, shapes.
Sources: the loaders of vLLM (model_executor/layers/quantization/*.py: `create_weights` of each
method) and of transformers (quantizers/*.py, integrations/*.py).
"""

from collections.abc import Callable

from muai_core.model.architecture import Quantization
from muai_core.planning.formats import ceil_div
from muai_core.planning.tensors_settings import Facts

#: End of the name, format, shape.
Piece = tuple[str, str, tuple[int, ...]]
Packing = Callable[[int, int], tuple[Piece, ...]]

_STORED = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
#: Values under one second-level scale, and bytes of the note that bitsandbytes keeps beside a
#: weight (bitsandbytes, functional.py: `quantize_4bit`, `QuantState.as_dict`; its length varies
#: with the digits in it).
_NESTED_BLOCK = 256
_NOTE_BYTES = 160


def stored_dtype(dtype: str) -> str:
    """The safetensors format of an unquantised weight."""
    return _STORED.get(dtype, "BF16")


def plain(dtype: str) -> Packing:
    return lambda outputs, inputs: ((".weight", dtype, (outputs, inputs)),)


def packing_of(facts: Facts) -> Packing:
    """How the quantised linear layers are stored; unquantised ones are as `plain` says."""
    quantization = facts.architecture.quantization
    dtype = stored_dtype(facts.architecture.dtype)
    if quantization is None:
        return plain(dtype)
    method = quantization.method.lower().replace("_", "-")
    if method == "gguf":
        return plain(dtype)
    build = _METHODS.get(method)
    if build is None and method.startswith(("gptq", "auto-round")):
        build = _gptq
    return (build or _unknown)(quantization, facts, dtype)


def _fp8(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    block = quantization.block_shape
    static = facts.word("quantization_config.activation_scheme") == "static"
    scale = quantization.method == "fbgemm_fp8"

    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        weight: Piece = (".weight", "F8_E4M3", (outputs, inputs))
        if block is not None:
            rows, columns = ceil_div(outputs, block[0]), ceil_div(inputs, block[1])
            return weight, (".weight_scale_inv", "F32", (rows, columns))
        if scale:
            return weight, (".weight_scale", "F32", (outputs, 1))
        factor: Piece = (".weight_scale", "F32", ())
        return (weight, factor, (".input_scale", "F32", ())) if static else (weight, factor)

    return pieces


def _awq(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    bits, group = quantization.bits or 4, quantization.group_size

    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        groups, packed = ceil_div(inputs, group or inputs), ceil_div(outputs * bits, 32)
        return (
            (".qweight", "I32", (inputs, packed)),
            (".qzeros", "I32", (groups, packed)),
            (".scales", "F16", (groups, outputs)),
        )

    return pieces


def _gptq(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    bits, group = quantization.bits or 4, quantization.group_size

    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        groups = ceil_div(inputs, group or inputs)
        return (
            (".g_idx", "I32", (inputs,)),
            (".qweight", "I32", (ceil_div(inputs * bits, 32), outputs)),
            (".qzeros", "I32", (groups, ceil_div(outputs * bits, 32))),
            (".scales", "F16", (groups, outputs)),
        )

    return pieces


def _compressed(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    bits, group = quantization.bits or 8, quantization.group_size
    weights = "quantization_config.config_groups.group_0.weights."
    form = facts.word("quantization_config.format")
    form = form or facts.word("quantization_config.config_groups.group_0.format")
    asymmetric = not facts.flag(f"{weights}symmetric", default=True)
    floating = facts.word(f"{weights}type") != "int"
    if form.startswith("nvfp4"):
        return _nvfp4(".weight_packed", ".weight_global_scale", ".input_global_scale", (1,))
    if form.startswith("mxfp4"):
        return lambda outputs, inputs: (
            (".weight_packed", "U8", (outputs, ceil_div(inputs, 2))),
            (".weight_scale", "U8", (outputs, ceil_div(inputs, group or 32))),
        )
    if form.startswith("pack") or (bits < 8 and not form):
        return _packed(bits, group, dtype, asymmetric=asymmetric)
    whole = facts.word(f"{weights}strategy") == "tensor"
    inputs_of = "quantization_config.config_groups.group_0.input_activations."
    static = facts.has(f"{inputs_of}dynamic") and not facts.flag(
        f"{inputs_of}dynamic", default=True
    )
    return _eight_bits(quantization, dtype, floating=floating, whole=whole, static=static)


def _packed(bits: int, group: int | None, dtype: str, *, asymmetric: bool) -> Packing:
    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        groups = ceil_div(inputs, group or inputs)
        symmetric: tuple[Piece, ...] = (
            (".weight_packed", "I32", (outputs, ceil_div(inputs * bits, 32))),
            (".weight_scale", dtype, (outputs, groups)),
            (".weight_shape", "I64", (2,)),
        )
        if not asymmetric:
            return symmetric
        zeros = (ceil_div(outputs * bits, 32), groups)
        return (*symmetric, (".weight_zero_point", "I32", zeros))

    return pieces


def _eight_bits(
    quantization: Quantization, dtype: str, *, floating: bool, whole: bool, static: bool
) -> Packing:
    block, group = quantization.block_shape, quantization.group_size
    stored = "F8_E4M3" if floating else "I8"

    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        if block is not None:
            scales = (ceil_div(outputs, block[0]), ceil_div(inputs, block[1]))
        elif whole:
            scales = (1, 1)
        else:
            scales = (outputs, ceil_div(inputs, group or inputs))
        factors: Piece = (".weight_scale", dtype, (1,) if whole else scales)
        weight: Piece = (".weight", stored, (outputs, inputs))
        return (weight, factors, (".input_scale", dtype, (1,))) if static else (weight, factors)

    return pieces


def _nvfp4(packed: str, factor: str, inputs_factor: str, shape: tuple[int, ...]) -> Packing:
    return lambda outputs, inputs: (
        (packed, "U8", (outputs, ceil_div(inputs, 2))),
        (".weight_scale", "F8_E4M3", (outputs, ceil_div(inputs, 16))),
        (factor, "F32", shape),
        (inputs_factor, "F32", shape),
    )


def _modelopt(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    if quantization.bits == 4 and quantization.group_size == 16:
        return _nvfp4(".weight", ".weight_scale_2", ".input_scale", ())
    if quantization.bits == 8 or quantization.bits is None:
        return lambda outputs, inputs: (
            (".weight", "F8_E4M3", (outputs, inputs)),
            (".weight_scale", "F32", ()),
            (".input_scale", "F32", ()),
        )
    return _unknown(quantization, facts, dtype)


def _bitsandbytes(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    if quantization.bits != 4:
        return lambda outputs, inputs: (
            (".weight", "I8", (outputs, inputs)),
            (".SCB", "F32", (outputs,)),
            (".weight_format", "U8", ()),
        )
    nested = facts.flag("quantization_config.bnb_4bit_use_double_quant", default=False)
    code = facts.word("quantization_config.bnb_4bit_quant_type") or "fp4"

    def pieces(outputs: int, inputs: int) -> tuple[Piece, ...]:
        blocks = ceil_div(outputs * inputs, quantization.group_size or 64)
        always: tuple[Piece, ...] = (
            (".weight", "U8", (ceil_div(outputs * inputs, 2), 1)),
            (".weight.absmax", "U8" if nested else "F32", (blocks,)),
            (".weight.quant_map", "F32", (16,)),
            (f".weight.quant_state.bitsandbytes__{code}", "U8", (_NOTE_BYTES,)),
        )
        if not nested:
            return always
        return (
            *always,
            (".weight.nested_absmax", "F32", (ceil_div(blocks, _NESTED_BLOCK),)),
            (".weight.nested_quant_map", "F32", (_NESTED_BLOCK,)),
        )

    return pieces


def _unknown(quantization: Quantization, facts: Facts, dtype: str) -> Packing:
    """Whole bytes of values, and a scale for each group or row; as they are if no bits are said."""
    bits, group = quantization.bits, quantization.group_size
    if bits is None or bits >= 16:
        return plain(dtype)
    return lambda outputs, inputs: (
        (".weight", "U8", (outputs, ceil_div(inputs * bits, 8))),
        (".weight_scale", dtype, (outputs, ceil_div(inputs, group or inputs))),
    )


_METHODS: dict[str, Callable[[Quantization, Facts, str], Packing]] = {
    "fp8": _fp8,
    "fbgemm-fp8": _fp8,
    "awq": _awq,
    "gptq": _gptq,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "bitsandbytes": _bitsandbytes,
    # Only fused experts are in mxfp4, see tensors_experts.
    "mxfp4": lambda quantization, facts, dtype: plain(dtype),
}
