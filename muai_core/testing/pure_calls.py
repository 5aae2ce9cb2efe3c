"""Calling a policy, which must be pure, and finding out when it is not."""

import builtins
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from threading import Thread
from typing import Any, TypeVar
from unittest import mock

import msgspec

from muai_core.planning.wording import described
from muai_core.testing.clauses import ClauseFailure

AnswerT = TypeVar("AnswerT")

#: What tells the time, what is left to chance, and what reaches out of the process.
_IMPURE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "time": (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep")),
    "random": (random, ("random", "randint", "randrange", "choice", "shuffle", "sample")),
    "secrets": (secrets, ("token_hex", "token_bytes", "randbelow", "choice")),
    "uuid": (uuid, ("uuid1", "uuid4")),
    "os": (os, ("urandom", "getpid", "listdir", "system")),
    "builtins": (builtins, ("open", "input")),
}


class _Impure(BaseException):
    """Past the `except Exception` of whoever is called."""


def called(what: str, call: Callable[[], AnswerT]) -> AnswerT:
    """The answer. Raises ClauseFailure when it raises."""
    try:
        return call()
    except Exception as error:
        raise ClauseFailure(f"{what} raises {described(error)}") from error


@contextmanager
def nothing_impure(what: str) -> Iterator[None]:
    """Raises ClauseFailure when a clock, chance, files or the like are asked meanwhile."""
    with ExitStack() as patches:
        for module, (home, names) in _IMPURE.items():
            for name in names:
                refuse = _refusal(name if module == "builtins" else f"{module}.{name}")
                patches.enter_context(mock.patch.object(home, name, refuse))
        try:
            yield
        except _Impure as found:
            raise ClauseFailure(f"{what} calls {found}") from None


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise _Impure(name)

    return refuse


def unchanged(arguments: Any) -> Callable[[], bool]:
    """Whether they are as they were when this was called."""
    before = _text(arguments)
    return lambda: _text(arguments) == before


def own_copy(arguments: AnswerT) -> AnswerT:
    return deepcopy(arguments)


def said(answer: Any) -> Any:
    """Whatever was answered, as plain data."""
    return msgspec.to_builtins(answer) if isinstance(answer, msgspec.Struct) else repr(answer)


def _text(arguments: Any) -> bytes:
    return msgspec.json.encode(arguments, order=None)


def done_within(what: str, call: Callable[[], object], limit_s: float) -> None:
    """Raises ClauseFailure when it takes longer; what hangs is left behind."""
    thread = Thread(target=call, daemon=True)
    began_s = time.monotonic()
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise ClauseFailure(f"{what} is not done after {time.monotonic() - began_s:.1f} s")
