"""Which parallel sizes are refused, and in what words."""

from typing import Any

import pytest
from msgspec import structs

from muai_core.model.architecture import Architecture, Quantization
from muai_core.model.memory import Shape
from muai_core.planning.engine_profiles import DEEPSPEED_CUDA, TRANSFORMERS_CUDA, VLLM_CUDA
from muai_core.planning.shapes import (
    possible_shapes,
    possible_tensor_parallel_sizes,
    refusal,
)

_PLAIN = Architecture(
    model_type="llama",
    layer_count=32,
    layer_kinds=("full",) * 32,
    hidden_size=4096,
    intermediate_size=14336,
    vocabulary_size=128256,
    attention_heads=32,
    kv_heads=8,
    key_head_size=128,
    value_head_size=128,
)


def _but(**changes: Any) -> Architecture:
    return structs.replace(_PLAIN, **changes)


def _fp8(unquantized: tuple[str, ...] = ()) -> Quantization:
    return Quantization(method="fp8", bits=8, block_shape=(128, 128), unquantized=unquantized)


@pytest.mark.parametrize(
    ("architecture", "size", "reason"),
    [
        (
            _PLAIN,
            3,
            "3 is not possible: the model has 32 attention heads; sizes that divide them: "
            "1, 2, 4, 8, 16, 32",
        ),
        (
            _but(attention_heads=24, kv_heads=4, vocabulary_size=96000),
            6,
            "6 is not possible: the model has 4 KV heads; sizes that divide them or are a multiple "
            "of them: 1, 2, 4, 8",
        ),
        (
            _but(attention_heads=9, kv_heads=3, vocabulary_size=49152, intermediate_size=1536),
            9,
            "9 is not possible: the vocabulary is 49152 tokens after padding; sizes that divide it:"
            " 1, 3",
        ),
        (
            _but(intermediate_size=11000),
            16,
            "16 is not possible: the model's feed-forward size is 11000; sizes that divide it: "
            "1, 2, 4, 8",
        ),
        (
            _but(intermediate_size=11008, quantization=_fp8()),
            4,
            "4 is not possible: the model's feed-forward size is 11008, 2752 per rank, which cuts "
            "through the fp8 blocks of 128; possible: 1, 2",
        ),
        (_PLAIN, 0, "0 is not possible: it must be at least 1; possible: 1, 2, 4, 8, 16, 32"),
    ],
)
def test_a_refusal_says_why_and_what_is_possible(
    architecture: Architecture, size: int, reason: str
) -> None:
    assert refusal(architecture, VLLM_CUDA, Shape(size, 1)) == reason


def test_engines_have_limits_of_their_own() -> None:
    assert refusal(_PLAIN, TRANSFORMERS_CUDA, Shape(2, 1)) == (
        "2 is not possible: the engine takes at most 1; possible: 1"
    )
    assert refusal(_PLAIN, TRANSFORMERS_CUDA, Shape(1, 2)) == (
        "2 is not possible: the engine takes no more than 1 stage; at most 1"
    )
    # DeepSpeed cuts unevenly.
    assert refusal(_PLAIN, DEEPSPEED_CUDA, Shape(3, 1)) is None


def test_modules_that_are_left_as_they_were_have_no_blocks() -> None:
    odd = _but(intermediate_size=11008)
    assert refusal(structs.replace(odd, quantization=_fp8()), VLLM_CUDA, Shape(4, 1))
    for entry in ("mlp", "re:.*mlp.*", "model.layers.16.mlp.down_proj"):
        left = structs.replace(odd, quantization=_fp8((entry,)))
        assert refusal(left, VLLM_CUDA, Shape(4, 1)) is None


def test_a_list_that_cannot_be_read_refuses_more_not_less() -> None:
    for entry in ("re:(", "re:(a+)+$"):
        bad = _but(intermediate_size=11008, quantization=_fp8((entry,)))
        assert refusal(bad, VLLM_CUDA, Shape(4, 1)) is not None


def test_an_engine_that_unpacks_has_no_blocks_to_cut_through() -> None:
    odd = _but(intermediate_size=11008, quantization=_fp8())
    unpacking = structs.replace(
        VLLM_CUDA, sharding=structs.replace(VLLM_CUDA.sharding, keeps_packed=False)
    )
    assert refusal(odd, unpacking, Shape(4, 1)) is None


def test_sizes_nobody_asked_for_end_at_64_devices() -> None:
    wide = _but(attention_heads=128, kv_heads=8, hidden_size=16384, intermediate_size=53248)
    assert possible_tensor_parallel_sizes(wide, VLLM_CUDA) == (1, 2, 4, 8, 16, 32, 64)
    assert refusal(wide, VLLM_CUDA, Shape(128, 1)) is None
    shapes = possible_shapes(wide, VLLM_CUDA)
    assert max(shape.device_count for shape in shapes) == 64
    assert shapes[0] == Shape(1, 1)
