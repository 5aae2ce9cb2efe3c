"""Along what an engine cuts a tensor over its ranks, and what share of the heads a rank gets. Pure.

The rule of Megatron-LM (arXiv 1909.08053, section 3), which vLLM and DeepSpeed's AutoTP follow: a
layer that leads into heads or into the inner size of a feed-forward part is cut along its outputs,
one that leads out of them along its inputs.
"""

from enum import Enum, auto

from msgspec import Struct

from muai_core.model.architecture import Architecture, TensorInfo
from muai_core.planning.formats import ceil_div
from muai_core.planning.roles import Role, RoleKind
from muai_core.plugin.memory import Sharding


class Cut(Enum):
    """Along what the ranks share a tensor."""

    #: Every rank has all of it.
    WHOLE = auto()
    #: By attention heads.
    HEADS = auto()
    #: By heads of keys and values, repeated where there are fewer than ranks.
    KV_HEADS = auto()
    #: Queries, keys and values in one tensor.
    QKV = auto()
    #: Evenly, along the inner size of a feed-forward part or of a layer of constant state.
    INNER = auto()
    VOCABULARY = auto()


class TensorCut(Struct, frozen=True):
    cut: Cut
    #: Whether the inputs are cut; else the outputs.
    along_inputs: bool = False


_WHOLE = TensorCut(Cut.WHOLE)
#: Of an output head that is cut along its inputs.
HIDDEN = TensorCut(Cut.INNER, along_inputs=True)
_CUTS: dict[RoleKind, TensorCut] = {
    "embedding": TensorCut(Cut.VOCABULARY),
    "output_head": TensorCut(Cut.VOCABULARY),
    "attention_q": TensorCut(Cut.HEADS),
    "attention_gate": TensorCut(Cut.HEADS),
    "attention_sink": TensorCut(Cut.HEADS),
    "mla_up": TensorCut(Cut.HEADS),
    "attention_k": TensorCut(Cut.KV_HEADS),
    "attention_v": TensorCut(Cut.KV_HEADS),
    "attention_qkv": TensorCut(Cut.QKV),
    "attention_o": TensorCut(Cut.HEADS, along_inputs=True),
    "expert_gate": TensorCut(Cut.INNER),
    "expert_up": TensorCut(Cut.INNER),
    "expert_gate_up": TensorCut(Cut.INNER),
    "expert_down": TensorCut(Cut.INNER, along_inputs=True),
    "shared_expert_gate": TensorCut(Cut.INNER),
    "shared_expert_up": TensorCut(Cut.INNER),
    "shared_expert_gate_up": TensorCut(Cut.INNER),
    "shared_expert_down": TensorCut(Cut.INNER, along_inputs=True),
    "mlp_gate": TensorCut(Cut.INNER),
    "mlp_up": TensorCut(Cut.INNER),
    "mlp_gate_up": TensorCut(Cut.INNER),
    "mlp_down": TensorCut(Cut.INNER, along_inputs=True),
    "linear_attention_in": TensorCut(Cut.INNER),
    "linear_attention_conv": TensorCut(Cut.INNER),
    "linear_attention_x": TensorCut(Cut.INNER, along_inputs=True),
    "linear_attention_dt": TensorCut(Cut.INNER),
    "linear_attention_state": TensorCut(Cut.INNER),
    "linear_attention_out": TensorCut(Cut.INNER, along_inputs=True),
}
_EXPERTS = frozenset({"expert_gate", "expert_up", "expert_gate_up", "expert_down"})


def cut_of(role: Role, sharding: Sharding) -> TensorCut:
    """How the engine cuts tensors of this role; norms, routers and what is unknown stay whole."""
    if role.kind == "embedding" and sharding.embedding == "replicated":
        return _WHOLE
    if role.kind == "output_head" and sharding.output_head != "vocabulary":
        return HIDDEN if sharding.output_head == "hidden" else _WHOLE
    if role.kind in _EXPERTS and sharding.experts == "replicated":
        return _WHOLE
    return _CUTS.get(role.kind, _WHOLE)


def cut_axis(tensor: TensorInfo, role: Role, cut: TensorCut) -> int | None:
    """Index of the dimension that is cut; None: the tensor has no such dimension, so it is whole.

    A bias and a scale per output have no inputs, a scale of a whole tensor has neither.
    """
    shape = tensor.shape
    # All experts of a layer in one tensor: one dimension more, before the others.
    first = 1 if role.kind in _EXPERTS and role.expert is None and len(shape) > 1 else 0
    own = shape[first:]
    if not own or all(size == 1 for size in own):
        return None
    if tensor.name.endswith("g_idx"):
        return first if cut.along_inputs else None
    if role.part == "index":
        return None
    if len(own) == 1 or role.part == "bias":
        return None if cut.along_inputs else first
    # AutoAWQ and GPTQModel store (inputs, outputs); all others (outputs, inputs).
    inputs_first = tensor.name.rpartition(".")[2] in ("qweight", "qzeros", "scales")
    axis = first + (1 if cut.along_inputs != inputs_first else 0)
    return axis if shape[axis] > 1 else None


class HeadShares(Struct, frozen=True):
    """How many of the heads the largest rank has, as (part, whole)."""

    heads: tuple[int, int]
    kv_heads: tuple[int, int]


def head_shares(architecture: Architecture, heads_must_divide: bool, ranks: int) -> HeadShares:
    """Shares of attention heads with so many ranks; keys and values have one head at least.

    A model without attention has nothing to share.
    An engine that lets heads be left over cuts all by the heads of keys and values (DeepSpeed,
    module_inject/tp_shard.py, get_shard_size).
    """
    if not architecture.kv_heads or not architecture.attention_heads:
        return HeadShares((1, 1), (1, 1))
    kv_heads = (ceil_div(architecture.kv_heads, ranks), architecture.kv_heads)
    if not heads_must_divide:
        return HeadShares(kv_heads, kv_heads)
    heads = (ceil_div(architecture.attention_heads, ranks), architecture.attention_heads)
    return HeadShares(heads, kv_heads)


def largest_inner_share(size: int, ranks: int, multiple: int) -> int:
    """Of an inner size, on the rank that has most of it (DeepSpeed's `get_shard_size`)."""
    if size < multiple * ranks:
        return ceil_div(size, ranks)
    grains, rest = divmod(size, multiple)
    each, left = divmod(grains, ranks)
    return max((each + (left > 0)) * multiple, each * multiple + rest)
