"""The style of each family, by its model type. Pure."""

from muai_core.planning.tensors_style import ALWAYS, NEVER, Style
from muai_core.planning.tensors_styles_experts import WITH_EXPERTS
from muai_core.planning.tensors_styles_older import OLDER

_FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_LLAMA = Style(mlp_bias=("mlp_bias", False))
_QWEN3 = Style(qk_norm="head")
_NO_ATTENTION_BIAS = Style(qkv_bias=NEVER, o_bias=NEVER)

_DENSE: dict[str, Style] = {
    "llama": _LLAMA,
    "mistral": _NO_ATTENTION_BIAS,
    "ministral": _NO_ATTENTION_BIAS,
    "ministral3": _NO_ATTENTION_BIAS,
    "qwen2": Style(qkv_bias=ALWAYS, o_bias=NEVER),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "gemma": Style(),
    "gemma2": Style(norms=_FOUR_NORMS),
    "gemma3": Style(norms=_FOUR_NORMS, qk_norm="head"),
    "vaultgemma": Style(norms=("input_layernorm", "pre_feedforward_layernorm")),
    "phi3": Style(qkv="qkv_proj", gate_up="gate_up_proj", qkv_bias=NEVER, o_bias=NEVER),
    "olmo": Style(norms=(), final_norm=""),
    "olmo2": Style(norms=_POST_NORMS, qk_norm="all_heads"),
    "olmo3": Style(norms=_POST_NORMS, qk_norm="all_heads"),
    "cohere": Style(
        norms=("input_layernorm",),
        qk_norm="each_head",
        qk_norm_switch=("use_qk_norm", False),
    ),
    "cohere2": Style(norms=("input_layernorm",)),
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "glm": Style(o_bias=NEVER, gate_up="gate_up_proj"),
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
    "nemotron": Style(norm_bias=ALWAYS, gate="", mlp_bias=("mlp_bias", False)),
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
    "hunyuan_v1_dense": Style(qk_norm="head", qk_norm_names=("query_layernorm", "key_layernorm")),
}

#: By the model type of config.json.
STYLES: dict[str, Style] = {**_DENSE, **WITH_EXPERTS, **OLDER}

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
    return STYLES.get(_LIKE.get(model_type, model_type), STYLES["llama"])
