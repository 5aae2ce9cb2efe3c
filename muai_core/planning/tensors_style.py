"""How each family names and shapes the parts of a layer, as data. Pure.

Names are those of published checkpoints. Source: the modelling code of transformers 5.19
(`modeling_*.py`, `conversion_mapping.py`) and of vLLM; families with code of their own: their
repositories on the hub.
"""

from typing import Literal

from msgspec import Struct

#: A setting of config.json that decides, and what holds without it; without a name always so.
Switch = tuple[str, bool]

NEVER: Switch = ("", False)
ALWAYS: Switch = ("", True)
ATTENTION_BIAS: Switch = ("attention_bias", False)


class ExpertStyle(Struct, frozen=True, kw_only=True):
    """Names inside a layer with experts."""

    #: Module of the layer that holds them.
    block: str = "mlp"
    router: str = "gate"
    router_bias: bool = False
    #: Values that correct the choice of experts; "" none.
    correction: str = ""
    correction_dtype: str = "F32"
    correction_rows: bool = False
    experts: str = "experts."
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    #: One tensor for all experts: none, (experts, inputs, outputs) or (experts, outputs, inputs).
    stacked: Literal["", "inputs_first", "outputs_first"] = ""
    biases: bool = False
    #: "" none; from the layer and not from `block` with "../" in front.
    shared: str = ""
    #: Gate and up of the shared expert in one tensor, and its way out; "" as experts call theirs.
    shared_fused: str = ""
    shared_down: str = ""
    shared_gate: str = ""


class Style(Struct, frozen=True, kw_only=True):
    """Names and extras of a decoder-only model; what it says by default is Llama."""

    prefix: str = "model."
    layers: str = "layers"
    embedding: str = "embed_tokens"
    embedding_norm: str = ""
    positions: str = ""
    #: Rows of the position table beyond the longest sequence.
    positions_extra: int = 0
    final_norm: str = "norm"
    #: Without `prefix`.
    head: str = "lm_head"
    head_bias: bool = False

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: Switch = NEVER

    attention: str = "self_attn."
    #: Queries, keys and values in one tensor; "" when they are three.
    qkv: str = ""
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    qkv_bias: Switch = ATTENTION_BIAS
    o_bias: Switch = ATTENTION_BIAS
    #: Norms of queries and keys: one for all heads alike, for each head its own, or of all values.
    qk_norm: Literal["", "head", "each_head", "all_heads"] = ""
    qk_norm_switch: Switch = ALWAYS
    qk_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    qk_norm_bias: bool = False
    #: Gate of the heads' outputs.
    attention_gate: str = ""
    #: Queries twice as wide: half of them gate the output.
    gated_queries: bool = False
    #: One value per head, in which layers.
    sinks: str = ""
    #: A norm before the way out of attention, and of the feed-forward part.
    sub_norms: tuple[str, str] = ("", "")

    mlp: str = "mlp."
    #: "" in feed-forward parts without a gate.
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    #: Gate and up in one tensor; "" when they are two.
    gate_up: str = ""
    mlp_bias: Switch = NEVER
    #: Values that the activation function has learnt, and their shapes.
    activation: tuple[tuple[str, tuple[int, ...]], ...] = ()

    #: Weights of layers are stored (inputs, outputs).
    transposed: bool = False
    experts: ExpertStyle = ExpertStyle()
