"""Bytes of weights on one rank, tensor by tensor. Pure."""

from collections import Counter
from math import prod

from msgspec import Struct, structs

from muai_core.model.architecture import Architecture, ModelDescription, Quantization, TensorInfo
from muai_core.planning.formats import (
    ACTIVATION_BYTES,
    FLOATS,
    STORED_BITS,
    ceil_div,
    round_up,
)
from muai_core.planning.roles import Role, role_of
from muai_core.planning.tensor_cuts import (
    Cut,
    HeadShares,
    cut_axis,
    cut_of,
    head_shares,
    largest_inner_share,
)
from muai_core.plugin.memory import MemoryProfile, Sharding

#: Engines keep these in float32 whatever the dtype: vLLM's Mamba and linear-attention layers
#: (A_log) and its routers with a bias (e_score_correction_bias).
_KEPT_FLOAT32 = frozenset({"A_log", "e_score_correction_bias"})


class RankWeights(Struct, frozen=True):
    """Bytes of weights on one rank, by the part of the model that they belong to."""

    layers: tuple[int, ...]
    first: int
    last: int
    #: The embedding that is the output head, too: in `first` and in `last`.
    tied: int


class _Piece(Struct, frozen=True):
    """Tensors of one layer, or of one end of the model, that are cut and counted alike."""

    cut: Cut
    #: In memory, whole.
    size_bytes: int
    #: Of the dimension that is cut; 1 for a whole tensor.
    dimension: int
    #: Of an expert in mxfp4, which engines pad.
    padded: bool = False


class LoadedWeights(Struct, frozen=True):
    """A model's weights as an engine holds them, before they are cut."""

    architecture: Architecture
    layers: tuple[tuple[tuple[_Piece, int], ...], ...]
    first: tuple[tuple[_Piece, int], ...]
    last: tuple[tuple[_Piece, int], ...]
    #: The embedding if it is the output head, too, and the head that it is.
    tied: tuple[tuple[_Piece, int], ...]
    tied_head: tuple[tuple[_Piece, int], ...]
    heads_must_divide: bool
    sharding: Sharding
    #: Angles of rotary positions, on every rank.
    rotary_bytes: int

    def on_rank(self, ranks: int) -> RankWeights:
        """With so many tensor-parallel ranks."""
        shares = head_shares(self.architecture, self.heads_must_divide, ranks)

        def total(pieces: tuple[tuple[_Piece, int], ...]) -> int:
            return sum(self._share(piece, shares, ranks) * count for piece, count in pieces)

        # A head that is cut in another way than the embedding cannot be one tensor with it.
        is_apart = self.sharding.output_head == "hidden" and ranks > 1
        return RankWeights(
            layers=tuple(total(pieces) for pieces in self.layers),
            first=total(self.first) + self.rotary_bytes,
            last=total(self.last) + total(self.tied_head) + self.rotary_bytes,
            tied=self.rotary_bytes + (0 if is_apart else total(self.tied)),
        )

    def _share(self, piece: _Piece, shares: HeadShares, ranks: int) -> int:
        size, dimension = piece.size_bytes, piece.dimension
        if piece.cut is Cut.WHOLE:
            return size
        if piece.cut is Cut.VOCABULARY:
            padded = round_up(dimension, self.sharding.vocabulary_multiple)
            return ceil_div(size * ceil_div(padded, ranks), dimension)
        if piece.cut is Cut.HEADS:
            return _part(size, shares.heads)
        if piece.cut is Cut.KV_HEADS:
            return _part(size, shares.kv_heads)
        if piece.cut is Cut.QKV:
            query, key_value = _qkv_outputs(self.architecture)
            of_queries = ceil_div(size * query, query + key_value)
            return _part(of_queries, shares.heads) + _part(size - of_queries, shares.kv_heads)
        if piece.padded:
            inner, hidden = self.sharding.mxfp4_multiples
            own = self.architecture.expert_intermediate_size, self.architecture.hidden_size
            padded = round_up(ceil_div(own[0], ranks), inner) * round_up(own[1], hidden)
            return ceil_div(size * padded, own[0] * own[1])
        share = largest_inner_share(dimension, ranks, self.sharding.inner_multiple)
        return ceil_div(size * share, dimension)


