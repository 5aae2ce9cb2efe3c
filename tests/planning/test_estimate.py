"""What the memory estimate counts, and where, with models whose sums can be checked by hand."""

from typing import Any

import pytest
from msgspec import structs

from muai_core import engine_profile
from muai_core.model.architecture import ModelDescription, ModelError, TensorInfo
from muai_core.model.memory import ShardedMemory
from muai_core.planning.architecture import architecture_of
from muai_core.planning.engine_profiles import (
    DEEPSPEED_CUDA,
    TRANSFORMERS_CUDA,
    VLLM_CPU,
    VLLM_CUDA,
)
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.tensors import tensors_of
from muai_core.plugin.memory import MemoryProfile

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
#: Parameters: of one layer's attention (q, k, v, o), feed-forward part and norms; of an embedding.
_ATTENTION, _FEED_FORWARD, _NORMS = 512 * (512 + 128 + 128 + 512), 3 * 512 * 1024, 2 * 512
_EMBEDDING = 1000 * 512
_ROTARY = 2048 * 64 * 2


def _described(**changes: Any) -> ModelDescription:
    architecture = architecture_of({**_LLAMA, **changes})
    return ModelDescription(
        architecture=architecture, tensors=tensors_of(architecture), origin="config"
    )


def _at(
    model: ModelDescription, ranks: int, profile: MemoryProfile = VLLM_CUDA, **asked: Any
) -> ShardedMemory:
    request = EstimateRequest(tensor_parallel_sizes=(ranks,), **asked)
    return memory_needs(model, profile, request).sharded[0]


def test_one_rank_holds_everything_once() -> None:
    one = _at(_described(), 1)
    layer = 2 * (_ATTENTION + _FEED_FORWARD + _NORMS)
    padded = 1024 * 512 * 2
    assert one.layer_weights_bytes == (layer,) * 4
    assert one.first_stage_weights_bytes == padded + _ROTARY
    assert one.last_stage_weights_bytes == padded + 512 * 2 + _ROTARY
    assert one.rank(range(4)).weights_bytes == 4 * layer + 2 * padded + 512 * 2 + _ROTARY


def test_key_and_value_heads_are_repeated_when_there_are_more_ranks() -> None:
    one = _at(_described(), 8)
    query_output, key_value = 2 * 512 * 512 // 8, 2 * 512 * 64
    assert one.layer_weights_bytes[0] == 2 * (
        query_output + key_value + _FEED_FORWARD // 8 + _NORMS
    )
    assert one.layer_kv_bytes_per_token[0] == 1 * (64 + 64) * 2
    assert _at(_described(), 2).layer_kv_bytes_per_token[0] == 1 * (64 + 64) * 2
    assert _at(_described(), 1).layer_kv_bytes_per_token[0] == 2 * (64 + 64) * 2


def test_tied_embeddings_are_held_once_in_one_stage_and_twice_in_two() -> None:
    one = _at(_described(tie_word_embeddings=True), 1)
    whole = one.rank(range(4)).weights_bytes
    stages = [one.rank(range(2)).weights_bytes, one.rank(range(2, 4)).weights_bytes]
    assert sum(stages) == whole + 1024 * 512 * 2 + _ROTARY


def test_transformers_pads_nothing_and_takes_one_device() -> None:
    needs = memory_needs(_described(), TRANSFORMERS_CUDA, EstimateRequest())
    assert [one.tensor_parallel_size for one in needs.sharded] == [1]
    assert needs.sharded[0].pipeline_parallel_sizes == (1,)
    assert needs.sharded[0].first_stage_weights_bytes == 2 * _EMBEDDING


def test_experts_are_whole_on_every_rank_of_deepspeed() -> None:
    model = _described(
        model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=8
    )
    experts = 2 * 4 * _FEED_FORWARD
    assert _at(model, 2, DEEPSPEED_CUDA).layer_weights_bytes[0] > experts
    assert _at(model, 2, VLLM_CUDA).layer_weights_bytes[0] < 0.6 * experts


