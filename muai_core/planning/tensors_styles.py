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


_LAYER_NORM = {"norm_bias": ALWAYS}
_FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_MIXTRAL = ExpertStyle(block="block_sparse_moe", gate="w1", up="w3", down="w2")
_SHARED_GATED = ExpertStyle(shared="shared_expert", shared_gate="shared_expert_gate")
_DEEPSEEK = ExpertStyle(correction="gate.e_score_correction_bias", shared="shared_experts")
_GRANITE = ExpertStyle(
    block="block_sparse_moe",
    router="router.layer",
    experts="",
    gate="input_linear.weight",
    up="",
    down="output_linear.weight",
    stacked="outputs_first",
)

_LLAMA = Style(mlp_bias=("mlp_bias", False))
_QWEN3 = Style(qk_norm="head")
_GEMMA3 = Style(norms=_FOUR_NORMS, qk_norm="head")
_COHERE = Style(
    norms=("input_layernorm",),
    qk_norm="each_head",
    qk_norm_switch=("use_qk_norm", False),
)
_GLM = Style(o_bias=NEVER, gate_up="gate_up_proj")
_BIGCODE = Style(
    prefix="transformer.",
    layers="h",
    embedding="wte",
    positions="wpe",
    final_norm="ln_f",
    norms=("ln_1", "ln_2"),
    attention="attn.",
    qkv="c_attn",
    o="c_proj",
    qkv_bias=ALWAYS,
    o_bias=ALWAYS,
    gate="",
    up="c_fc",
    down="c_proj",
    mlp_bias=ALWAYS,
    norm_bias=ALWAYS,
)
_GPTJ = Style(
    prefix="transformer.",
    layers="h",
    embedding="wte",
    final_norm="ln_f",
    head_bias=True,
    norms=("ln_1",),
    attention="attn.",
    o="out_proj",
    qkv_bias=NEVER,
    o_bias=NEVER,
    gate="",
    up="fc_in",
    down="fc_out",
    mlp_bias=ALWAYS,
    norm_bias=ALWAYS,
)
_OPT = Style(
    prefix="model.decoder.",
    positions="embed_positions",
    positions_extra=2,
    final_norm="final_layer_norm",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    o="out_proj",
    qkv_bias=("enable_bias", True),
    o_bias=("enable_bias", True),
    mlp="",
    gate="",
    up="fc1",
    down="fc2",
    mlp_bias=("enable_bias", True),
    norm_bias=ALWAYS,
)
_BLOOM = Style(
    prefix="transformer.",
    layers="h",
    embedding="word_embeddings",
    embedding_norm="word_embeddings_layernorm",
    final_norm="ln_f",
    attention="self_attention.",
    qkv="query_key_value",
    o="dense",
    qkv_bias=ALWAYS,
    o_bias=ALWAYS,
    gate="",
    up="dense_h_to_4h",
    down="dense_4h_to_h",
    mlp_bias=ALWAYS,
    norm_bias=ALWAYS,
)
_FALCON = Style(
    prefix="transformer.",
    layers="h",
    embedding="word_embeddings",
    final_norm="ln_f",
    attention="self_attention.",
    qkv="query_key_value",
    o="dense",
    qkv_bias=("bias", False),
    o_bias=("bias", False),
    gate="",
    up="dense_h_to_4h",
    down="dense_4h_to_h",
    mlp_bias=("bias", False),
    norm_bias=ALWAYS,
)
_MINIMAX = Style(experts=_MIXTRAL)
_LFM2 = Style(
    embedding="embed_tokens",
    final_norm="embedding_norm",
    norms=("operator_norm", "ffn_norm"),
    o="out_proj",
    qk_norm="head",
    qk_norm_names=("q_layernorm", "k_layernorm"),
    qkv_bias=NEVER,
    o_bias=NEVER,
    mlp="feed_forward.",
    gate="w1",
    up="w3",
    down="w2",
    experts=ExpertStyle(
        block="feed_forward", gate="w1", up="w3", down="w2", correction="expert_bias"
    ),
)
_FEED_FORWARD_HYBRID = Style(
    final_norm="final_layernorm",
    norms=("input_layernorm", "pre_ff_layernorm"),
    mlp="feed_forward.",
    experts=ExpertStyle(block="feed_forward", router="router"),
)
_GPT_OSS = Style(
    sinks="sinks",
    qkv_bias=("attention_bias", True),
    o_bias=("attention_bias", True),
    experts=ExpertStyle(router="router", router_bias=True, stacked="inputs_first", biases=True),
)
_LLAMA4 = Style(
    mlp="feed_forward.",
    experts=ExpertStyle(
        block="feed_forward", router="router", stacked="inputs_first", shared="shared_expert"
    ),
)
_AFMOE = Style(
    norms=(
        "input_layernorm",
        "post_attention_layernorm",
        "pre_mlp_layernorm",
        "post_mlp_layernorm",
    ),
    qk_norm="head",
    attention_gate="gate_proj",
    qkv_bias=NEVER,
    o_bias=NEVER,
    experts=ExpertStyle(router="router.gate", correction="expert_bias", shared="shared_experts"),
)
_QWEN = Style(
    prefix="transformer.",
    layers="h",
    embedding="wte",
    final_norm="ln_f",
    norms=("ln_1", "ln_2"),
    attention="attn.",
    qkv="c_attn",
    o="c_proj",
    qkv_bias=ALWAYS,
    o_bias=NEVER,
    gate="w2",
    up="w1",
    down="c_proj",
)
_EXAONE = Style(
    prefix="transformer.",
    layers="h",
    embedding="wte",
    final_norm="ln_f",
    norms=("ln_1", "ln_2"),
    attention="attn.attention.",
    o="out_proj",
    gate="c_fc_0",
    up="c_fc_1",
    down="c_proj",
)
_CHATGLM = Style(
    prefix="transformer.",
    layers="encoder.layers",
    embedding="embedding.word_embeddings",
    final_norm="encoder.final_layernorm",
    head="transformer.output_layer",
    attention="self_attention.",
    qkv="query_key_value",
    o="dense",
    qkv_bias=("add_qkv_bias", False),
    o_bias=("add_bias_linear", False),
    gate_up="dense_h_to_4h",
    down="dense_4h_to_h",
    mlp_bias=("add_bias_linear", False),
)
_INTERNLM2 = Style(
    embedding="tok_embeddings",
    head="output",
    norms=("attention_norm", "ffn_norm"),
    attention="attention.",
    qkv="wqkv",
    o="wo",
    qkv_bias=("bias", False),
    o_bias=("bias", False),
    mlp="feed_forward.",
    gate="w1",
    up="w3",
    down="w2",
)
_NO_ATTENTION_BIAS = Style(qkv_bias=NEVER, o_bias=NEVER)
_BACKBONE = Style(
    prefix="backbone.",
    embedding="embeddings",
    final_norm="norm_f",
    norms=("norm",),
    attention="mixer.",
    mlp="mixer.",
    gate="",
    mlp_bias=("mlp_bias", False),
    experts=ExpertStyle(
        block="mixer",
        gate="",
        correction="gate.e_score_correction_bias",
        shared="shared_experts",
    ),
)

