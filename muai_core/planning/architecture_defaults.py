"""What Hugging Face's config classes take for a key that config.json leaves out, by model type.

Values of transformers 5.19 (`configuration_*.py` of each family), and of the config classes in the
repositories of families that bring their own code. Families that are not here have no defaults but
the ones that all configs have.
"""

from collections.abc import Mapping
from functools import cache

#: A family, and the keys with their values; what is indented goes on.
_CLASS_DEFAULTS = """
apertus intermediate_size=14336 max_position_embeddings=65536
arcee intermediate_size=18432 max_position_embeddings=4096
bamba num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=262144 mamba_expand=2
  mamba_d_state=256 mamba_d_conv=4 mamba_n_heads=128 mamba_n_groups=1
bloom
codegen n_positions=2048
cohere intermediate_size=22528 max_position_embeddings=8192
cohere2 intermediate_size=22528 max_position_embeddings=8192 sliding_window=4096
dbrx max_seq_len=2048
deepseek_v2 intermediate_size=11008 max_position_embeddings=2048 n_routed_experts=64
  first_k_dense_replace=0 moe_intermediate_size=1407 n_shared_experts=2 kv_lora_rank=512
  q_lora_rank=1536 qk_rope_head_dim=64 qk_nope_head_dim=128 v_head_dim=128
deepseek_v3 num_key_value_heads=128 intermediate_size=18432 max_position_embeddings=4096
  n_routed_experts=256 num_experts_per_tok=8 first_k_dense_replace=3 moe_intermediate_size=2048
  n_shared_experts=1 kv_lora_rank=512 q_lora_rank=1536 qk_rope_head_dim=64 qk_nope_head_dim=128
  v_head_dim=128
deepseek_v32 num_key_value_heads=128 head_dim=64 intermediate_size=18432
  max_position_embeddings=163840 n_routed_experts=256 num_experts_per_tok=8
  first_k_dense_replace=3 moe_intermediate_size=2048 n_shared_experts=1 kv_lora_rank=512
  q_lora_rank=1536 qk_rope_head_dim=64 qk_nope_head_dim=128 v_head_dim=128
dots1 num_key_value_heads=32 intermediate_size=10944 max_position_embeddings=2048
  sliding_window=4096 first_k_dense_replace=0 moe_intermediate_size=1408 max_window_layers=62
ernie4_5 num_key_value_heads=2 head_dim=128 intermediate_size=3072 max_position_embeddings=131072
ernie4_5_moe num_key_value_heads=4 intermediate_size=12288 max_position_embeddings=131072
  moe_num_experts=64 moe_k=6 moe_intermediate_size=1536 moe_num_shared_experts=2
  moe_layer_start_index=1 moe_layer_end_index=-1 moe_layer_interval=1
exaone4 num_key_value_heads=32 intermediate_size=16384 max_position_embeddings=2048
  sliding_window=4096 sliding_window_pattern=4
falcon max_position_embeddings=2048 multi_query=true new_decoder_architecture=false
falcon_h1 num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=8192
  mamba_expand=2 mamba_d_state=256 mamba_d_conv=4 mamba_n_heads=128 mamba_n_groups=1
  mamba_d_ssm=1024
falcon_mamba expand=2 state_size=16 conv_kernel=4
gemma num_key_value_heads=16 head_dim=256 intermediate_size=24576 max_position_embeddings=8192
gemma2 num_key_value_heads=4 head_dim=256 intermediate_size=9216 max_position_embeddings=8192
  sliding_window=4096
gemma3_text num_key_value_heads=4 head_dim=256 intermediate_size=9216
  max_position_embeddings=131072 sliding_window=4096
gemma3n_text num_key_value_heads=2 head_dim=256 intermediate_size=16384
  max_position_embeddings=32768 sliding_window=512 num_kv_shared_layers=15
gemma4_text num_key_value_heads=4 head_dim=256 intermediate_size=9216
  max_position_embeddings=131072 sliding_window=512
glm num_key_value_heads=2 head_dim=128 intermediate_size=13696 max_position_embeddings=131072
glm4 num_key_value_heads=2 head_dim=128 intermediate_size=13696 max_position_embeddings=131072
glm4_moe num_key_value_heads=8 intermediate_size=10944 max_position_embeddings=131072
  n_routed_experts=128 num_experts_per_tok=8 first_k_dense_replace=1 moe_intermediate_size=1408
  n_shared_experts=1
glm4_moe_lite num_key_value_heads=20 intermediate_size=10240 max_position_embeddings=202752
  n_routed_experts=64 num_experts_per_tok=4 moe_intermediate_size=1536 n_shared_experts=1
  kv_lora_rank=512 q_lora_rank=768 qk_rope_head_dim=64 qk_nope_head_dim=192 v_head_dim=256
  first_k_dense_replace=1
glm_moe_dsa num_key_value_heads=64 head_dim=64 intermediate_size=12288
  max_position_embeddings=202752 n_routed_experts=256 num_experts_per_tok=8
  first_k_dense_replace=3 moe_intermediate_size=2048 n_shared_experts=1 kv_lora_rank=512
  q_lora_rank=2048 qk_rope_head_dim=64 qk_nope_head_dim=192 v_head_dim=256
gpt2 n_positions=1024
gpt_bigcode n_positions=1024 multi_query=true
gpt_neo max_position_embeddings=2048
gpt_neox intermediate_size=24576 max_position_embeddings=2048
gpt_oss num_key_value_heads=8 head_dim=64 intermediate_size=2880 max_position_embeddings=131072
  sliding_window=128 num_local_experts=128 num_experts_per_tok=4
gptj n_positions=2048
granite intermediate_size=11008 max_position_embeddings=2048
granitemoe intermediate_size=11008 max_position_embeddings=2048 num_local_experts=8
  num_experts_per_tok=2
granitemoehybrid intermediate_size=11008 max_position_embeddings=2048 num_local_experts=8
  num_experts_per_tok=2 shared_intermediate_size=1024 mamba_expand=2 mamba_d_state=256
  mamba_d_conv=4 mamba_n_heads=128 mamba_n_groups=1
helium num_key_value_heads=20 head_dim=128 intermediate_size=7040 max_position_embeddings=4096
hunyuan_v1_dense intermediate_size=11008 max_position_embeddings=2048
hunyuan_v1_moe intermediate_size=11008 max_position_embeddings=2048 num_experts=1 moe_topk=1
jamba num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=262144 num_experts=16
  num_experts_per_tok=2 mamba_expand=2 mamba_d_state=16 mamba_d_conv=4 attn_layer_period=8
  attn_layer_offset=4 expert_layer_period=2 expert_layer_offset=1
kimi_linear num_key_value_heads=32 intermediate_size=9216 max_position_embeddings=1048576
  num_local_experts=256 num_experts_per_tok=8 moe_intermediate_size=1024 n_shared_experts=1
  kv_lora_rank=512 qk_rope_head_dim=64 qk_nope_head_dim=128 v_head_dim=128
  linear_conv_kernel_dim=4
lfm2 num_key_value_heads=8 intermediate_size=12288 max_position_embeddings=128000 conv_L_cache=3
lfm2_moe num_key_value_heads=8 intermediate_size=7168 max_position_embeddings=128000
  num_experts=32 num_experts_per_tok=4 moe_intermediate_size=1792 conv_L_cache=3
  num_dense_layers=2
llama intermediate_size=11008 max_position_embeddings=2048
llama4_text num_key_value_heads=8 head_dim=128 intermediate_size=8192
  max_position_embeddings=131072 num_local_experts=16 num_experts_per_tok=1
  interleave_moe_layer_step=1 intermediate_size_mlp=16384 attention_chunk_size=8192
  no_rope_layer_interval=4
mamba expand=2 state_size=16 conv_kernel=4
mamba2 num_heads=128 head_dim=64 expand=2 state_size=128 conv_kernel=4 n_groups=8
minimax_m2 num_key_value_heads=8 head_dim=128 intermediate_size=1536
  max_position_embeddings=196608 num_local_experts=256 num_experts_per_tok=8
ministral num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=131072
  sliding_window=4096
ministral3 num_key_value_heads=8 head_dim=128 intermediate_size=14336
  max_position_embeddings=262144
mistral num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=131072
  sliding_window=4096
mixtral num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=131072
  num_local_experts=8 num_experts_per_tok=2
mllama_text_model num_key_value_heads=8 intermediate_size=14336 max_position_embeddings=131072
mpt max_seq_len=2048 expansion_ratio=4
nemotron intermediate_size=24576 max_position_embeddings=4096
nemotron_h num_key_value_heads=8 head_dim=128 intermediate_size=21504 max_position_embeddings=4096
  n_routed_experts=8 num_experts_per_tok=2 moe_intermediate_size=7688 n_shared_experts=1 expand=2
  conv_kernel=4 n_groups=8 mamba_num_heads=128 mamba_head_dim=64 ssm_state_size=128
  moe_shared_expert_intermediate_size=7688
olmo intermediate_size=11008 max_position_embeddings=2048
olmo2 intermediate_size=11008 max_position_embeddings=2048
olmo3 intermediate_size=11008 max_position_embeddings=2048 sliding_window=4096
olmoe intermediate_size=2048 max_position_embeddings=4096 num_experts=64 num_experts_per_tok=8
opt ffn_dim=3072 max_position_embeddings=2048
persimmon intermediate_size=16384 max_position_embeddings=16384
phi intermediate_size=8192 max_position_embeddings=2048
phi3 intermediate_size=8192 max_position_embeddings=4096
phimoe num_key_value_heads=8 intermediate_size=6400 max_position_embeddings=131072
  num_local_experts=16 num_experts_per_tok=2
qwen2 num_key_value_heads=32 intermediate_size=22016 max_position_embeddings=32768
  sliding_window=4096 use_sliding_window=false max_window_layers=28
qwen2_moe num_key_value_heads=16 intermediate_size=5632 max_position_embeddings=32768
  sliding_window=4096 use_sliding_window=false num_experts=60 num_experts_per_tok=4
  decoder_sparse_step=1 moe_intermediate_size=1408 shared_expert_intermediate_size=5632
  max_window_layers=28
qwen3 num_key_value_heads=32 head_dim=128 intermediate_size=22016 max_position_embeddings=32768
  sliding_window=4096 use_sliding_window=false max_window_layers=28
qwen3_5_moe_text num_key_value_heads=2 head_dim=256 max_position_embeddings=32768 num_experts=256
  num_experts_per_tok=8 moe_intermediate_size=512 shared_expert_intermediate_size=512
  linear_num_key_heads=16 linear_num_value_heads=32 linear_key_head_dim=128
  linear_value_head_dim=128 linear_conv_kernel_dim=4
qwen3_5_text num_key_value_heads=4 head_dim=256 intermediate_size=12288
  max_position_embeddings=32768 linear_num_key_heads=16 linear_num_value_heads=32
  linear_key_head_dim=128 linear_value_head_dim=128 linear_conv_kernel_dim=4
qwen3_moe num_key_value_heads=4 intermediate_size=6144 max_position_embeddings=32768
  sliding_window=4096 use_sliding_window=false num_experts=128 num_experts_per_tok=8
  decoder_sparse_step=1 moe_intermediate_size=768
qwen3_next num_key_value_heads=2 head_dim=256 intermediate_size=5632 max_position_embeddings=32768
  num_experts=512 num_experts_per_tok=10 decoder_sparse_step=1 moe_intermediate_size=512
  shared_expert_intermediate_size=512 linear_num_key_heads=16 linear_num_value_heads=32
  linear_key_head_dim=128 linear_value_head_dim=128 linear_conv_kernel_dim=4
qwen3_vl_text num_key_value_heads=32 head_dim=128 intermediate_size=22016
  max_position_embeddings=128000
recurrent_gemma intermediate_size=7680 attention_window_size=2048 conv1d_width=4
seed_oss num_key_value_heads=8 head_dim=128 intermediate_size=27648 max_position_embeddings=524288
smollm3 num_key_value_heads=4 intermediate_size=11008 max_position_embeddings=32768
  use_sliding_window=false no_rope_layer_interval=4
stablelm num_key_value_heads=32 intermediate_size=6912 max_position_embeddings=4096
starcoder2 num_key_value_heads=2 intermediate_size=12288 max_position_embeddings=4096
zamba2 max_position_embeddings=4096 mamba_expand=2 mamba_d_state=64 mamba_d_conv=4 n_mamba_heads=8
  mamba_ngroups=1
"""

