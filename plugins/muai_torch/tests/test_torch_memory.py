"""What the worker tells of its memory is what the model's tensors take."""

import pytest
import torch
from muai_torch.acceleration import PackedLinear
from muai_torch.memory import held_bytes
from muai_torch.model import LoadedModel
from transformers import LlamaConfig, LlamaForCausalLM


def test_weights_that_were_packed_for_the_cpu_count() -> None:
    plain = torch.nn.Linear(256, 128, bias=False, dtype=torch.bfloat16)
    network = torch.nn.Sequential(torch.nn.Embedding(128, 256, dtype=torch.bfloat16), plain)
    before = held_bytes(network)["weights"]
    assert before == 2 * 256 * 128 * 2
    try:
        packed = PackedLinear(plain)
    except (AttributeError, RuntimeError):
        pytest.skip("this torch build cannot pack linear weights")
    assert held_bytes(torch.nn.Sequential(network[0], packed))["weights"] == before


def test_the_tiny_model_holds_its_parameters_and_no_cache(tiny_model: LoadedModel) -> None:
    parameters = sum(tensor.nbytes for tensor in tiny_model.network.parameters())
    held = held_bytes(tiny_model.network)
    assert held["weights"] == pytest.approx(parameters, rel=0.01)
    assert held["kv_cache"] == 0


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_are_counted_once(tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
    )
    network = LlamaForCausalLM(config).to(torch.bfloat16)
    embedding_bytes = 4096 * 64 * 2
    layer_bytes = (4 * 64 * 64 + 3 * 64 * 64 + 2 * 64 + 64) * 2
    expected = (1 if tied else 2) * embedding_bytes + layer_bytes
    assert held_bytes(network)["weights"] == pytest.approx(expected, rel=0.01)
