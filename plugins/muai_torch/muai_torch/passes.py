"""What the batcher needs of a model: facts about its text, and forward passes over a KV cache.

The network may lie in this process or in pieces in several; the batcher does not know.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from msgspec import Struct
from transformers import PreTrainedTokenizerBase

from muai_torch.slots import Shape


class Pass(Struct, frozen=True):
    """One forward pass: cache row `rows[i]` gets `tokens[i]`, the first at position `starts[i]`.

    `wanted` are the indices into `rows` whose next-token logits are asked for, ascending.
    """

    rows: list[int]
    starts: list[int]
    tokens: list[list[int]]
    wanted: list[int]


class PassExecutor(Protocol):
    """A KV cache and the passes over it. What is called takes effect in the order of the calls.

    Any method may raise; then the executor is lost, and with it what the cache held.
    """

    depth: int
    """Passes that are worth having submitted at a time: 1, or one for each stage of a pipeline."""

    @property
    def shape(self) -> Shape:
        """Rows and tokens that the cache has room for; at first none."""
        ...

    def resize(self, shape: Shape, used: Shape) -> None:
        """Moves the cache to a new shape, keeping the first `used` rows and tokens."""
        ...

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first `tokens` tokens over another row."""
        ...

    def submit(self, step: Pass) -> None:
        """Begins a pass. May block for as long as a pass takes."""
        ...

    def collect(self) -> torch.Tensor:
        """Logits of the oldest pass that was not collected, (wanted rows, vocabulary) float32.

        Blocks until they are there.
        """
        ...


class BatchModel(Protocol):
    """A loaded model. Used by one thread, except for `text_of`."""

    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    vocabulary: int
    context_tokens: int | None
    eos_ids: frozenset[int]

    def executor(self) -> PassExecutor:
        """A fresh, empty cache; one at a time is in use."""
        ...

    def probe(self) -> int:
        """One pass over two uneven rows; returns the bytes one token takes in the cache.

        Where several processes hold the cache: in the process where it takes most. Raises
        `UnsupportedModelError` when the model does not work with a slot cache.
        """
        ...

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes by term for the line about memory; of the process that holds most."""
        ...

    def token_text(self, token: int) -> str:
        """One token as text, special tokens included."""
        ...

    def text_of(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Tokens as text, without special tokens unless they are asked for."""
        ...
