"""A model in this process: weights, tokenizer, and forward passes over a slot cache."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from muai_torch.memory import held_bytes
from muai_torch.passes import Pass
from muai_torch.slots import Batch, Shape, SlotCache

BATCHABLE_LAYERS = frozenset({"full_attention", "sliding_attention"})


class UnsupportedModelError(Exception):
    """The architecture cannot be batched here; the text says why."""


class TextModel:
    """What serving must know of a model besides its passes: vocabulary, context, end of text."""

    def __init__(
        self,
        config: PreTrainedConfig,
        generation: GenerationConfig | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.tokenizer = tokenizer
        text_config = config.get_text_config(decoder=True)
        self.vocabulary: int = text_config.vocab_size
        self.context_tokens: int | None = getattr(text_config, "max_position_embeddings", None)
        self.eos_ids = _eos_ids(generation, tokenizer)

    def token_text(self, token: int) -> str:
        """One token as text, special tokens included."""
        return self.text_of([token], special=True)

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Tokens as text, without special tokens unless they are asked for."""
        return cast("str", self.tokenizer.decode(list(tokens), skip_special_tokens=not special))


class LoadedModel(TextModel):
    """A decoder-only model in eval mode, whole in this process. Used by one thread."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(network.config, network.generation_config, tokenizer)
        self.network = network
        self.device = network.device
        embeddings = cast("torch.nn.Embedding", network.get_input_embeddings())
        self.dtype = embeddings.weight.dtype
        text_config = network.config.get_text_config(decoder=True)
        self.num_layers: int = text_config.num_hidden_layers
        self._make_masks = mask_maker(text_config)

    def forward(self, new_tokens: Sequence[Sequence[int]], cache: SlotCache) -> torch.Tensor:
        """Feeds each row's new tokens; returns the next-token logits, (rows, vocabulary) float32.

        `cache.batch` says where the rows lie.
        """
        batch = cache.batch
        output = self.network(
            input_ids=padded(new_tokens, batch),
            attention_mask=self._make_masks(batch, self.dtype),
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def executor(self) -> "LocalExecutor":
        return LocalExecutor(self)

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

    def held_bytes(self) -> dict[str, int]:
        return held_bytes(self.network)


class LocalExecutor:
    """Passes in this process: `submit` computes, `collect` hands over."""

    depth = 1

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._cache = SlotCache(model.num_layers, Shape(0, 0))
        self._done: deque[torch.Tensor] = deque()

    @property
    def shape(self) -> Shape:
        return self._cache.shape

    def resize(self, shape: Shape, used: Shape) -> None:
        self._cache.resize(shape, used)

    def move_row(self, source: int, target: int, tokens: int) -> None:
        self._cache.move_row(source, target, tokens)

    def submit(self, step: Pass) -> None:
        counts = [len(tokens) for tokens in step.tokens]
        self._cache.batch = Batch(step.rows, step.starts, counts, self._model.device)
        logits = self._model.forward(step.tokens, self._cache)
        all_wanted = len(step.wanted) == len(step.rows)
        self._done.append(logits if all_wanted else logits[step.wanted])

    def collect(self) -> torch.Tensor:
        return self._done.popleft()


def padded(new_tokens: Sequence[Sequence[int]], batch: Batch) -> torch.Tensor:
    """The token ids of a pass, (rows, width), padded on the left with 0."""
    rows = [[0] * (batch.width - len(tokens)) + list(tokens) for tokens in new_tokens]
    return torch.tensor(rows, device=batch.positions.device)


def _eos_ids(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    listed = generation.eos_token_id if generation is not None else None
    found = listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in [*found, tokenizer.eos_token_id] if token is not None)


MaskMaker = Callable[[Batch, torch.dtype], Any]


def mask_maker(config: Any) -> MaskMaker:
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
