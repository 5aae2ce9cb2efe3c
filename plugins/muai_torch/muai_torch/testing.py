"""Small models with random weights, for tests: made in a moment, served like large ones."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LLAMA: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 256,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and an end-of-sequence token that is the last id, 256."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    make: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = make(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_random_model(folder: Path, name: str = "Llama", *, seed: int = 7, **settings: Any) -> Path:
    """Writes a Hugging Face folder: a random `name`ForCausalLM and a byte tokenizer.

    `settings` are those of the architecture's config, over `LLAMA`. With the defaults it hardly
    ever ends by itself.
    """
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**{**LLAMA, **settings})
    stem = name.removesuffix("Text")
    network = getattr(transformers, f"{stem}ForCausalLM", None)
    network = network or getattr(transformers, f"{stem}LMHeadModel")
    network(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
