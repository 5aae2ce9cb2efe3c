"""What a program is told by an engine."""

from typing import Literal

from msgspec import Struct

Where = Literal["gpu", "cpu"]


class EngineError(Exception):
    """The engine could not be started, or could not answer; the text says why and what to do."""


class Fallback(Struct, frozen=True, kw_only=True):
    """A step down from what was asked for. Each text is one line."""

    #: What was tried, and what is tried instead, e.g. "TP 2 × PP 1 on GPUs".
    wanted: str
    instead: str
    reason: str


class EngineAllocation(Struct, frozen=True, kw_only=True):
    """Where a loaded model runs, and how it came to that."""

    where: Where
    #: `stages[s][t]` is the GPU's device id for pipeline stage s, tensor-parallel rank t. On the
    #: CPU, which all ranks share, the number of the rank.
    stages: tuple[tuple[int, ...], ...]
    #: The devices' UUIDs in rank order.
    uuids: tuple[str, ...]
    #: Empty: it runs as asked for.
    fallbacks: tuple[Fallback, ...] = ()


class Generation(Struct, frozen=True, kw_only=True):
    """An answer; `str()` of it is the text."""

    text: str
    #: stop, or length when `max_tokens` or the context was used up.
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int

    def __str__(self) -> str:
        return self.text