def loaded_weights(model: ModelDescription, profile: MemoryProfile, dtype: str) -> LoadedWeights:
    """Every tensor that the engine loads, sized as it holds it, with activations in `dtype`."""
    architecture = model.architecture
    count = architecture.layer_count
    layers: list[Counter[_Piece]] = [Counter() for _ in range(count)]
    first: Counter[_Piece] = Counter()
    last: Counter[_Piece] = Counter()
    embedding: Counter[_Piece] = Counter()
    head: Counter[_Piece] = Counter()
    tied_head: Counter[_Piece] = Counter()
    quantization = architecture.quantization
    for tensor in model.tensors:
        role = role_of(tensor.name, count)
        if role.kind in ("mtp", "buffer"):
            continue
        piece = _piece(tensor, role, quantization, profile.sharding, dtype)
        if role.layer is not None and role.kind != "vision":
            layers[role.layer][piece] += 1
        elif role.kind == "embedding":
            if "per_layer" in tensor.name:
                first[piece] += 1
                continue
            embedding[piece] += 1
            as_head = structs.replace(role, kind="output_head")
            tied_head[_piece(tensor, as_head, quantization, profile.sharding, dtype)] += 1
        elif role.kind == "output_head":
            head[piece] += 1
        elif role.kind == "norm" and "embed" not in tensor.name:
            last[piece] += 1
        else:
            first[piece] += 1
    is_tied = architecture.tied_embeddings or not head
    if not is_tied:
        last += head
    return LoadedWeights(
        architecture=architecture,
        layers=tuple(tuple(pieces.items()) for pieces in layers),
        first=tuple((first + embedding).items()),
        last=tuple(last.items()),
        tied=tuple(embedding.items()) if is_tied else (),
        tied_head=tuple(tied_head.items()) if is_tied else (),
        heads_must_divide=profile.limits.heads_must_divide,
        sharding=profile.sharding,
        rotary_bytes=_rotary_bytes(model, profile.sharding, dtype),
    )


def _rotary_bytes(model: ModelDescription, sharding: Sharding, dtype: str) -> int:
    """Sine and cosine of each position (vLLM, rotary_embedding/base.py, cos_sin_cache)."""
    architecture = model.architecture
    if not sharding.keeps_rotary_table or not {"full", "sliding", "mla"}.intersection(
        architecture.layer_kinds
    ):
        return 0
    # Positions that are learnt are no angles.
    if any(role_of(one.name).kind == "position_embedding" for one in model.tensors[:64]):
        return 0
    size = architecture.qk_rope_head_size or architecture.key_head_size
    return (architecture.context_tokens or 0) * size * ACTIVATION_BYTES[dtype]


def _piece(
    tensor: TensorInfo,
    role: Role,
    quantization: Quantization | None,
    sharding: Sharding,
    dtype: str,
) -> _Piece:
    size = loaded_bytes(tensor, role, quantization, sharding.keeps_packed, dtype)
    if sharding.unpacks_mla_projection and _is_packed_mla_projection(tensor, role):
        # vLLM, attention/mla_attention.py: W_UK and W_UV, out of a dequantised copy.
        size += elements(tensor) * packed_values(tensor, quantization) * ACTIVATION_BYTES[dtype]
    cut = cut_of(role, sharding)
    axis = None if cut.cut is Cut.WHOLE else cut_axis(tensor, role, cut)
    if axis is None:
        return _Piece(Cut.WHOLE, size, 1)
    is_padded = (
        sharding.mxfp4_multiples != (1, 1)
        and quantization is not None
        and quantization.method == "mxfp4"
        and role.part in ("weight", "scale")
        and role.kind.startswith("expert_")
    )
    return _Piece(cut.cut, size, tensor.shape[axis], is_padded)


def _is_packed_mla_projection(tensor: TensorInfo, role: Role) -> bool:
    return (
        role.kind == "mla_up"
        and role.part == "weight"
        and "kv_b" in tensor.name
        and tensor.dtype not in FLOATS
    )


def loaded_bytes(
    tensor: TensorInfo,
    role: Role,
    quantization: Quantization | None,
    keeps_packed: bool,
    dtype: str,
) -> int:
    """Bytes of a whole tensor in memory.

    Floating-point weights are cast to `dtype`. What is packed stays as stored, scales with it, or
    is unpacked to `dtype`, and its scales are gone.
    """
    if role.part in ("scale", "zero_point", "index"):
        return tensor.size_bytes if keeps_packed else 0
    if tensor.dtype in FLOATS and tensor.name.rpartition(".")[2] in _KEPT_FLOAT32:
        return elements(tensor) * 4
    if tensor.dtype in FLOATS:
        return elements(tensor) * ACTIVATION_BYTES[dtype]
    if keeps_packed:
        return tensor.size_bytes
    return elements(tensor) * packed_values(tensor, quantization) * ACTIVATION_BYTES[dtype]


def elements(tensor: TensorInfo) -> int:
    """As stored: of packed weights, the integers."""
    return prod(tensor.shape)


def packed_values(tensor: TensorInfo, quantization: Quantization | None) -> int:
    """How many weights one stored integer packs; a GGUF type counts weights."""
    if tensor.dtype.startswith("I") or tensor.dtype in ("U8", "U32"):
        bits = (quantization.bits if quantization else None) or 8
        return max(1, STORED_BITS.get(tensor.dtype, bits) // bits)
    return 1


def _part(size: int, share: tuple[int, int]) -> int:
    return ceil_div(size * share[0], share[1])


def _qkv_outputs(architecture: Architecture) -> tuple[int, int]:
    """Outputs of a joint layer that are queries, and that are keys or values."""
    head = architecture.key_head_size
    per_kv_head = head + architecture.value_head_size
    return architecture.attention_heads * head, architecture.kv_heads * per_kv_head
