"""Families with experts, or with layers of constant state. Pure."""

from muai_core.planning.tensors_style import ALWAYS, ATTENTION_BIAS, NEVER, ExpertStyle, Style

_MIXTRAL = ExpertStyle(block="block_sparse_moe", gate="w1", up="w3", down="w2")
_SHARED_GATED = ExpertStyle(shared="shared_expert", shared_gate="shared_expert_gate")
_DEEPSEEK = ExpertStyle(correction="gate.e_score_correction_bias", shared="shared_experts")
_FEED_FORWARD_HYBRID = Style(
    final_norm="final_layernorm",
    norms=("input_layernorm", "pre_ff_layernorm"),
    mlp="feed_forward.",
    experts=ExpertStyle(block="feed_forward", router="router"),
)
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

WITH_EXPERTS: dict[str, Style] = {
    "qwen2_moe": Style(qkv_bias=("qkv_bias", True), o_bias=NEVER, experts=_SHARED_GATED),
    "qwen3_next": Style(qk_norm="head", gated_queries=True, experts=_SHARED_GATED),
    "phimoe": Style(norm_bias=ALWAYS, head_bias=False, qkv_bias=ATTENTION_BIAS, experts=_MIXTRAL),
    "olmoe": Style(qk_norm="all_heads"),
    "flex_olmo": Style(
        norms=("post_attention_layernorm", "post_feedforward_layernorm"), qk_norm="all_heads"
    ),
    "granitemoe": Style(
        experts=ExpertStyle(
            block="block_sparse_moe",
            router="router.layer",
            experts="",
            gate="input_linear.weight",
            up="",
            down="output_linear.weight",
            stacked="outputs_first",
        )
    ),
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
    "glm4_moe": Style(
        o_bias=NEVER,
        qk_norm="head",
        qk_norm_switch=("use_qk_norm", False),
        experts=_DEEPSEEK,
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
    "hunyuan_v1_moe": Style(
        qk_norm="head",
        qk_norm_names=("query_layernorm", "key_layernorm"),
        experts=ExpertStyle(router="gate.wg", shared="shared_mlp"),
    ),
    "mixtral": Style(qkv_bias=NEVER, o_bias=NEVER, experts=_MIXTRAL),
    "minimax": Style(experts=_MIXTRAL),
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
    "gpt_oss": Style(
        sinks="sinks",
        qkv_bias=("attention_bias", True),
        o_bias=("attention_bias", True),
        experts=ExpertStyle(router="router", router_bias=True, stacked="inputs_first", biases=True),
    ),
    "llama4": Style(
        mlp="feed_forward.",
        experts=ExpertStyle(
            block="feed_forward", router="router", stacked="inputs_first", shared="shared_expert"
        ),
    ),
    "afmoe": Style(
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
        experts=ExpertStyle(
            router="router.gate", correction="expert_bias", shared="shared_experts"
        ),
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
    "lfm2": Style(
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
    ),
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
}
