"""One request inside the batch, and what bounds a batch. Imports no torch."""

import random

from msgspec import Struct

from muai_core.engine_server.stop import TextStream


class Chooser(Struct):
    """How one sequence picks tokens. `draws` is its own stream: batch mates do not disturb it."""

    temperature: float
    top_p: float
    draws: random.Random

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Limits(Struct, frozen=True, kw_only=True):
    """What bounds a batch. `budget_tokens` is what the KV cache may hold, rows times tokens."""

    max_num_seqs: int
    max_model_len: int
    budget_tokens: int
    prefill_tokens: int = 512


class Sequence:
    """One request in the batch: its tokens so far and how it picks the next one."""

    def __init__(
        self,
        key: int,
        prompt_ids: list[int],
        *,
        max_new_tokens: int,
        chooser: Chooser,
        text: TextStream,
        ignore_eos: bool = False,
        top_logprobs: int | None = None,
    ) -> None:
        self.key = key
        self.prompt_ids = prompt_ids
        self.tokens = list(prompt_ids)
        self.max_new_tokens = max_new_tokens
        self.chooser = chooser
        self.text = text
        self.ignore_eos = ignore_eos
        self.top_logprobs = top_logprobs
        self.cached = 0
        """How many of `tokens` are in the cache."""

    @property
    def pending(self) -> int:
        """Tokens that the model has not seen yet."""
        return len(self.tokens) - self.cached

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.prompt_ids)
