"""Number formats: how many bytes a value takes as stored, in memory, and in the KV cache."""

from fractions import Fraction

from muai_core.model.architecture import ModelError

#: Floating-point formats of safetensors and GGUF that an engine casts to the activations' format.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

#: Bits per stored element of the safetensors formats (safetensors, README, "Format").
STORED_BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}

#: Bytes per value that activations may have.
ACTIVATION_BYTES = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
_SHORT_NAMES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}

#: Bytes per value of a KV cache. nvfp4: 4 bits, and an 8-bit scale for each 16 values.
_KV_BYTES = {
    "int8": Fraction(1),
    "nvfp4": Fraction(9, 16),
}


def activation_dtype(dtype: str) -> str:
    """The full name of a format, such as "bfloat16" for "bf16" or "torch.bfloat16".

    Raises ModelError when values cannot be computed in it.
    """
    name = dtype.removeprefix("torch.")
    name = {**_SHORT_NAMES, "float": "float32"}.get(name, name)
    if name not in ACTIVATION_BYTES:
        known = ", ".join(ACTIVATION_BYTES)
        raise ModelError(f"dtype {dtype} is not known; one of: auto, {known}")
    return name


def kv_value_bytes(kv_cache_dtype: str) -> Fraction:
    """Bytes per value of a KV cache in a format other than "auto". Raises ModelError."""
    if kv_cache_dtype.startswith("fp8"):
        return Fraction(1)
    if kv_cache_dtype in _KV_BYTES:
        return _KV_BYTES[kv_cache_dtype]
    try:
        return Fraction(ACTIVATION_BYTES[activation_dtype(kv_cache_dtype)])
    except ModelError:
        known = ", ".join((*ACTIVATION_BYTES, "fp8", *_KV_BYTES))
        raise ModelError(
            f"kv_cache_dtype {kv_cache_dtype} is not known; one of: auto, {known}"
        ) from None


def ceil_div(value: int, divisor: int) -> int:
    """Rounded up, in integers."""
    return -(-value // divisor)


def round_up(value: int, multiple: int) -> int:
    """The next multiple that is no less."""
    return ceil_div(value, multiple) * multiple
