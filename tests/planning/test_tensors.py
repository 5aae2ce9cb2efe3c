"""Tensors worked out from a config: against transformers' own models, and against known sizes."""

import json
from math import prod
from typing import Any

import pytest

from muai_core.model.architecture import Architecture, ModelError, TensorInfo
from muai_core.planning.architecture import architecture_of
from muai_core.planning.roles import role_of
from muai_core.planning.tensors import tensors_of

TINY = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_local_experts": 2,
    "num_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
}
_LINEAR_THEN_FULL = {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
_GROUPS = {"n_group": 1, "topk_group": 1}


def _names(words: str) -> list[str]:
    return words.split()


#: Families, and what their config needs beside the common sizes to be that small.
FAMILIES: dict[str, dict[str, Any]] = {
    name: {}
    for name in _names(
        "llama mistral ministral3 qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 olmo olmo2 olmo3 "
        "cohere2 granite smollm3 glm glm4 starcoder2 stablelm nemotron exaone4 seed_oss arcee "
        "apertus ernie4_5 persimmon vaultgemma bitnet nanochat minicpm3 mixtral qwen2_moe "
        "qwen3_moe phimoe olmoe flex_olmo granitemoe gpt_oss glm4_moe ernie4_5_moe minimax_m2 "
        "minimax afmoe deepseek_v32 glm_moe_dsa glm4_moe_lite mamba falcon_mamba nemotron_h "
        "gpt_neox gptj falcon bloom mpt gpt_bigcode codegen"
    )
} | {
    "helium": {"head_dim": 16},
    "cohere": {"use_qk_norm": True},
    "hunyuan_v1_dense": {"head_dim": 16},
    "granitemoeshared": {"shared_intermediate_size": 48},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 4,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 2, "moe_top_k": 1},
    },
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1, **_GROUPS},
    "deepseek_v2": {"num_key_value_heads": 4, **_GROUPS},
    "deepseek_v3": {"first_k_dense_replace": 1, **_GROUPS},
    "llama4_text": {"intermediate_size_mlp": 128, "interleave_moe_layer_step": 2},
    "qwen3_next": _LINEAR_THEN_FULL,
    "qwen3_5_text": _LINEAR_THEN_FULL,
    "qwen3_5_moe_text": _LINEAR_THEN_FULL,
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2, "mamba_dt_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "state_size": 16},
    "bamba": {"attn_layer_indices": [2], "mamba_n_heads": 8, "mamba_d_head": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention", "mamba"]},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128},
    "recurrent_gemma": {"block_types": ["recurrent", "recurrent", "attention"]},
    "gpt2": {"n_inner": 96},
    "opt": {"ffn_dim": 96},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
_TEXT = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "pad_token_id": 0,
}
_QWEN_VISION = {"depth": 2, "num_heads": 4, "hidden_size": 32, "intermediate_size": 48}
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "vision_config": _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        "text_config": _TEXT | {"head_dim": 16},
    },
    "llava": {
        "vision_config": _VISION | {"model_type": "clip_vision_model"},
        "text_config": _TEXT | {"model_type": "llama"},
    },
    "llava_next": {
        "vision_config": _VISION | {"model_type": "clip_vision_model"},
        "text_config": _TEXT | {"model_type": "llama"},
    },
    "mistral3": {
        "vision_config": _VISION | {"model_type": "pixtral", "head_dim": 8},
        "text_config": _TEXT | {"model_type": "mistral"},
        "tie_word_embeddings": False,
    },
    "qwen2_vl": {
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4},
        "text_config": _TEXT,
    },
    "qwen2_5_vl": {
        "vision_config": _QWEN_VISION | {"out_hidden_size": 64},
        "text_config": _TEXT,
    },
    "qwen3_vl": {
        "vision_config": _QWEN_VISION
        | {
            "out_hidden_size": 64,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        "text_config": _TEXT | {"head_dim": 16},
    },
    "llama4": {
        "vision_config": _VISION
        | {"vision_output_dim": 40, "projector_input_dim": 40, "projector_output_dim": 40},
        "text_config": _TEXT | {"num_local_experts": 2, "intermediate_size_mlp": 128},
    },
    "mllama": {
        "vision_config": _VISION
        | {
            "attention_heads": 4,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 96,
            "max_num_tiles": 2,
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        "text_config": _TEXT | {"cross_attention_layers": [1]},
    },
}

Shapes = dict[str, tuple[int, ...]]


def _built(model_type: str, settings: dict[str, Any], *, wrapper: bool) -> tuple[Any, Shapes]:
    """transformers' config, and the tensors it would save, from a model without memory."""
    torch = pytest.importorskip("torch", reason="transformers' own models need torch")
    transformers = pytest.importorskip("transformers", reason="the reference for names and shapes")
    from transformers.core_model_loading import revert_weight_conversion

    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.for_model(model_type, **settings)
    kind = transformers.AutoModelForImageTextToText if wrapper else None
    with torch.device("meta"):
        model = (kind or transformers.AutoModelForCausalLM).from_config(config)
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    state = {name: value for name, value in model.state_dict().items() if name not in tied}
    saved = revert_weight_conversion(model, state)
    return config, {name: tuple(value.shape) for name, value in saved.items()}


def _shapes(tensors: tuple[TensorInfo, ...], layer_count: int) -> Shapes:
    """Without the layers that guess further tokens: transformers does not build them."""
    found = {tensor.name: tensor.shape for tensor in tensors}
    assert len(found) == len(tensors), "a name came twice"
    return {name: s for name, s in found.items() if role_of(name, layer_count).kind != "mtp"}


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_names_and_shapes_are_those_of_transformers(model_type: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference for names and shapes")
    default = transformers.AutoConfig.for_model(model_type)
    known = set(default.to_dict()) | set(default.attribute_map)
    tiny = {name: value for name, value in TINY.items() if name in known}
    config, expected = _built(model_type, tiny | FAMILIES[model_type], wrapper=False)

    architecture = architecture_of(config.to_dict())
    found = _shapes(tensors_of(architecture), architecture.layer_count)

    # Tables that engines compute are no weights.
    expected = {name: s for name, s in expected.items() if role_of(name).kind != "buffer"}
    assert found == expected
    assert [name for name in found if role_of(name).kind == "other"] == []


@pytest.mark.parametrize("model_type", sorted(WRAPPERS))
def test_towers_are_those_of_transformers(model_type: str) -> None:
    config, expected = _built(model_type, WRAPPERS[model_type], wrapper=True)

    architecture = architecture_of(config.to_dict())
    found = _shapes(tensors_of(architecture), architecture.layer_count)

    # Published checkpoints keep one module more in these names than transformers 5 does.
    found = {
        name.replace("vision_tower.vision_model.", "vision_tower."): s for name, s in found.items()
    }
    assert found == expected
    assert [name for name in found if role_of(name).kind == "other"] == []
    assert "vision" in {role_of(name).kind for name in found}


LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
QWEN_1_5B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_7B = QWEN_1_5B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
QWEN_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
MIXTRAL = LLAMA_8B | {
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
    "num_nextn_predict_layers": 1,
    "torch_dtype": "bfloat16",
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "attention_bias": True,
    "sliding_window": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GPT_OSS_120B = GPT_OSS_20B | {"num_hidden_layers": 36, "num_local_experts": 128}
GEMMA_9B = {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
}
JAMBA = LLAMA_8B | {
    "model_type": "jamba",
    "vocab_size": 65536,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
}
#: Parameters as the model cards and the hub count them.
PARAMETERS = [
    ("Llama-3-8B", LLAMA_8B, 8_030_261_248),
    ("Llama-3.1-70B", LLAMA_70B, 70_553_706_496),
    ("Qwen2.5-1.5B", QWEN_1_5B, 1_543_714_304),
    ("Qwen2.5-7B", QWEN_7B, 7_615_616_512),
    ("Qwen3-30B-A3B", QWEN_30B_A3B, 30_532_122_624),
    ("Mixtral-8x7B", MIXTRAL, 46_702_792_704),
    ("DeepSeek-V3, main model", DEEPSEEK_V3, 671_026_419_200),
    ("gpt-oss-20b", GPT_OSS_20B, 20_914_757_184),
    ("gpt-oss-120b", GPT_OSS_120B, 116_829_156_672),
    ("Gemma-2-9b", GEMMA_9B, 9_241_705_984),
    ("Jamba-v0.1", JAMBA, 51_570_323_328),
]


def _stored_bytes(config: dict[str, Any]) -> int:
    return sum(tensor.size_bytes for tensor in tensors_of(architecture_of(config)))


def _by_name(config: dict[str, Any]) -> dict[str, TensorInfo]:
    return {tensor.name: tensor for tensor in tensors_of(architecture_of(config))}


@pytest.mark.parametrize(("name", "config", "parameters"), PARAMETERS)
def test_full_size_models_have_their_published_parameters(
    name: str, config: dict[str, Any], parameters: int
) -> None:
    architecture = architecture_of(config)
    counted = sum(
        prod(tensor.shape)
        for tensor in tensors_of(architecture)
        if role_of(tensor.name, architecture.layer_count).kind != "mtp"
    )
    assert counted == parameters, name


def _quantized(config: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return config | {"quantization_config": settings}


_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
_GPT_OSS_SKIPPED = [
    "model.layers.*.self_attn",
    "model.layers.*.mlp.router",
    "model.embed_tokens",
    "lm_head",
]


@pytest.mark.parametrize(
    ("config", "published"),
    [
        # `total_size` of the checkpoints' model.safetensors.index.json
        (
            _quantized(GPT_OSS_20B, quant_method="mxfp4", modules_to_not_convert=_GPT_OSS_SKIPPED),
            13_761_264_768,
        ),
        (
            _quantized(GPT_OSS_120B, quant_method="mxfp4", modules_to_not_convert=_GPT_OSS_SKIPPED),
            65_248_815_744,
        ),
        (_quantized(DEEPSEEK_V3, **_BLOCKS), 688_586_727_753),
    ],
)
def test_quantised_checkpoints_have_their_published_size(
    config: dict[str, Any], published: int
) -> None:
    assert _stored_bytes(config) == pytest.approx(published, rel=1e-4)


def test_attention_that_a_config_leaves_alone_stays_in_bfloat16() -> None:
    """Llama-3.1-405B-FP8 as first published, with 16 heads of keys: 57.752 GiB a GPU at TP 8."""
    kept = [
        f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(126) for name in "qkvo"
    ]
    kept += [
        f"model.layers.{layer}.mlp.{name}_proj"
        for layer in (0, 125)
        for name in ("gate", "up", "down")
    ]
    config = LLAMA_8B | {
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 16,
        "quantization_config": {"quant_method": "fbgemm_fp8", "modules_to_not_convert": kept},
    }
    tensors = _by_name(config)
    assert tensors["model.layers.5.self_attn.q_proj.weight"].dtype == "BF16"
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == "BF16"
    assert tensors["model.layers.1.mlp.up_proj.weight"].dtype == "F8_E4M3"
    assert tensors["model.layers.1.mlp.up_proj.weight_scale"].shape == (53248, 1)
    assert _stored_bytes(config) / 8 / 2**30 == pytest.approx(57.752, rel=0.005)


@pytest.mark.parametrize(
    ("settings", "pieces"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 128},
            {
                "qweight": ("I32", (4096, 1792)),
                "qzeros": ("I32", (32, 1792)),
                "scales": ("F16", (32, 14336)),
            },
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            {
                "qweight": ("I32", (512, 14336)),
                "qzeros": ("I32", (32, 1792)),
                "scales": ("F16", (32, 14336)),
                "g_idx": ("I32", (4096,)),
            },
        ),
        (
            _BLOCKS,
            {"weight": ("F8_E4M3", (14336, 4096)), "weight_scale_inv": ("F32", (112, 32))},
        ),
        (
            {"quant_method": "fp8", "activation_scheme": "static"},
            {
                "weight": ("F8_E4M3", (14336, 4096)),
                "weight_scale": ("F32", ()),
                "input_scale": ("F32", ()),
            },
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "group_0": {
                        "weights": {
                            "num_bits": 4,
                            "type": "int",
                            "symmetric": True,
                            "group_size": 128,
                        }
                    }
                },
            },
            {
                "weight_packed": ("I32", (14336, 512)),
                "weight_scale": ("BF16", (14336, 32)),
                "weight_shape": ("I64", (2,)),
            },
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "int-quantized",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
                },
            },
            {"weight": ("I8", (14336, 4096)), "weight_scale": ("BF16", (14336, 1))},
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            {
                "weight": ("I8", (14336, 4096)),
                "SCB": ("F32", (14336,)),
                "weight_format": ("U8", ()),
            },
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            {
                "weight": ("U8", (14336, 2048)),
                "weight_scale": ("F8_E4M3", (14336, 256)),
                "weight_scale_2": ("F32", ()),
                "input_scale": ("F32", ()),
            },
        ),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else None,
)
def test_a_packed_weight_is_made_of_its_methods_pieces(
    settings: dict[str, Any], pieces: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    tensors = _by_name(_quantized(LLAMA_8B, **settings))
    module = "model.layers.0.mlp.up_proj."
    found = {
        name.removeprefix(module): (tensor.dtype, tensor.shape)
        for name, tensor in tensors.items()
        if name.startswith(module)
    }
    assert found == pieces
    for whole in ("model.embed_tokens", "lm_head", "model.layers.0.input_layernorm", "model.norm"):
        assert tensors[f"{whole}.weight"].dtype == "BF16"
    assert [name for name in tensors if role_of(name).kind == "other"] == []


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("model.layers.0.mlp.up_proj", True),
        ("model.layers.0.mlp", True),
        ("up_proj", True),
        ("mlp.up", False),
        ("re:.*up_proj$", True),
        (r"re:model\.layers\.\d+\.mlp\..*", True),
        ("re:up_proj", False),
        ("model.layers.0*", True),
        ("model.layers.*.mlp", True),
        ("model.layers.*.self_attn", False),
        ("*up_proj*", True),
    ],
)
def test_unquantised_modules_are_named_whole_in_part_or_by_pattern(entry: str, kept: bool) -> None:
    tensors = _by_name(_quantized(LLAMA_8B, **_BLOCKS, modules_to_not_convert=[entry]))
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == ("BF16" if kept else "F8_E4M3")