def test_dtype_casts_what_is_not_quantised() -> None:
    model = _described(torch_dtype="float32")
    assert model.stored_bytes > 1.9 * _described().stored_bytes
    # vLLM takes bfloat16 for a model in float32 unless it is told; transformers leaves it.
    half, full = _at(model, 1), _at(model, 1, dtype="float32")
    assert full.layer_weights_bytes[0] == 2 * half.layer_weights_bytes[0]
    left = memory_needs(model, TRANSFORMERS_CUDA, EstimateRequest()).sharded[0]
    assert left.layer_weights_bytes == full.layer_weights_bytes
    assert left.layer_kv_bytes_per_token[0] == 2 * half.layer_kv_bytes_per_token[0]


def _gguf(dtype: str, values: int, block_bytes: int) -> ModelDescription:
    model = _described()
    tensors = tuple(
        tensor
        if len(tensor.shape) == 1
        else TensorInfo(
            tensor.name, dtype, tensor.shape, tensor.size_bytes // 2 * block_bytes // values
        )
        for tensor in model.tensors
    )
    return structs.replace(model, tensors=tensors, origin="gguf")


def test_gguf_types_stay_packed_or_become_the_dtype() -> None:
    model = _gguf("Q4_K", 256, 144)
    packed = _at(model, 1).layer_weights_bytes[0]
    assert packed == (_ATTENTION + _FEED_FORWARD) * 144 // 256 + 2 * _NORMS
    unpacked = memory_needs(model, TRANSFORMERS_CUDA, EstimateRequest()).sharded[0]
    assert unpacked.layer_weights_bytes[0] == 2 * (_ATTENTION + _FEED_FORWARD + _NORMS)


def test_awq_scales_and_zeros_are_cut_with_their_module_or_gone_with_the_packing() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    model = _described(quantization_config=awq)
    # Per weight 4 bits, and per group a scale of 16 bits and a zero of 4.
    weights = _ATTENTION + _FEED_FORWARD
    per_layer = weights // 2 + weights // 128 * 20 // 8 + 2 * _NORMS
    assert _at(model, 1).layer_weights_bytes[0] == per_layer
    assert _at(model, 2).layer_weights_bytes[0] == (per_layer - 2 * _NORMS) // 2 + 2 * _NORMS
    unpacked = memory_needs(model, TRANSFORMERS_CUDA, EstimateRequest()).sharded[0]
    assert unpacked.layer_weights_bytes[0] == 2 * (weights + _NORMS)


def test_layers_that_guess_ahead_are_not_counted() -> None:
    model = _described()
    extra = TensorInfo("model.layers.4.self_attn.q_proj.weight", "BF16", (512, 512), 524_288)
    more = structs.replace(model, tensors=(*model.tensors, extra))
    request = EstimateRequest()
    assert memory_needs(more, VLLM_CUDA, request) == memory_needs(model, VLLM_CUDA, request)


def test_a_tower_counts_to_the_first_stage_whole() -> None:
    model = _described()
    tower = TensorInfo("visual.blocks.0.mlp.fc1.weight", "BF16", (64, 64), 8192)
    more = structs.replace(model, tensors=(*model.tensors, tower))
    for ranks in (1, 2):
        gained = _at(more, ranks).first_stage_weights_bytes
        assert gained - _at(model, ranks).first_stage_weights_bytes == 8192


def test_the_latent_vector_of_mla_is_on_every_rank() -> None:
    model = _described(
        model_type="deepseek_v3",
        num_key_value_heads=8,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
        n_routed_experts=8,
        n_shared_experts=1,
        first_k_dense_replace=1,
        kv_lora_rank=128,
        q_lora_rank=192,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
    )
    for ranks in (1, 2, 4):
        assert _at(model, ranks).layer_kv_bytes_per_token == ((128 + 32) * 2,) * 4


