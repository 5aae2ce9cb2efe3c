"""What DeepSpeed's AutoTP leaves on a rank, beside what the estimate says.

Measured with DeepSpeed 0.19.8, transformers 5.19 and torch 2.13 on two CPU ranks:
`deepspeed.init_inference(model, tensor_parallel={"tp_size": 2}, dtype=torch.float32)`, and then the
parameters of `engine.module` counted on each rank; the largest is what is compared.
"""

from typing import Any

import pytest

from muai_core.model.architecture import ModelDescription
from muai_core.planning.architecture import architecture_of
from muai_core.planning.engine_profiles import DEEPSPEED_CPU
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.tensors import tensors_of

_COMMON: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
_QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
}
_DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_group": 2,
    "topk_group": 1,
}
#: Config, parameters of the whole model, and of the larger of two ranks.
_TOYS: dict[str, tuple[dict[str, Any], int, int]] = {
    "llama": ({"model_type": "llama"}, 3_426_560, 1_919_232),
    "qwen2, tied": ({"model_type": "qwen2", "tie_word_embeddings": True}, 3_166_464, 1_920_256),
    "qwen3_moe": (_QWEN3_MOE, 7_612_928, 7_088_640),
    "mixtral": (
        {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
        18_229_504,
        17_705_216,
    ),
    "deepseek_v3": (_DEEPSEEK_V3, 7_091_072, 6_148_992),
}


def _parameters(config: dict[str, Any], ranks: int) -> float:
    architecture = architecture_of({**_COMMON, **config})
    model = ModelDescription(
        architecture=architecture, tensors=tensors_of(architecture), origin="config"
    )
    needs = memory_needs(
        model, DEEPSPEED_CPU, EstimateRequest(tensor_parallel_sizes=(ranks,), context_tokens=64)
    )
    return needs.sharded[0].rank(range(4)).weights_bytes / 4


@pytest.mark.parametrize("toy", _TOYS)
def test_a_rank_of_two_holds_what_was_counted_there(toy: str) -> None:
    config, whole, largest = _TOYS[toy]
    # DeepSeek's router has a bias that is a buffer, no parameter: 8 values in each of 3 layers.
    buffers = 24 if toy == "deepseek_v3" else 0
    assert _parameters(config, 1) == whole + buffers
    assert _parameters(config, 2) == largest + buffers


def test_one_head_of_keys_and_values_leaves_attention_whole() -> None:
    # Rank 0 has all of the attention and rank 1 the rest of the inner size: 1 968 384 and
    # 1 526 016 of 3 229 952 parameters. All ranks are planned for as the largest of each part.
    estimated = _parameters({"model_type": "llama", "num_key_value_heads": 1}, 2)
    assert 1_968_384 <= estimated <= 1.08 * 1_968_384
