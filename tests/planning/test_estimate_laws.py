"""Laws of the memory estimate, for made-up models of several families."""

import itertools
import random
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from muai_core.model.architecture import ModelDescription
from muai_core.model.memory import Shape, ShardedMemory, stage_layers
from muai_core.planning.architecture import architecture_of
from muai_core.planning.engine_profiles import DEEPSPEED_CUDA, TRANSFORMERS_CUDA, VLLM_CUDA
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.shapes import (
    possible_pipeline_parallel_sizes,
    possible_shapes,
    possible_tensor_parallel_sizes,
    refusal,
)
from muai_core.planning.tensors import tensors_of

_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma3_text": {"sliding_window": 64, "sliding_window_pattern": 3},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 384},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 128,
        "q_lora_rank": 192,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
    },
}
_QUANTIZATIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True},
)


@st.composite
def _models(draw: st.DrawFn, quantized: bool = True) -> ModelDescription:
    family = draw(st.sampled_from(sorted(_FAMILIES)))
    heads = draw(st.sampled_from((1, 2, 3, 4, 6, 8, 9, 12, 16, 40)))
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    config = {
        "model_type": family,
        "num_hidden_layers": draw(st.integers(2, 6)),
        "hidden_size": heads * 64,
        "intermediate_size": draw(st.sampled_from((512, 768, 1024, 1408, 2816))),
        "num_attention_heads": heads,
        "num_key_value_heads": (
            heads if family == "deepseek_v3" else draw(st.sampled_from(divisors))
        ),
        "head_dim": 64,
        "vocab_size": draw(st.integers(100, 5000)),
        "max_position_embeddings": draw(st.sampled_from((64, 1000, 4096))),
        "tie_word_embeddings": draw(st.booleans()),
        "torch_dtype": "bfloat16",
        **_FAMILIES[family],
    }
    quantization = draw(st.sampled_from(_QUANTIZATIONS)) if quantized else None
    if quantization is not None:
        config["quantization_config"] = quantization
    architecture = architecture_of(config)
    return ModelDescription(
        architecture=architecture, tensors=tensors_of(architecture), origin="config"
    )


def _whole(one: ShardedMemory) -> int:
    return one.rank(range(one.layer_count)).weights_bytes


@settings(max_examples=150, deadline=None)
@given(_models(), st.sampled_from((VLLM_CUDA, DEEPSPEED_CUDA)))
def test_ranks_together_hold_at_least_what_is_stored(model: Any, profile: Any) -> None:
    for one in memory_needs(model, profile, EstimateRequest()).sharded:
        assert one.tensor_parallel_size * _whole(one) >= model.stored_bytes


@settings(max_examples=150, deadline=None)
@given(_models())
def test_weights_of_a_rank_do_not_grow_with_more_ranks(model: Any) -> None:
    held = [_whole(one) for one in memory_needs(model, VLLM_CUDA, EstimateRequest()).sharded]
    assert held == sorted(held, reverse=True)


