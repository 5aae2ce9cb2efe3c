"""A loaded model: weights, tokenizer, and one forward pass over a slot cache."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from muai_torch.slots import Batch, Shape, SlotCache

BATCHABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})


class UnsupportedModelError(Exception):
    """The architecture cannot be batched here; the text says why."""


class LoadedModel:
    """A decoder-only model in eval mode. Used by one thread."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.device = network.device
        embeddings = cast("torch.nn.Embedding", network.get_input_embeddings())
        self.dtype = embeddings.weight.dtype
        text_config = network.config.get_text_config(decoder=True)
        self.num_layers: int = text_config.num_hidden_layers
        self.vocabulary: int = text_config.vocab_size
        self.context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)
        self.eos_ids = _eos_ids(network, tokenizer)
        self._make_masks = _mask_maker(text_config)

    def forward(self, new_tokens: Sequence[Sequence[int]], cache: SlotCache) -> torch.Tensor:
        """Feeds each row's new tokens; returns the next-token logits, (rows, vocabulary) float32.

        `cache.batch` says where the rows lie.
        """
        batch = cache.batch
        padded = [[0] * (batch.width - len(tokens)) + list(tokens) for tokens in new_tokens]
        output = self.network(
            input_ids=torch.tensor(padded, device=self.device),
            attention_mask=self._make_masks(batch, self.dtype),
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    @torch.inference_mode()
    def probe(self) -> int:
        """One pass over two uneven rows; returns the bytes one token takes in the cache.

        Raises `UnsupportedModelError` when the model does not work with a slot cache.
        """
        cache = SlotCache(self.num_layers, Shape(2, 4))
        cache.batch = Batch([0, 1], [0, 0], [1, 2], self.device)
        try:
            self.forward([[0], [0, 0]], cache)
            return cache.bytes_per_token()
        except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
            raise UnsupportedModelError(
                f"{type(self.network).__name__} does not run with a per-row cache: {error}"
            ) from error

    def token_text(self, token: int) -> str:
        """One token as text, special tokens included."""
        return self.text_of([token], special=True)

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Tokens as text, without special tokens unless they are asked for."""
        return cast("str", self.tokenizer.decode(list(tokens), skip_special_tokens=not special))


def _eos_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = network.generation_config
    listed = generation.eos_token_id if generation is not None else None
    found = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in [*found, tokenizer.eos_token_id] if token is not None)


_MaskMaker = Callable[[Batch, torch.dtype], Any]


def _mask_maker(config: Any) -> _MaskMaker:
    """The masks this architecture's forward takes: one tensor, or one for each kind of layer."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    unknown = kinds - BATCHABLE_LAYERS
    if unknown:
        raise UnsupportedModelError(
            f"{config.model_type} has layers of type {', '.join(sorted(unknown))}; "
            f"supported are {', '.join(sorted(BATCHABLE_LAYERS))}"
        )
    if len(kinds) == 2:
        return lambda batch, dtype: {
            "full_attention": batch.mask(dtype),
            "sliding_attention": batch.mask(dtype, window),
        }
    if kinds == {"full_attention"}:
        window = None
    return lambda batch, dtype: batch.mask(dtype, window)
