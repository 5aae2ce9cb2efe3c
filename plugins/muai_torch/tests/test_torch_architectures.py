"""Architectures with other positions, masks and heads than Llama's, each against `generate`."""

import random

import pytest
import torch
import transformers
from muai_torch.acceleration import accelerate
from muai_torch.batching import Batcher
from muai_torch.model import LoadedModel, UnsupportedModelError
from muai_torch.sequence import Chooser, Limits, Sequence
from transformers import PreTrainedTokenizerFast

from muai_core.engine_server.stop import TextStream

COMMON = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "Qwen2": COMMON,
    "Qwen3": COMMON,
    "Mistral": {**COMMON, "sliding_window": 16},
    "Gemma2": {**COMMON, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "Gemma3Text": {**COMMON, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "Phi3": COMMON,
    "Olmo2": COMMON,
    "GPTNeoX": {**COMMON, "num_key_value_heads": 4},
    "GPT2": {
        "vocab_size": 300,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    "Mixtral": {**COMMON, "num_local_experts": 4},
}


def build(name: str, settings: dict[str, object]) -> transformers.PreTrainedModel:
    torch.manual_seed(3)
    config_class = getattr(transformers, f"{name}Config")
    stem = name.removesuffix("Text")
    model_class = getattr(transformers, f"{stem}ForCausalLM", None)
    model_class = model_class or getattr(transformers, f"{stem}LMHeadModel")
    return model_class(config_class(**settings)).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: LoadedModel) -> PreTrainedTokenizerFast:
    return tiny_model.tokenizer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_mixed_batch_equals_generate(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    network = build(name, ARCHITECTURES[name])
    chance = random.Random(5)
    prompts = [[chance.randrange(300) for _ in range(length)] for length in (1, 9, 30, 61)]
    wanted = [
        network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    accelerate(network)
    model = LoadedModel(network, tokenizer)
    assert model.probe() > 0
    limits = Limits(max_num_seqs=4, max_model_len=256, budget_tokens=1024, prefill_tokens=40)
    batcher = Batcher(model, limits)
    for key, prompt in enumerate(prompts):
        batcher.add(
            Sequence(
                key,
                prompt,
                max_new_tokens=20,
                chooser=Chooser(0, 1, chance),
                text=TextStream(lambda ids: "", ()),
                ignore_eos=True,
            )
        )
    got: dict[int, list[int]] = {}
    while batcher.has_work:
        for key, delta in batcher.step():
            got.setdefault(key, []).extend(delta.token_ids)
    assert [got[key] for key in range(len(prompts))] == wanted


def test_recurrent_models_are_refused_with_the_reason(tokenizer: PreTrainedTokenizerFast) -> None:
    network = build(
        "Mamba",
        {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    )
    with pytest.raises(UnsupportedModelError):
        LoadedModel(network, tokenizer).probe()