@pytest.mark.parametrize(
    "pattern", ["re:(a+)+$", "re:" + ".*a" * 30, "re:(", "*a" * 30, r"re:(a)\1"]
)
def test_a_pattern_that_costs_too_much_or_is_none_is_refused_in_one_line(pattern: str) -> None:
    config = _quantized(LLAMA_8B, **_BLOCKS, modules_to_not_convert=[pattern])
    with pytest.raises(ModelError) as refused:
        tensors_of(architecture_of(config))
    assert "quantization_config" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_tied_embeddings_have_no_output_head() -> None:
    assert "lm_head.weight" not in _by_name(QWEN_1_5B)
    assert "lm_head.weight" in _by_name(QWEN_7B)


def test_layers_that_guess_further_tokens_come_after_the_others() -> None:
    main = _by_name(DEEPSEEK_V3 | {"num_nextn_predict_layers": 0})
    more = {name: tensor for name, tensor in _by_name(DEEPSEEK_V3).items() if name not in main}
    assert {role_of(name, 61).kind for name in more} == {"mtp"}
    # "14B of the Multi-Token Prediction Module weights", with its own embedding and head
    assert 13e9 < sum(prod(tensor.shape) for tensor in more.values()) < 14e9


def test_an_architecture_without_settings_is_worked_out_from_its_fields() -> None:
    """As made by hand, or from a GGUF header."""
    architecture = Architecture(
        model_type="something-new",
        layer_count=2,
        layer_kinds=("full", "full"),
        hidden_size=64,
        intermediate_size=128,
        vocabulary_size=256,
        attention_heads=4,
        kv_heads=2,
        key_head_size=16,
        value_head_size=16,
    )
    total = sum(prod(tensor.shape) for tensor in tensors_of(architecture))
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64
    assert total == 2 * layer + 2 * 256 * 64 + 64


def test_sizes_are_those_of_the_shape_in_its_format() -> None:
    for tensor in tensors_of(architecture_of(LLAMA_8B | {"torch_dtype": "float32"})):
        assert tensor.dtype == "F32"
        assert tensor.size_bytes == 4 * prod(tensor.shape)


def test_a_table_without_end_is_refused() -> None:
    """As many experts as a config may say, packed in four pieces each."""
    config = QWEN_30B_A3B | {"num_experts": 2**14, "num_hidden_layers": 8}
    with pytest.raises(ModelError, match="tensors"):
        tensors_of(architecture_of(_quantized(config, quant_method="gptq", bits=4, group_size=128)))


def test_equal_configs_give_equal_tables() -> None:
    again = json.loads(json.dumps(MIXTRAL))
    assert tensors_of(architecture_of(MIXTRAL)) == tensors_of(architecture_of(again))


@pytest.mark.parametrize(
    "settings",
    [
        {"mamba_d_state": 10**12},
        {"mamba_d_conv": -1},
        {"mamba_dt_rank": 10**15},
        {"mamba_expand": float("nan")},
    ],
)
def test_absurd_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refused:
        tensors_of(architecture_of(JAMBA | settings))
    assert "\n" not in str(refused.value)
