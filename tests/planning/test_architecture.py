"""config.json of many families in one set of words; and broken ones in one line."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core.model.architecture import Architecture, ModelError, Quantization
from muai_core.planning.architecture import architecture_of

Config = dict[str, Any]
LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
DEEPSEEK: Config = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "vocab_size": 129280,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 163840,
    "num_nextn_predict_layers": 1,
}


def sized(
    model_type: str, layers: int, hidden: int, heads: int, vocabulary: int, **more: Any
) -> Config:
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        **more,
    }


def every(count: int, one: str, others: str, layers: int) -> tuple[str, ...]:
    """The last of each `count` layers is `one`."""
    return tuple(others if (layer + 1) % count else one for layer in range(layers))


MAMBA2 = sized("mamba2", 64, 4096, 0, 32768, num_heads=128, head_dim=64, n_groups=8, state_size=128)
del MAMBA2["num_attention_heads"]

CASES: list[tuple[str, Config, Config]] = [
    (
        "llama 3",
        LLAMA,
        {
            "kv_heads": 8,
            "key_head_size": 128,
            "tied_embeddings": False,
            "context_tokens": 8192,
            "layer_kinds": ("full",) * 32,
        },
    ),
    ("llama without kv heads", {**LLAMA, "num_key_value_heads": None}, {"kv_heads": 32}),
    (
        "linear rope stretches",
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"context_tokens": 32768},
    ),
    (
        "llama 3.1 rope does not",
        {
            **LLAMA,
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
            },
        },
        {"context_tokens": 131072},
    ),
    (
        "mistral 0.1",
        sized(
            "mistral",
            32,
            4096,
            32,
            32000,
            intermediate_size=14336,
            sliding_window=4096,
            max_position_embeddings=32768,
        ),
        {"layer_kinds": ("sliding",) * 32, "sliding_window": 4096, "kv_heads": 8},
    ),
    (
        "mistral 0.3",
        sized("mistral", 32, 4096, 32, 32768, intermediate_size=14336, sliding_window=None),
        {"layer_kinds": ("full",) * 32, "sliding_window": None},
    ),
    (
        "mistral nemo",
        sized(
            "mistral",
            40,
            5120,
            32,
            131072,
            intermediate_size=14336,
            head_dim=128,
            sliding_window=None,
        ),
        {"key_head_size": 128},
    ),
    (
        "qwen2.5",
        sized(
            "qwen2",
            28,
            1536,
            12,
            151936,
            intermediate_size=8960,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            use_sliding_window=False,
            sliding_window=32768,
        ),
        {"layer_kinds": ("full",) * 28, "tied_embeddings": True, "key_head_size": 128},
    ),
    (
        "qwen2 with windows",
        sized(
            "qwen2",
            4,
            64,
            4,
            99,
            intermediate_size=128,
            num_key_value_heads=4,
            use_sliding_window=True,
            sliding_window=16,
            max_window_layers=3,
        ),
        {"layer_kinds": ("full", "full", "full", "sliding")},
    ),
    (
        "qwen3",
        sized(
            "qwen3",
            28,
            1024,
            16,
            151936,
            intermediate_size=3072,
            num_key_value_heads=8,
            tie_word_embeddings=True,
        ),
        {"key_head_size": 128},
    ),
    (
        "qwen2_moe",
        sized(
            "qwen2_moe",
            24,
            2048,
            16,
            151936,
            shared_expert_intermediate_size=5632,
            moe_intermediate_size=1408,
        ),
        {
            "experts": 60,
            "experts_per_token": 4,
            "shared_expert_intermediate_size": 5632,
            "expert_layers": tuple(range(24)),
        },
    ),
    (
        "qwen3_moe",
        sized(
            "qwen3_moe",
            4,
            2048,
            32,
            151936,
            head_dim=128,
            num_experts=128,
            moe_intermediate_size=768,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
        ),
        {"kv_heads": 4, "expert_layers": (1,), "shared_expert_intermediate_size": 0},
    ),
    (
        "qwen3_next",
        sized("qwen3_next", 48, 2048, 16, 151936),
        {
            "layer_kinds": every(4, "full", "linear", 48),
            "experts": 512,
            "linear_state_values": 8192 * 3 + 32 * 128 * 128,
        },
    ),
    (
        "qwen3.5",
        {
            "model_type": "qwen3_5",
            "vision_config": {"depth": 1},
            "text_config": sized(
                "qwen3_5_text", 8, 1024, 16, 248320, mamba_ssm_dtype="float32", dtype="bfloat16"
            ),
        },
        {
            "multimodal": True,
            "model_type": "qwen3_5_text",
            "layer_kinds": every(4, "full", "linear", 8),
            "linear_state_values": 8192 * 3 + 2 * 32 * 128 * 128,
        },
    ),
    (
        "mixtral",
        sized("mixtral", 32, 4096, 32, 32000, intermediate_size=14336),
        {
            "experts": 8,
            "experts_per_token": 2,
            "expert_intermediate_size": 14336,
            "sliding_window": None,
        },
    ),
    (
        "deepseek v3",
        DEEPSEEK,
        {
            "layer_kinds": ("mla",) * 61,
            "kv_lora_rank": 512,
            "qk_rope_head_size": 64,
            "q_lora_rank": 1536,
            "key_head_size": 192,
            "value_head_size": 128,
            "kv_heads": 128,
            "expert_layers": tuple(range(3, 61)),
            "shared_expert_intermediate_size": 2048,
            "layer_count": 61,
        },
    ),
    (
        "deepseek v2 lite",
        {
            **DEEPSEEK,
            "model_type": "deepseek_v2",
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
        },
        {
            "q_lora_rank": None,
            "shared_expert_intermediate_size": 4096,
            "expert_layers": tuple(range(1, 61)),
        },
    ),
    (
        "kimi k2",
        {
            **DEEPSEEK,
            "model_type": "kimi_k2",
            "n_routed_experts": 384,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
        },
        {"experts": 384, "kv_heads": 64, "attention_heads": 64},
    ),
    (
        "glm4_moe",
        sized("glm4_moe", 46, 4096, 96, 151552, head_dim=128),
        {
            "kv_heads": 8,
            "expert_layers": tuple(range(1, 46)),
            "shared_expert_intermediate_size": 1408,
        },
    ),
    (
        "gemma",
        sized("gemma", 28, 3072, 16, 256000),
        {"key_head_size": 256, "tied_embeddings": True},
    ),
    (
        "gemma 2",
        sized("gemma2", 26, 2304, 8, 256000),
        {"layer_kinds": every(2, "full", "sliding", 26), "sliding_window": 4096},
    ),
    (
        "gemma 3 4b",
        {
            "model_type": "gemma3",
            "vision_config": {"depth": 1},
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
        },
        {
            "layer_kinds": every(6, "full", "sliding", 34),
            "attention_heads": 8,
            "kv_heads": 4,
            "key_head_size": 256,
            "vocabulary_size": 262208,
            "multimodal": True,
            "tied_embeddings": True,
            "sliding_window": 1024,
        },
    ),
    (
        "gemma 3n",
        {
            "model_type": "gemma3n",
            "text_config": {"num_hidden_layers": 35, "intermediate_size": [16384] * 35},
        },
        {
            "kv_shared_layers": tuple(range(20, 35)),
            "intermediate_size": 16384,
            "layer_kinds": every(5, "full", "sliding", 35),
        },
    ),
    (
        "phi-3",
        sized(
            "phi3",
            32,
            3072,
            32,
            32064,
            intermediate_size=8192,
            sliding_window=2047,
            max_position_embeddings=4096,
        ),
        {"layer_kinds": ("sliding",) * 32, "sliding_window": 2047},
    ),
    (
        "phi-3.5-moe",
        sized("phimoe", 32, 4096, 32, 32064, sliding_window=131072, max_position_embeddings=131072),
        {"layer_kinds": ("full",) * 32, "experts": 16, "expert_intermediate_size": 6400},
    ),
    (
        "gpt-oss",
        sized(
            "gpt_oss",
            24,
            2880,
            64,
            201088,
            quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        ),
        {
            "layer_kinds": every(2, "full", "sliding", 24),
            "sliding_window": 128,
            "key_head_size": 64,
            "experts": 128,
            "quantization": Quantization(
                method="mxfp4", bits=4, group_size=32, unquantized=("lm_head",)
            ),
        },
    ),
    (
        "gpt2",
        {
            "model_type": "gpt2",
            "n_layer": 12,
            "n_embd": 768,
            "n_head": 12,
            "vocab_size": 50257,
            "n_positions": 1024,
        },
        {"intermediate_size": 3072, "tied_embeddings": True, "context_tokens": 1024},
    ),
    (
        "gpt_neox",
        sized("gpt_neox", 44, 6144, 64, 50432),
        {"intermediate_size": 24576, "tied_embeddings": False},
    ),
    (
        "gptj",
        {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "vocab_size": 50400},
        {"intermediate_size": 16384, "tied_embeddings": False},
    ),
    (
        "opt",
        sized("opt", 12, 768, 12, 50272, ffn_dim=3072),
        {"intermediate_size": 3072, "tied_embeddings": True},
    ),
    (
        "falcon 7b",
        sized("falcon", 32, 4544, 71, 65024, multi_query=True),
        {"kv_heads": 1, "intermediate_size": 18176, "tied_embeddings": True},
    ),
    (
        "falcon 40b",
        sized("falcon", 60, 8192, 128, 65024, new_decoder_architecture=True, num_kv_heads=8),
        {"kv_heads": 8},
    ),
    (
        "bloom",
        {
            "model_type": "bloom",
            "n_layer": 30,
            "hidden_size": 4096,
            "n_head": 32,
            "vocab_size": 250880,
            "seq_length": 2048,
        },
        {"intermediate_size": 16384, "context_tokens": 2048},
    ),
    (
        "mpt",
        {
            "model_type": "mpt",
            "n_layers": 32,
            "d_model": 4096,
            "n_heads": 32,
            "vocab_size": 50432,
            "max_seq_len": 2048,
            "attn_config": {"kv_n_heads": 8},
        },
        {"intermediate_size": 16384, "kv_heads": 8},
    ),
    (
        "starcoder2",
        sized(
            "starcoder2", 30, 3072, 24, 49152, sliding_window=4096, max_position_embeddings=16384
        ),
        {"kv_heads": 2, "layer_kinds": ("sliding",) * 30, "tied_embeddings": True},
    ),
    ("command-r", sized("cohere", 40, 8192, 64, 256000), {"kv_heads": 64, "tied_embeddings": True}),
    (
        "command-r7b",
        sized("cohere2", 32, 4096, 32, 256000, num_key_value_heads=8),
        {"layer_kinds": every(4, "full", "sliding", 32)},
    ),
    (
        "jamba",
        sized("jamba", 32, 4096, 32, 65536),
        {
            "layer_kinds": tuple("full" if i % 8 == 4 else "linear" for i in range(32)),
            "expert_layers": tuple(range(1, 32, 2)),
            "linear_state_values": 8192 * 3 + 8192 * 16,
        },
    ),
    (
        "mamba2",
        MAMBA2,
        {
            "layer_kinds": ("linear",) * 64,
            "attention_heads": 0,
            "linear_state_values": (8192 + 2 * 8 * 128) * 3 + 8192 * 128,
        },
    ),
    (
        "falcon-h1",
        sized("falcon_h1", 4, 4096, 32, 128000),
        {
            "layer_kinds": ("full",) * 4,
            "state_beside_attention": True,
            "linear_state_values": 1536 * 3 + 1024 * 256,
        },
    ),
    (
        "nemotron-h",
        sized("nemotron_h", 4, 4096, 32, 131072, hybrid_override_pattern="M-*E"),
        {"layer_kinds": ("linear", "none", "full", "none"), "expert_layers": (3,)},
    ),
    (
        "llama 4",
        {
            "model_type": "llama4",
            "vision_config": {"a": 1},
            "text_config": sized(
                "llama4_text",
                48,
                5120,
                40,
                202048,
                interleave_moe_layer_step=2,
                num_local_experts=128,
            ),
        },
        {
            "layer_kinds": every(4, "full", "sliding", 48),
            "sliding_window": 8192,
            "expert_layers": tuple(range(1, 48, 2)),
            "intermediate_size": 16384,
            "expert_intermediate_size": 8192,
            "shared_expert_intermediate_size": 8192,
        },
    ),
    (
        "mllama",
        {
            "model_type": "mllama",
            "vision_config": {"a": 1},
            "text_config": sized(
                "mllama_text_model", 40, 4096, 32, 128256, cross_attention_layers=[3, 8]
            ),
        },
        {"layer_kinds": ("full",) * 40, "multimodal": True, "kv_heads": 8},
    ),
    (
        "llava 1.5",
        {
            "model_type": "llava",
            "vision_config": {"a": 1},
            "text_config": {"model_type": "llama", "vocab_size": 32064},
        },
        {"layer_count": 32, "hidden_size": 4096, "attention_heads": 32, "vocabulary_size": 32064},
    ),
    (
        "chatglm",
        {
            "model_type": "chatglm",
            "architectures": ["ChatGLMModel"],
            "num_layers": 28,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "padded_vocab_size": 65024,
            "ffn_hidden_size": 13696,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "seq_length": 32768,
        },
        {
            "kv_heads": 2,
            "vocabulary_size": 65024,
            "context_tokens": 32768,
            "tied_embeddings": False,
        },
    ),
    (
        "minicpm",
        sized("minicpm", 40, 2304, 36, 122753, intermediate_size=5760),
        {"tied_embeddings": True},
    ),
    (
        "dbrx",
        {
            "model_type": "dbrx",
            "n_layers": 40,
            "d_model": 6144,
            "n_heads": 48,
            "vocab_size": 100352,
            "attn_config": {"kv_n_heads": 8},
            "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4, "ffn_hidden_size": 10752},
        },
        {"kv_heads": 8, "experts": 16, "experts_per_token": 4, "expert_intermediate_size": 10752},
    ),
    (
        "granite 4",
        sized(
            "granitemoehybrid",
            2,
            4096,
            32,
            100352,
            layer_types=["mamba", "attention"],
            num_local_experts=0,
            shared_intermediate_size=8192,
        ),
        {"layer_kinds": ("linear", "full"), "intermediate_size": 8192, "experts": 0},
    ),
    ("smollm3", sized("smollm3", 36, 2048, 16, 128256), {"kv_heads": 4, "tied_embeddings": True}),
    (
        "lfm2",
        sized("lfm2", 3, 2048, 32, 65536, layer_types=["conv", "full_attention", "conv"]),
        {"layer_kinds": ("linear", "full", "linear"), "linear_state_values": 4096},
    ),
]


@pytest.mark.parametrize(
    ("config", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_families(config: Config, expected: Config) -> None:
    found = architecture_of(config)
    assert {name: getattr(found, name) for name in expected} == expected
    assert len(found.layer_kinds) == found.layer_count


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["lm_head"]},
            Quantization(method="fp8", bits=8, block_shape=(128, 128), unquantized=("lm_head",)),
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128},
            Quantization(method="awq", bits=4, group_size=128),
        ),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "dynamic": {"-:.*down": {}}},
            Quantization(method="gptq", bits=8, unquantized=("re:.*down",)),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "ignore": ["lm_head"],
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            Quantization(
                method="compressed-tensors",
                bits=4,
                group_size=128,
                unquantized=("lm_head",),
                kv_cache_dtype="fp8",
            ),
        ),
        ({"load_in_4bit": True}, Quantization(method="bitsandbytes", bits=4, group_size=64)),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            Quantization(method="bitsandbytes", bits=8),
        ),
        (
            {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["a"]},
            Quantization(method="fbgemm_fp8", bits=8, unquantized=("a",)),
        ),
        (
            {
                "producer": {"name": "modelopt"},
                "quantization": {
                    "quant_algo": "NVFP4",
                    "kv_cache_quant_algo": "FP8",
                    "group_size": 16,
                    "exclude_modules": ["lm_head"],
                },
            },
            Quantization(
                method="modelopt",
                bits=4,
                group_size=16,
                unquantized=("lm_head",),
                kv_cache_dtype="fp8",
            ),
        ),
    ],
)
def test_quantization(section: Config, expected: Quantization) -> None:
    assert architecture_of({**LLAMA, "quantization_config": section}).quantization == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
        ({"num_hidden_layers": 10**18}, "num_hidden_layers is 1000000000000000000: allowed"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1: allowed"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers is '32'"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan"),
        ({"num_hidden_layers": [1] * 10**6}, "num_hidden_layers is a list of 1,000,000"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "num_attention_heads is 7"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5"),
        ({"vocab_size": 2**25}, "vocab_size is 33554432"),
        ({"vocab_size": 10**6000}, "vocab_size is a number of"),
        ({"torch_dtype": "int3"}, "torch_dtype is 'int3'"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
        ({"layer_types": ["odd"] * 32}, "layer_types is 'odd'"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window is missing"),
        ({"num_experts": 16384, "num_experts_per_tok": 1}, "experts in all"),
        ({"text_config": 3}, "text_config is 3"),
        ({"quantization_config": {"bits": 4}}, "quant_method is missing"),
        ({"model_type": "whisper"}, "LlamaForCausalLM"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "BertModel"),
        ({"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ({"is_encoder_decoder": True}, "encoder"),
    ],
)
def test_absurd_configs_name_the_key(change: Config, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        architecture_of({**LLAMA, **change})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = sorted(
    {key for _, config, _ in CASES for key in config} | {"quantization_config", "rope_scaling"}
)


@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from([config for _, config, _ in CASES]),
    changes=st.dictionaries(
        st.sampled_from(KEYS), ANYTHING | st.sampled_from([0, -1, 2**63]), max_size=4
    ),
)
def test_mutated_configs_are_understood_or_refused(base: Config, changes: Config) -> None:
    try:
        found = architecture_of({**base, **changes})
    except ModelError as error:
        line = str(error)
    else:
        line = found.model_type
        assert isinstance(found, Architecture)
        assert len(found.layer_kinds) == found.layer_count <= 10_000
    assert line.isprintable()
