"""Whether what quantisation packs together still divides when a model is cut over ranks. Pure.

A scale belongs to a group of inputs or to a block, and no engine cuts through one (vLLM:
auto_awq.py "input size is not aligned with the quantized weight shape", fp8_utils.py
validate_fp8_block_shape and validate_fp8_block_shape_moe, kernels/linear/mixed_precision/marlin.py
"a group straddling TP ranks cannot be fixed by padding"). Tiles of a kernel are no obstacle: Marlin
pads them (marlin_utils.py, marlin_padded_nk), as mxfp4 experts are.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from muai_core.model.architecture import Architecture, Quantization
from muai_core.planning.formats import ceil_div
from muai_core.plugin.memory import MemoryProfile


class _Part(Struct, frozen=True):
    """One size of the model that the ranks share."""

    what: str
    size: int
    #: Of a module that has it, in layer 0.
    module: str
    #: What an engine cannot cut through even where nothing is packed.
    unit: int = 1


def alignment_refusals(
    architecture: Architecture, profile: MemoryProfile, ranks: int
) -> Iterator[str]:
    """Why so many ranks cannot share the model; texts that a list of sizes can follow."""
    quantization = architecture.quantization
    if quantization is not None and not profile.sharding.keeps_packed:
        quantization = None
    is_mxfp4 = quantization is not None and quantization.method == "mxfp4"
    for part in _parts(architecture, profile):
        share = part.size / ranks
        if is_mxfp4 and part.module.endswith("experts"):
            continue
        if not profile.limits.heads_must_divide:
            continue
        if part.size % ranks:
            yield f"the model's {part.what} is {part.size}; sizes that divide it"
            continue
        unit = _unit(quantization, part.module)
        if unit > 1 and (part.size // ranks) % unit:
            yield (
                f"the model's {part.what} is {part.size}, {share:g} per rank, which cuts through "
                f"{_named(quantization)} of {unit}; possible"
            )
    yield from _head_refusals(architecture, profile, quantization, ranks)


def _parts(architecture: Architecture, profile: MemoryProfile) -> Iterator[_Part]:
    has_dense = architecture.layer_count > len(architecture.expert_layers)
    if has_dense and architecture.intermediate_size:
        size = architecture.intermediate_size
        yield _Part("feed-forward size", size, "model.layers.0.mlp.down_proj")
    if not architecture.expert_layers:
        return
    if profile.sharding.experts == "tensor" and architecture.expert_intermediate_size:
        size = architecture.expert_intermediate_size
        yield _Part("feed-forward size of an expert", size, "model.layers.0.mlp.experts")
    if architecture.shared_expert_intermediate_size:
        size = architecture.shared_expert_intermediate_size
        module = "model.layers.0.mlp.shared_experts.down_proj"
        yield _Part("feed-forward size of the shared expert", size, module)


def _head_refusals(
    architecture: Architecture,
    profile: MemoryProfile,
    quantization: Quantization | None,
    ranks: int,
) -> Iterator[str]:
    """Queries, keys and values are cut by heads, which must be whole groups, too."""
    if quantization is None or not profile.limits.heads_must_divide:
        return
    heads, kv_heads = architecture.attention_heads, architecture.kv_heads
    if heads % ranks or not {"full", "sliding"}.intersection(architecture.layer_kinds):
        return
    group = _unit(quantization, "model.layers.0.self_attn.o_proj")
    inputs = heads // ranks * architecture.value_head_size
    if group > 1 and inputs % group:
        yield (
            f"{heads // ranks} of {heads} heads have {inputs} values, which cuts through "
            f"{_named(quantization)} of {group}; possible"
        )
    block = quantization.block_shape
    module = "model.layers.0.self_attn.k_proj"
    if block is not None and not _is_unquantized(quantization, module):
        outputs = ceil_div(kv_heads, ranks) * architecture.key_head_size
        if outputs % block[0]:
            yield (
                f"{ceil_div(kv_heads, ranks)} of {kv_heads} KV heads have {outputs} values, which "
                f"cuts through {_named(quantization)} of {block[0]}; possible"
            )


def _unit(quantization: Quantization | None, module: str) -> int:
    """Values along a rank's share that belong together in this module."""
    if quantization is None or _is_unquantized(quantization, module):
        return 1
    if quantization.block_shape is not None:
        outputs, inputs = quantization.block_shape
        return max(outputs, inputs, 1)
    return max(quantization.group_size or 1, 1)


def _named(quantization: Quantization | None) -> str:
    if quantization is not None and quantization.block_shape is not None:
        return f"the {quantization.method} blocks"
    return f"the {quantization.method if quantization else ''} groups"


def _is_unquantized(quantization: Quantization, module: str) -> bool:
    """Whether the checkpoint leaves this module as it was."""
    return any(_names(pattern, module) for pattern in quantization.unquantized)


def _names(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        expression = pattern[3:]
        # A file must not be able to bring an expression that takes forever.
        if len(re.findall(r"[*+{]", expression)) > 4 or re.search(r"\)[*+?{]", expression):
            return False
        try:
            return re.match(expression, module) is not None
        except re.error:
            return False
    return pattern == module or pattern in module.split(".") or module.endswith("." + pattern)