def test_a_sliding_layer_holds_windows_and_what_is_in_flight() -> None:
    model = _described(
        model_type="gemma3_text",
        head_dim=64,
        sliding_window=128,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
    )
    long = _at(model, 1, context_tokens=100_000, concurrency=3)
    token = 2 * (64 + 64) * 2
    assert long.layer_kv_bytes_per_token == (0, 0, 0, token)
    assert long.layer_kv_cache_bytes[0] == (3 * (128 + 16) + 8192) * token
    assert long.layer_kv_cache_bytes[3] == 3 * 100_000 * token
    untrimmed = _at(model, 1, TRANSFORMERS_CUDA, context_tokens=100_000, concurrency=3)
    assert untrimmed.layer_kv_cache_bytes == (3 * 100_000 * token,) * 4


def test_the_format_of_the_cache_is_asked_for_or_the_checkpoints_own() -> None:
    own = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
            }
        },
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    brings, plain = _described(quantization_config=own), _described()
    full = _at(plain, 1).layer_kv_bytes_per_token[0]
    assert _at(brings, 1).layer_kv_bytes_per_token[0] == full // 2
    assert _at(brings, 1, kv_cache_dtype="bfloat16").layer_kv_bytes_per_token[0] == full
    assert _at(plain, 1, kv_cache_dtype="fp8").layer_kv_bytes_per_token[0] == full // 2
    assert _at(plain, 1, kv_cache_dtype="nvfp4").layer_kv_bytes_per_token[0] == full * 9 // 32


def test_a_cache_of_a_fixed_size_is_in_every_stage_whatever_is_asked_for() -> None:
    fixed = structs.replace(VLLM_CPU, kv_cache_bytes=2**30)
    usual, one = _at(_described(), 1, VLLM_CPU), _at(_described(), 1, fixed)
    assert one.is_sound
    for layers in (range(4), range(2)):
        assert one.rank(layers).kv_cache_bytes == 2**30
        assert one.rank(layers).overhead_bytes == usual.rank(layers).overhead_bytes


def test_overhead_has_the_buffers_that_the_shape_needs() -> None:
    terms = VLLM_CUDA.overhead
    alone, shared = _at(_described(), 1), _at(_described(), 2)
    base = terms.runtime_bytes + terms.graph_bytes
    assert alone.rank(range(4)).overhead_bytes == base
    assert shared.rank(range(4)).overhead_bytes == base + terms.tensor_communication_bytes
    staged = shared.rank(range(2)).overhead_bytes - shared.rank(range(4)).overhead_bytes
    assert staged == terms.pipeline_communication_bytes


def test_the_context_is_the_models_own_unless_another_is_asked_for() -> None:
    model = _described()
    assert memory_needs(model, VLLM_CUDA, EstimateRequest()).context_tokens == 2048
    asked = memory_needs(model, VLLM_CUDA, EstimateRequest(context_tokens=100, concurrency=3))
    assert (asked.context_tokens, asked.concurrency) == (100, 3)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dtype": "int3"}, r"dtype int3 is not known; one of: auto, bfloat16, float16, float32"),
        ({"kv_cache_dtype": "int2"}, "kv_cache_dtype int2 is not possible; one of: auto, "),
        ({"context_tokens": 0}, "must be at least 1"),
        ({"concurrency": -1}, "must be at least 1"),
        (
            {"tensor_parallel_sizes": (3,)},
            "3 is not possible: the model has 8 attention heads; "
            "sizes that divide them: 1, 2, 4, 8",
        ),
        ({"pipeline_parallel_sizes": (5,)}, "5 is not possible: the model has 4 layers; at most 4"),
    ],
)
def test_what_cannot_be_is_one_line_that_says_what_can(asked: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        memory_needs(_described(), VLLM_CUDA, EstimateRequest(**asked))
    assert "\n" not in str(caught.value)


def test_profiles_are_known_by_engine_and_platform() -> None:
    assert engine_profile("vllm", "cuda") is VLLM_CUDA
    assert engine_profile("vllm", "cpu") is VLLM_CPU
    assert engine_profile("vllm", "simulated") is None
    assert engine_profile("llama.cpp", "cuda") is None
