"""How an engine lays a model out in memory: what the estimate has to know of it, as data."""

from typing import Literal

from msgspec import Struct


class Sharding(Struct, frozen=True, kw_only=True):
    """What an engine cuts over the tensor-parallel ranks; the rest is on every rank, whole."""

    embedding: Literal["vocabulary", "replicated"] = "vocabulary"
    #: "hidden": along its inputs, apart from embeddings that it is tied to.
    output_head: Literal["vocabulary", "hidden", "replicated"] = "vocabulary"
    #: Whether the routed experts of a mixture are cut, or each rank holds all.
    experts: Literal["tensor", "replicated"] = "tensor"
    #: The vocabulary is padded to a multiple of this before it is cut; 1: not padded.
    vocabulary_multiple: int = 1
    #: Ranks get multiples of this of an inner size that does not divide, the last one the rest.
    inner_multiple: int = 1
    #: Whether quantised weights stay packed in memory; else they become `dtype`.
    keeps_packed: bool = True
    #: Inner and hidden size of experts in mxfp4 are padded to multiples of these on each rank.
    mxfp4_multiples: tuple[int, int] = (1, 1)
    #: Whether a packed projection out of the latent space of MLA is held in `dtype`, too.
    unpacks_mla_projection: bool = False
    #: Whether the angles of rotary positions are kept for the longest sequence of the model.
    keeps_rotary_table: bool = False


class KvCacheLayout(Struct, frozen=True, kw_only=True):
    """How keys and values are kept."""

    #: Tokens are held in blocks of so many.
    block_tokens: int = 16
    #: Formats that the engine offers; "auto" is the one of the activations.
    dtypes: tuple[str, ...] = ("auto",)
    #: Whether a sliding layer holds its window only; else the whole sequence.
    trims_sliding_window: bool = True


class ParallelismLimits(Struct, frozen=True, kw_only=True):
    """Shapes that the engine can take, whatever the model; None: no limit of its own."""

    tensor_parallel_max: int | None = None
    pipeline_parallel_max: int | None = None
    #: Whether attention heads must divide by the tensor-parallel size (vLLM: a hard error).
    heads_must_divide: bool = True


class OverheadTerms(Struct, frozen=True, kw_only=True):
    """What a rank holds beside weights and KV cache. Calibrated by measured starts.

    Peak of a forward pass, in bytes, over `batched_tokens` tokens T of b bytes per value: the
    larger of T × (hidden_factor × hidden + ffn_factor × ffn / TP) × b and, in the stage that
    samples, logit_tokens × vocabulary × 20: a float32, its sorted copy and index, and its
    probability. In a mixture of experts, ffn is that of all experts that see one token, and each
    of them adds 1 to the hidden factor.
    """

    #: Tokens in one forward pass at most.
    batched_tokens: int = 8192
    hidden_factor: float = 4.0
    ffn_factor: float = 2.0
    #: Sequences whose logits are computed in one pass.
    logit_tokens: int = 256
    #: Scales the whole peak: 1, unless measured starts told another.
    activation_factor: float = 1.0
    #: Runtime, libraries and what the allocator keeps.
    runtime_bytes: int = 0
    graph_bytes: int = 0
    #: Buffers of the collectives, with more than one tensor-parallel rank.
    tensor_communication_bytes: int = 0
    #: Buffers between stages, with more than one.
    pipeline_communication_bytes: int = 0


class MemoryProfile(Struct, frozen=True, kw_only=True):
    """An engine's memory, for one kind of device: sharding rule, KV cache, limits, overhead."""

    sharding: Sharding = Sharding()
    kv_cache: KvCacheLayout = KvCacheLayout()
    limits: ParallelismLimits = ParallelismLimits()
    overhead: OverheadTerms = OverheadTerms()
    #: Bytes of KV cache that the engine takes whatever is asked for; None: what is asked for.
    kv_cache_bytes: int | None = None
    #: What `dtype: auto` makes of a model in float32; None: it stays.
    float32_becomes: str | None = None
    #: What `dtype: auto` is for every model, whatever its own format; None: that of the model.
    auto_dtype: str | None = None
    #: What the engine's log tells after a start: a term (`weights`, `kv_cache`, `activation`,
    #: `graphs`, `runtime`) and a regular expression with one group, the number in GiB. `consumed`:
    #: weights and runtime together; `graphs_in_activation`: what `activation` counts of `graphs`.
    log_patterns: tuple[tuple[str, str], ...] = ()