#: Layers, hidden size, attention heads, vocabulary. Taken only inside a wrapper of several towers,
#: whose `text_config` may leave them out; a model of its own has to say them.
_CLASS_SIZES: dict[str, tuple[int, int, int, int]] = {
    "cohere": (40, 8192, 64, 256000),
    "cohere2": (40, 8192, 64, 256000),
    "deepseek_v2": (32, 4096, 32, 102400),
    "deepseek_v3": (61, 7168, 128, 129280),
    "gemma": (28, 3072, 16, 256000),
    "gemma2": (26, 2304, 8, 256000),
    "gemma3_text": (26, 2304, 8, 262208),
    "gemma3n_text": (35, 2048, 8, 262400),
    "gemma4_text": (30, 2304, 8, 262144),
    "glm": (40, 4096, 32, 151552),
    "glm4": (40, 4096, 32, 151552),
    "glm4_moe": (46, 4096, 96, 151552),
    "gpt_oss": (36, 2880, 64, 201088),
    "granite": (32, 4096, 32, 32000),
    "lfm2": (32, 2560, 32, 65536),
    "llama": (32, 4096, 32, 32000),
    "llama4_text": (48, 5120, 40, 202048),
    "ministral3": (34, 4096, 32, 131072),
    "mistral": (32, 4096, 32, 32000),
    "mixtral": (32, 4096, 32, 32000),
    "mllama_text_model": (40, 4096, 32, 128256),
    "olmo2": (32, 4096, 32, 50304),
    "opt": (12, 768, 12, 50272),
    "phi": (24, 2048, 32, 51200),
    "phi3": (32, 3072, 32, 32064),
    "qwen2": (32, 4096, 32, 151936),
    "qwen2_moe": (24, 2048, 16, 151936),
    "qwen3": (32, 4096, 32, 151936),
    "qwen3_5_moe_text": (40, 2048, 16, 248320),
    "qwen3_5_text": (32, 4096, 16, 248320),
    "qwen3_moe": (24, 2048, 32, 151936),
    "qwen3_next": (48, 2048, 16, 151936),
    "qwen3_vl_text": (32, 4096, 32, 151936),
    "seed_oss": (64, 4096, 80, 155136),
    "smollm3": (36, 2048, 16, 128256),
    "starcoder2": (30, 3072, 24, 49152),
}
_SIZE_KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")