@settings(max_examples=150, deadline=None)
@given(_models(), st.integers(1, 5000), st.integers(1, 40))
def test_keys_and_values_grow_with_tokens_and_sequences(
    model: Any, context: int, concurrency: int
) -> None:
    request = EstimateRequest(context_tokens=context, concurrency=concurrency)
    blocks = -(-context // 16) * 16
    for one in memory_needs(model, VLLM_CUDA, request).sharded:
        for kind, held, per_token in zip(
            model.architecture.layer_kinds,
            one.layer_kv_cache_bytes,
            one.layer_kv_bytes_per_token,
            strict=True,
        ):
            if kind == "sliding":
                heads = -(-model.architecture.kv_heads // one.tensor_parallel_size)
                assert per_token == 0
                assert 0 < held <= concurrency * blocks * heads * 128 * 2
            else:
                assert held == concurrency * blocks * per_token


@settings(max_examples=100, deadline=None)
@given(_models(), st.integers(1, 2000), st.integers(1, 8))
def test_more_tokens_or_sequences_never_need_less(model: Any, context: int, more: int) -> None:
    def cache(tokens: int, sequences: int) -> list[int]:
        request = EstimateRequest(context_tokens=tokens, concurrency=sequences)
        sharded = memory_needs(model, VLLM_CUDA, request).sharded
        return [sum(one.layer_kv_cache_bytes) for one in sharded]

    base = cache(context, 1)
    assert all(a <= b for a, b in zip(base, cache(context + more, 1), strict=True))
    assert all(a <= b for a, b in zip(base, cache(context, 1 + more), strict=True))


@settings(max_examples=150, deadline=None)
@given(_models(), st.data())
def test_stages_together_are_the_model(model: Any, data: st.DataObject) -> None:
    count = model.architecture.layer_count
    cuts = data.draw(st.sets(st.integers(1, count - 1)))
    edges = [0, *sorted(cuts), count]
    partition = tuple(end - start for start, end in itertools.pairwise(edges))
    for one in memory_needs(model, VLLM_CUDA, EstimateRequest()).sharded:
        ranks = [one.rank(layers) for layers in stage_layers(partition)]
        whole = one.rank(range(count))
        twice = one.tied_weights_bytes if len(partition) > 1 else 0
        assert sum(rank.weights_bytes for rank in ranks) == whole.weights_bytes + twice
        assert sum(rank.kv_cache_bytes for rank in ranks) == whole.kv_cache_bytes


@settings(max_examples=150, deadline=None)
@given(_models(), st.sampled_from((VLLM_CUDA, DEEPSPEED_CUDA, TRANSFORMERS_CUDA)))
def test_shapes_that_are_estimated_are_the_possible_ones(model: Any, profile: Any) -> None:
    architecture = model.architecture
    needs = memory_needs(model, profile, EstimateRequest())
    assert needs.is_sound
    assert sorted(needs.shapes) == sorted(possible_shapes(architecture, profile))
    assert all(refusal(architecture, profile, shape) is None for shape in needs.shapes)
    sizes = possible_tensor_parallel_sizes(architecture, profile)
    for size in range(1, 20):
        reason = refusal(architecture, profile, Shape(size, 1))
        assert (reason is None) == (size in sizes)
        if reason is not None:
            assert reason.startswith(f"{size} is not possible: ")
            assert reason.endswith(": " + ", ".join(map(str, sizes)))
    stages = possible_pipeline_parallel_sizes(architecture, profile)
    for count in range(1, 10):
        reason = refusal(architecture, profile, Shape(1, count))
        assert (reason is None) == (count in stages)


@settings(max_examples=100, deadline=None)
@given(_models(), st.randoms(use_true_random=False))
def test_the_order_of_tensors_does_not_matter(model: Any, chance: random.Random) -> None:
    tensors = list(model.tensors)
    chance.shuffle(tensors)
    shuffled = ModelDescription(
        architecture=model.architecture, tensors=tuple(tensors), origin=model.origin
    )
    request = EstimateRequest()
    assert memory_needs(shuffled, VLLM_CUDA, request) == memory_needs(model, VLLM_CUDA, request)


@settings(max_examples=100, deadline=None)
@given(_models(quantized=False))
def test_a_cache_in_fp8_is_half_of_one_in_bfloat16(model: Any) -> None:
    assume(model.architecture.dtype == "bfloat16")
    own = memory_needs(model, VLLM_CUDA, EstimateRequest())
    small = memory_needs(model, VLLM_CUDA, EstimateRequest(kv_cache_dtype="fp8"))
    for full, half in zip(own.sharded, small.sharded, strict=True):
        assert sum(full.layer_kv_cache_bytes) == 2 * sum(half.layer_kv_cache_bytes)
        assert full.layer_weights_bytes == half.layer_weights_bytes


@settings(max_examples=100, deadline=None)
@given(_models())
def test_an_engine_that_unpacks_holds_every_weight_in_full(model: Any) -> None:
    whole = _whole(memory_needs(model, TRANSFORMERS_CUDA, EstimateRequest()).sharded[0])
    double = EstimateRequest(dtype="float32")
    assert _whole(memory_needs(model, TRANSFORMERS_CUDA, double).sharded[0]) >= 1.9 * whole
    assert whole >= 0.99 * model.stored_bytes
