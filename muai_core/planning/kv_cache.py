"""Bytes of keys and values on one rank, layer by layer. Pure.

Sources: vLLM v1/kv_cache_interface.py (AttentionSpec, MLAAttentionSpec, SlidingWindowSpec,
MambaSpec) for paged caches; transformers' DynamicCache for the others, with blocks of one token.
Both hold the latent vectors of MLA, not the keys and values that come out of them.
"""

from fractions import Fraction
from math import ceil

from msgspec import Struct

from muai_core.model.architecture import Architecture, ModelError
from muai_core.planning.formats import ACTIVATION_BYTES, ceil_div, kv_value_bytes
from muai_core.plugin.memory import MemoryProfile


class RankKvCache(Struct, frozen=True):
    """One entry per layer, in bytes."""

    #: For the requested context and concurrency.
    layers: tuple[int, ...]
    #: For one more token of a long sequence.
    per_token: tuple[int, ...]


def kv_value_size(
    architecture: Architecture, profile: MemoryProfile, kv_cache_dtype: str, dtype: str
) -> Fraction:
    """Bytes per value; "auto" is the checkpoint's own format if it has one, else the activations'.

    Raises ModelError for a format that the engine does not offer.
    """
    if kv_cache_dtype != "auto":
        if kv_cache_dtype not in profile.kv_cache.dtypes:
            offered = ", ".join(profile.kv_cache.dtypes)
            raise ModelError(f"kv_cache_dtype {kv_cache_dtype} is not possible; one of: {offered}")
        return kv_value_bytes(kv_cache_dtype)
    own = architecture.quantization.kv_cache_dtype if architecture.quantization else None
    if own is not None and own != "auto" and own in profile.kv_cache.dtypes:
        return kv_value_bytes(own)
    return Fraction(ACTIVATION_BYTES[dtype])


def rank_kv_cache(
    architecture: Architecture,
    profile: MemoryProfile,
    kv_cache_dtype: str,
    dtype: str,
    ranks: int,
    context_tokens: int,
    concurrency: int,
) -> RankKvCache:
    """With so many tensor-parallel ranks, for `concurrency` sequences of `context_tokens` each.

    Raises ModelError for a format that the engine does not offer.
    """
    value_bytes = kv_value_size(architecture, profile, kv_cache_dtype, dtype)
    tokens = _Tokens(architecture, profile, context_tokens, concurrency)
    by_kind: dict[str, tuple[int, int]] = {}
    for kind in dict.fromkeys(architecture.layer_kinds):
        # One sequence's state, in layers that have one in place of keys and values or beside them.
        state = 0
        if kind == "linear" or (architecture.state_beside_attention and kind != "none"):
            state = ceil_div(architecture.linear_state_values, ranks) * ACTIVATION_BYTES[dtype]
        per_token = token_bytes(architecture, profile, kind, value_bytes, ranks)
        trimmed = kind == "sliding" and tokens.window is not None
        held = tokens.sliding if trimmed else tokens.full
        by_kind[kind] = state * concurrency + held * per_token, 0 if trimmed else per_token
    shared = frozenset(architecture.kv_shared_layers)
    found = [
        (0, 0) if layer in shared else by_kind[kind]
        for layer, kind in enumerate(architecture.layer_kinds)
    ]
    return RankKvCache(tuple(one[0] for one in found), tuple(one[1] for one in found))


def token_bytes(
    architecture: Architecture,
    profile: MemoryProfile,
    kind: str,
    value_bytes: Fraction,
    ranks: int,
) -> int:
    """Of one token in one layer of this kind, on one rank."""
    if kind in ("none", "linear"):
        return 0
    if kind == "mla":
        # One latent vector for all heads: every rank has it whole.
        values = (architecture.kv_lora_rank or 0) + (architecture.qk_rope_head_size or 0)
    else:
        size = architecture.key_head_size + architecture.value_head_size
        values = ceil_div(architecture.kv_heads, ranks) * size
    return ceil(values * value_bytes)


class _Tokens:
    """Tokens that a layer holds, in whole blocks."""

    def __init__(
        self,
        architecture: Architecture,
        profile: MemoryProfile,
        context_tokens: int,
        concurrency: int,
    ) -> None:
        block = profile.kv_cache.block_tokens

        def blocks(tokens: int) -> int:
            return ceil_div(tokens, block) * block

        self.window = architecture.sliding_window if profile.kv_cache.trims_sliding_window else None
        self.full = concurrency * blocks(context_tokens)
        self.sliding = self.full
        if self.window is not None:
            # A window may begin within a block, so it touches one block more. Tokens of the pass
            # that is under way are held in full until it ends (vLLM, SlidingWindowSpec).
            windows = concurrency * (blocks(min(self.window, context_tokens)) + block)
            in_flight = blocks(profile.overhead.batched_tokens)
            self.sliding = min(self.full, windows + in_flight)