#: Families whose class ties the output head to the embeddings unless told otherwise.
_TIED_BY_CLASS = frozenset(
    [
        "bloom",
        "cohere",
        "cohere2",
        "ernie4_5",
        "ernie4_5_moe",
        "falcon",
        "falcon_mamba",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma3n_text",
        "gemma4_text",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "lfm2",
        "lfm2_moe",
        "mamba",
        "mpt",
        "opt",
        "recurrent_gemma",
        "smollm3",
        "starcoder2",
        "zamba2",
        "exaone",
        "minicpm",
    ]
)
#: Families with code of their own whose class does not tie.
_UNTIED_BY_CLASS = frozenset(
    {
        "baichuan",
        "chatglm",
        "deepseek",
        "grok-1",
        "internlm",
        "internlm2",
        "orion",
        "qwen",
        "xverse",
    }
)
#: Types with the same class, or with the defaults of another one.
_ALIASES = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "kimi_k2": "deepseek_v3",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_vl_moe_text": "qwen3_moe",
}
#: The text model inside a wrapper whose `text_config` does not name it.
_TEXT_TYPES = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "idefics3": "llama",
    "internvl": "qwen2",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "mistral3": "mistral",
    "mllama": "mllama_text_model",
    "paligemma": "gemma",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "smolvlm": "llama",
}


def text_type(wrapper: str) -> str:
    """Model type of the text model in a wrapper that does not say it."""
    return _TEXT_TYPES.get(wrapper, wrapper)


def class_defaults(model_type: str, *, nested: bool) -> Mapping[str, int]:
    """Values for missing keys; with the sizes of the model itself only for a nested config."""
    name = _ALIASES.get(model_type, model_type)
    defaults = dict(_class_defaults().get(name, {}))
    if nested and name in _CLASS_SIZES:
        defaults |= dict(zip(_SIZE_KEYS, _CLASS_SIZES[name], strict=True))
    return defaults


def ties_embeddings(model_type: str) -> bool:
    """Whether a config without `tie_word_embeddings` means yes.

    The base class of all configs ties, so a family that nobody knows does.
    """
    name = _ALIASES.get(model_type, model_type)
    known = name in _class_defaults() or name in _UNTIED_BY_CLASS
    return name in _TIED_BY_CLASS or not known


@cache
def _class_defaults() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    family: dict[str, int] = {}
    for line in _CLASS_DEFAULTS.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            family = found.setdefault(words.pop(0), {})
        for word in words:
            key, _, value = word.partition("=")
            family[key] = value == "true" if value in ("true", "false") else int(value)
    return found