STYLES: dict[str, Style] = {
    "llama": _LLAMA,
    "mistral": _NO_ATTENTION_BIAS,
    "ministral": _NO_ATTENTION_BIAS,
    "ministral3": _NO_ATTENTION_BIAS,
    "internlm": Style(qkv_bias=("bias", True), o_bias=("bias", True)),
    "internlm2": _INTERNLM2,
    "internlm3": Style(qkv_bias=("qkv_bias", False), o_bias=("bias", False)),
    "baichuan": Style(qkv="W_pack", qkv_bias=NEVER, o_bias=NEVER),
    "qwen": _QWEN,
    "qwen2": Style(qkv_bias=ALWAYS, o_bias=NEVER),
    "qwen2_moe": Style(qkv_bias=("qkv_bias", True), o_bias=NEVER, experts=_SHARED_GATED),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_next": Style(qk_norm="head", gated_queries=True, experts=_SHARED_GATED),
    "gemma": Style(),
    "gemma2": Style(norms=_FOUR_NORMS),
    "gemma3": _GEMMA3,
    "vaultgemma": Style(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "phi": Style(
        final_norm="final_layernorm",
        head_bias=True,
        norms=("input_layernorm",),
        norm_bias=ALWAYS,
        o="dense",
        qkv_bias=ALWAYS,
        o_bias=ALWAYS,
        qk_norm="head",
        qk_norm_switch=("qk_layernorm", False),
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qk_norm_bias=True,
        gate="",
        up="fc1",
        down="fc2",
        mlp_bias=ALWAYS,
    ),
    "phi3": Style(qkv="qkv_proj", gate_up="gate_up_proj", qkv_bias=NEVER, o_bias=NEVER),
    "phimoe": Style(norm_bias=ALWAYS, head_bias=False, qkv_bias=ATTENTION_BIAS, experts=_MIXTRAL),
    "olmo": Style(norms=(), final_norm=""),
    "olmo2": Style(norms=_POST_NORMS, qk_norm="all_heads"),
    "olmo3": Style(norms=_POST_NORMS, qk_norm="all_heads"),
    "olmoe": Style(qk_norm="all_heads"),
    "flex_olmo": Style(norms=_POST_NORMS, qk_norm="all_heads"),
    "cohere": _COHERE,
    "cohere2": Style(norms=("input_layernorm",)),
    "granite": _LLAMA,
    "granitemoe": Style(experts=_GRANITE),
    "granitemoeshared": Style(
        experts=ExpertStyle(
            block="block_sparse_moe",
            router="router.layer",
            experts="",
            gate="input_linear.weight",
            up="",
            down="output_linear.weight",
            stacked="outputs_first",
            shared="../shared_mlp",
            shared_fused="input_linear",
            shared_down="output_linear",
        )
    ),
    "smollm3": _LLAMA,
    "glm": _GLM,
    "glm4": Style(
        o_bias=NEVER,
        gate_up="gate_up_proj",
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ),
    ),
    "chatglm": _CHATGLM,
    "glm4_moe": Style(
        o_bias=NEVER,
        qk_norm="head",
        qk_norm_switch=("use_qk_norm", False),
        experts=_DEEPSEEK,
    ),
    "starcoder2": Style(
        norm_bias=ALWAYS,
        qkv_bias=("use_bias", True),
        o_bias=("use_bias", True),
        gate="",
        up="c_fc",
        down="c_proj",
        mlp_bias=("use_bias", True),
    ),
    "stablelm": Style(norm_bias=ALWAYS, qkv_bias=("use_qkv_bias", False), o_bias=NEVER),
    "persimmon": Style(
        final_norm="final_layernorm",
        norm_bias=ALWAYS,
        qkv="query_key_value",
        o="dense",
        qkv_bias=ALWAYS,
        o_bias=ALWAYS,
        qk_norm="head",
        qk_norm_switch=("qk_layernorm", True),
        qk_norm_names=("q_layernorm", "k_layernorm"),
        qk_norm_bias=True,
        gate="",
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        mlp_bias=ALWAYS,
    ),
    "nemotron": Style(norm_bias=ALWAYS, gate="", mlp_bias=("mlp_bias", False)),
    "exaone": _EXAONE,
    "exaone4": Style(norms=_POST_NORMS, qk_norm="head", qkv_bias=NEVER, o_bias=NEVER),
    "seed_oss": Style(
        qkv_bias=("attention_bias", True),
        o_bias=("attention_out_bias", False),
        mlp_bias=("mlp_bias", False),
    ),
    "helium": Style(o_bias=NEVER),
    "arcee": Style(gate="", mlp_bias=("mlp_bias", False)),
    "apertus": Style(
        norms=("attention_layernorm", "feedforward_layernorm"),
        qk_norm="head",
        gate="",
        activation=(("alpha_p", (1,)), ("alpha_n", (1,)), ("beta", ()), ("eps", ())),
    ),
    "bitnet": Style(sub_norms=("attn_sub_norm", "ffn_sub_norm")),
    "nanochat": Style(norms=(), final_norm="", gate="", up="fc1", down="fc2"),
    "ernie4_5": Style(
        qkv_bias=("use_bias", False), o_bias=("use_bias", False), mlp_bias=("use_bias", False)
    ),
    "ernie4_5_moe": Style(
        qkv_bias=("use_bias", False),
        o_bias=("use_bias", False),
        mlp_bias=("use_bias", False),
        experts=ExpertStyle(
            correction="moe_statics.e_score_correction_bias",
            correction_rows=True,
            shared="shared_experts",
        ),
    ),
    "hunyuan_v1_dense": Style(qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm")),
    "hunyuan_v1_moe": Style(
        qk_norm="head",
        qk_norm_names=("query_layernorm", "key_layernorm"),
        experts=ExpertStyle(router="gate.wg", shared="shared_mlp"),
    ),
    "mixtral": Style(qkv_bias=NEVER, o_bias=NEVER, experts=_MIXTRAL),
    "minimax": _MINIMAX,
    "minimax_m2": Style(
        qk_norm="all_heads",
        qkv_bias=NEVER,
        o_bias=NEVER,
        experts=ExpertStyle(
            block="block_sparse_moe",
            gate="w1",
            up="w3",
            down="w2",
            correction="e_score_correction_bias",
        ),
    ),
    "dots1": Style(qk_norm="head", experts=_DEEPSEEK),
    "deepseek": Style(experts=ExpertStyle(shared="shared_experts")),
    "deepseek_v2": Style(experts=ExpertStyle(shared="shared_experts")),
    "deepseek_v3": Style(experts=_DEEPSEEK),
    "gpt_oss": _GPT_OSS,
    "llama4": _LLAMA4,
    "afmoe": _AFMOE,
    "jamba": _FEED_FORWARD_HYBRID,
    "bamba": _FEED_FORWARD_HYBRID,
    "falcon_h1": _FEED_FORWARD_HYBRID,
    "kimi_linear": Style(
        experts=ExpertStyle(
            block="block_sparse_moe",
            gate="w1",
            up="w3",
            down="w2",
            correction="gate.e_score_correction_bias",
            shared="shared_experts",
        ),
    ),
    "lfm2": _LFM2,
    "mamba": _BACKBONE,
    "nemotron_h": _BACKBONE,
    "recurrent_gemma": Style(
        final_norm="final_norm",
        norms=("temporal_pre_norm", "channel_pre_norm"),
        attention="temporal_block.",
        o_bias=ALWAYS,
        mlp="mlp_block.",
        mlp_bias=ALWAYS,
    ),
    "gpt2": Style(
        prefix="transformer.",
        layers="h",
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        norms=("ln_1", "ln_2"),
        attention="attn.",
        qkv="c_attn",
        o="c_proj",
        qkv_bias=ALWAYS,
        o_bias=ALWAYS,
        gate="",
        up="c_fc",
        down="c_proj",
        mlp_bias=ALWAYS,
        norm_bias=ALWAYS,
        transposed=True,
    ),
    "gpt_bigcode": _BIGCODE,
    "gpt_neo": Style(
        prefix="transformer.",
        layers="h",
        embedding="wte",
        positions="wpe",
        final_norm="ln_f",
        norms=("ln_1", "ln_2"),
        attention="attn.attention.",
        o="out_proj",
        qkv_bias=NEVER,
        o_bias=ALWAYS,
        gate="",
        up="c_fc",
        down="c_proj",
        mlp_bias=ALWAYS,
        norm_bias=ALWAYS,
    ),
    "gptj": _GPTJ,
    "codegen": Style(
        prefix="transformer.",
        layers="h",
        embedding="wte",
        final_norm="ln_f",
        head_bias=True,
        norms=("ln_1",),
        attention="attn.",
        qkv="qkv_proj",
        o="out_proj",
        qkv_bias=NEVER,
        o_bias=NEVER,
        gate="",
        up="fc_in",
        down="fc_out",
        mlp_bias=ALWAYS,
        norm_bias=ALWAYS,
    ),
    "gpt_neox": Style(
        prefix="gpt_neox.",
        embedding="embed_in",
        final_norm="final_layer_norm",
        head="embed_out",
        attention="attention.",
        qkv="query_key_value",
        o="dense",
        qkv_bias=("attention_bias", True),
        o_bias=("attention_bias", True),
        gate="",
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        mlp_bias=ALWAYS,
        norm_bias=ALWAYS,
    ),
    "opt": _OPT,
    "bloom": _BLOOM,
    "falcon": _FALCON,
    "mpt": Style(
        prefix="transformer.",
        layers="blocks",
        embedding="wte",
        final_norm="norm_f",
        norms=("norm_1", "norm_2"),
        attention="attn.",
        qkv="Wqkv",
        o="out_proj",
        qkv_bias=NEVER,
        o_bias=NEVER,
        mlp="ffn.",
        gate="",
    ),
    "dbrx": Style(
        prefix="transformer.",
        layers="blocks",
        embedding="wte",
        final_norm="norm_f",
        norms=("norm_attn_norm.norm_1", "norm_attn_norm.norm_2"),
        attention="norm_attn_norm.attn.",
        qkv="Wqkv",
        o="out_proj",
        qkv_bias=NEVER,
        o_bias=NEVER,
        experts=ExpertStyle(block="ffn", router="router.layer"),
    ),
}

#: Families built like another one.
_LIKE = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "aquila": "llama",
    "axk1": "deepseek_v3",
    "deepseek_v32": "deepseek_v3",
    "falcon_mamba": "mamba",
    "gemma3_text": "gemma3",
    "gemma3n_text": "gemma3",
    "gemma4_text": "gemma3",
    "glm4_moe_lite": "deepseek_v3",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "glm_moe_dsa": "deepseek_v3",
    "granitemoehybrid": "granitemoeshared",
    "kimi_k2": "deepseek_v3",
    "lfm2_moe": "lfm2",
    "llama4_text": "llama4",
    "mamba2": "mamba",
    "minimax_text_01": "minimax",
    "mllama_text_model": "llama",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_5_moe_text": "qwen3_next",
    "qwen3_5_text": "qwen3_next",
    "qwen3_omni_moe_text": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
}


def style_of(model_type: str) -> Style:
    """The family's own, or Llama's for one that is not known."""
    return STYLES.get(_LIKE.get(model_type, model_type), _LLAMA)
