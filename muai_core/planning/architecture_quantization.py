"""How the weights are packed, from the `quantization_config` of each method. Pure."""

from typing import Any

from muai_core.model.architecture import ModelError, Quantization
from muai_core.planning.architecture_values import MAX_FEED_FORWARD, ConfigValues

_UNQUANTIZED_KEYS = (
    "modules_to_not_convert",
    "ignored_layers",
    "ignore",
    "exclude_modules",
    "llm_int8_skip_modules",
    "exclude",
)
#: (bits, inputs per scale) of methods and algorithms whose name says them.
_BY_NAME: dict[str, tuple[int, int | None]] = {
    "fp8": (8, None),
    "fbgemm_fp8": (8, None),
    "mxfp4": (4, 32),
    "mxfp8": (8, 32),
    "nvfp4": (4, 16),
    "fp4": (4, 16),
    "w4a16_awq": (4, 128),
    "int4_awq": (4, 128),
    "w4a8_awq": (4, 128),
    "int8_sq": (8, None),
    "w8a8_sq_per_channel": (8, None),
    "bitnet": (2, None),
    "eetq": (8, None),
}
_MAX_BITS = 32


def quantization_of(values: ConfigValues) -> Quantization | None:
    """From the config's `quantization_config`; None when there is none.

    Raises ModelError when it does not say its method, or absurd sizes.
    """
    section = values.section("quantization_config", "compression_config")
    if section is None or not section.values:
        return None
    # ModelOpt puts its words into an object of their own.
    inside = section.section("quantization") or section
    method = section.word("quant_method") or _method_by_keys(section)
    if method is None:
        raise ModelError(
            f"{section.where}quant_method is missing: needed is a method, such as "
            "fp8, awq, gptq, compressed-tensors or bitsandbytes"
        )
    bits, group_size, block_shape = _sizes(inside, method)
    return Quantization(
        method=method,
        bits=bits,
        group_size=group_size,
        block_shape=block_shape,
        unquantized=_unquantized(section, inside),
        kv_cache_dtype=_kv_cache_dtype(section, inside),
    )


def _method_by_keys(section: ConfigValues) -> str | None:
    for key, method in (
        ("load_in_8bit", "bitsandbytes"),
        ("load_in_4bit", "bitsandbytes"),
        ("config_groups", "compressed-tensors"),
        ("quantization", "modelopt"),
        ("quant_algo", "modelopt"),
    ):
        if section.find(key)[1] is not None:
            return method
    return None


def _sizes(
    section: ConfigValues, method: str
) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """Bits, inputs per scale, block."""
    if method == "bitsandbytes":
        # Its 4-bit formats have a scale for each 64 values, its 8-bit format one for each row.
        four = section.flag("load_in_4bit") or section.flag("_load_in_4bit") or False
        return (4, 64, None) if four else (8, None, None)
    group = _first_group(section)
    if group is not None:
        section = group
    algorithm = section.word("quant_algo") or method
    known_bits, known_group = _BY_NAME.get(algorithm.lower(), (None, None))
    bits = section.whole("bits", "num_bits", "w_bit", "nbits", "weight_bits", most=_MAX_BITS)
    return bits or known_bits, _group_size(section) or known_group, _block(section)


def _group_size(section: ConfigValues) -> int | None:
    # -1 and 0 are one scale for a whole row.
    size = section.whole("group_size", "q_group_size", least=-1, most=MAX_FEED_FORWARD)
    return size if size is not None and size > 0 else None


def _block(section: ConfigValues) -> tuple[int, int] | None:
    name = "weight_block_size"
    if section.find(name)[1] is None:
        name = "block_structure"
    value = section.find(name)[1]
    if isinstance(value, str):  # "128x128"
        parts = value.split("x", 2)
        sound = all(part.isascii() and part.isdecimal() and len(part) < 9 for part in parts)
        value = [int(part) for part in parts] if sound else parts
    if value is None:
        return None
    checked = ConfigValues({name: value}, section.where)
    sizes = checked.wholes(name, least=1, most=MAX_FEED_FORWARD)
    if sizes is None or len(sizes) != 2:
        raise section.error(name, section.find(name)[1], "two whole numbers, outputs and inputs")
    return sizes[0], sizes[1]


def _first_group(section: ConfigValues) -> ConfigValues | None:
    """`weights` of the first group of compressed-tensors that has any."""
    groups = section.section("config_groups")
    if groups is None:
        return None
    for name in sorted(name for name in groups.values if isinstance(name, str)):
        group = groups.section(name)
        weights = group.section("weights") if group is not None else None
        if weights is not None:
            return weights
    return None


def _unquantized(*sections: ConfigValues) -> tuple[str, ...]:
    for section in sections:
        for key in _UNQUANTIZED_KEYS:
            names = section.words(key)
            if names:
                return names
    # GPTQ names modules that it leaves alone by patterns with a minus in front.
    dynamic = sections[0].section("dynamic")
    patterns: list[Any] = list(dynamic.values) if dynamic is not None else []
    return tuple(
        f"re:{pattern[2:]}"
        for pattern in patterns
        if isinstance(pattern, str) and pattern.startswith("-:")
    )


def _kv_cache_dtype(section: ConfigValues, inside: ConfigValues) -> str | None:
    """Format of keys and values that the checkpoint brings scales for."""
    algorithm = inside.word("kv_cache_quant_algo")
    if algorithm is not None:
        return algorithm.lower()
    scheme = section.section("kv_cache_scheme")
    if scheme is None:
        return None
    bits = scheme.whole("num_bits", most=_MAX_BITS) or 8
    kind = scheme.word("type") or "float"
    if kind == "int":
        return f"int{bits}"
    return "nvfp4" if bits == 4 else f"fp{bits}"
