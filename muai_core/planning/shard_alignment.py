"""Whether what quantisation packs together still divides when a model is cut over ranks. Pure.

A scale belongs to a group of inputs or to a block, and no engine cuts through one (vLLM:
auto_awq.py "input size is not aligned with the quantized weight shape", fp8_utils.py
validate_fp8_block_shape and validate_fp8_block_shape_moe, kernels/linear/mixed_precision/marlin.py
"a group straddling TP ranks cannot be fixed by padding"). Tiles of a kernel are no obstacle: Marlin
pads them (marlin_utils.py, marlin_padded_nk), as mxfp4 experts are.
"""

from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from muai_core.model.architecture import Architecture, ModelError, Quantization
from muai_core.planning.formats import ceil_div
from muai_core.planning.tensors_unquantized import UnquantizedModules
from muai_core.plugin.memory import MemoryProfile


class _Part(Struct, frozen=True):
    """One size of the model that the ranks share."""

    what: str
    size: int
    #: Of a module that has it, in a layer in the middle: the first and the last are often left as
    #: they were.
    module: str


def alignment_refusals(
    architecture: Architecture, profile: MemoryProfile, ranks: int
) -> Iterator[str]:
    """Why so many ranks cannot share the model; texts that a list of sizes can follow."""
    quantization = architecture.quantization
    if quantization is not None and not profile.sharding.keeps_packed:
        quantization = None
    is_mxfp4 = quantization is not None and quantization.method == "mxfp4"
    for part in _parts(architecture, profile):
        if is_mxfp4 and part.module.endswith("experts"):
            continue
        if not profile.limits.heads_must_divide:
            continue
        if part.size % ranks:
            yield f"the model's {part.what} is {part.size}; sizes that divide it"
            continue
        unit = _unit(quantization, part.module)
        share = part.size // ranks
        if unit > 1 and share % unit:
            yield (
                f"the model's {part.what} is {part.size}, {share} per rank, which cuts through "
                f"{_named(quantization)} of {unit}; possible"
            )
    yield from _head_refusals(architecture, profile, quantization, ranks)


def _parts(architecture: Architecture, profile: MemoryProfile) -> Iterator[_Part]:
    layer = _middle_layer(architecture)
    has_dense = architecture.layer_count > len(architecture.expert_layers)
    if has_dense and architecture.intermediate_size:
        size = architecture.intermediate_size
        yield _Part("feed-forward size", size, f"{layer}.mlp.down_proj")
    if not architecture.expert_layers:
        return
    if profile.sharding.experts == "tensor" and architecture.expert_intermediate_size:
        size = architecture.expert_intermediate_size
        yield _Part("feed-forward size of an expert", size, f"{layer}.mlp.experts")
    if architecture.shared_expert_intermediate_size:
        size = architecture.shared_expert_intermediate_size
        module = f"{layer}.mlp.shared_experts.down_proj"
        yield _Part("feed-forward size of the shared expert", size, module)


def _middle_layer(architecture: Architecture) -> str:
    return f"model.layers.{architecture.layer_count // 2}"


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
    layer = _middle_layer(architecture)
    group = _unit(quantization, f"{layer}.self_attn.o_proj")
    inputs = heads // ranks * architecture.value_head_size
    if group > 1 and inputs % group:
        yield (
            f"{heads // ranks} of {heads} heads have {inputs} values, which cuts through "
            f"{_named(quantization)} of {group}; possible"
        )
    block = quantization.block_shape
    module = f"{layer}.self_attn.k_proj"
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
    modules = _unquantized(quantization.unquantized)
    return modules is not None and module in modules


@lru_cache(maxsize=64)  # asked for every part and size, and a checkpoint may list hundreds
def _unquantized(entries: tuple[str, ...]) -> UnquantizedModules | None:
    """None where the list cannot be read: then all is taken as quantised, which refuses more."""
    try:
        return UnquantizedModules(entries)
    except ModelError:
        return None
