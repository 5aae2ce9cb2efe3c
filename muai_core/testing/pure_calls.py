"""Calling a policy, which must be pure, and finding out when it is not."""

import builtins
import datetime
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import msgspec

from muai_core.planning.wording import described
from muai_core.testing.clauses import ClauseFailure

AnswerT = TypeVar("AnswerT")

#: What tells the time, what is left to chance, and what reaches out of the call.
_IMPURE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "time": (
        time,
        (
            *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"),
            *("process_time", "localtime", "gmtime", "sleep"),
        ),
    ),
    "datetime": (datetime, ("datetime", "date")),
    "random": (
        random,
        ("random", "randint", "randrange", "choice", "choices", "shuffle", "sample", "uniform"),
    ),
    "secrets": (secrets, ("token_hex", "token_bytes", "randbelow", "choice")),
    "uuid": (uuid, ("uuid1", "uuid4")),
    "os": (os, ("urandom", "getpid", "listdir", "scandir", "stat", "open", "fork", "system")),
    "builtins": (builtins, ("open", "input")),
    "subprocess": (subprocess, ("Popen",)),
    "socket": (socket, ("socket", "create_connection")),
    "threading.Thread": (Thread, ("start",)),
}
#: Packages with more in them than the plugin.
_NOT_OF_ONE_PLUGIN = ("muai_core", "tests")


class _Impure(BaseException):
    """Past the `except Exception` of whoever is called."""


def called(what: str, call: Callable[[], AnswerT]) -> AnswerT:
    """The answer. Raises ClauseFailure when it raises."""
    try:
        return call()
    except Exception as error:
        raise ClauseFailure(f"{what} raises {described(error)}") from error


@contextmanager
def nothing_impure(what: str, part: object) -> Iterator[None]:
    """Raises ClauseFailure when a clock, chance, files or the like are asked meanwhile.

    Also under the names that the modules of the part's package have for them.
    """
    modules = _modules_of(part)
    with ExitStack() as patches:
        for home_name, (home, names) in _IMPURE.items():
            for name in names:
                original = getattr(home, name)
                refuse = _refusal(name if home is builtins else f"{home_name}.{name}", original)
                patches.enter_context(mock.patch.object(home, name, refuse))
                for module, own_name in _names_in(modules, original):
                    patches.enter_context(mock.patch.object(module, own_name, refuse))
        try:
            yield
        except _Impure as found:
            raise ClauseFailure(f"{what} calls {found}") from None


def _modules_of(part: object) -> list[ModuleType]:
    """Those of the package that the part's class is in; of a large one, the class's own."""
    home = type(part).__module__
    top = home.partition(".")[0]
    package = home if top in _NOT_OF_ONE_PLUGIN else top
    return [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and (name == package or name.startswith(f"{package}."))
    ]


def _names_in(modules: list[ModuleType], value: object) -> list[tuple[ModuleType, str]]:
    return [
        (module, name)
        for module in modules
        for name, found in list(vars(module).items())
        if found is value
    ]


def _refusal(name: str, original: Any) -> Any:
    """What raises when it is called, or, of dates, when it is asked for today's."""

    caller = threading.get_ident()

    def refuse(*arguments: Any, **named: Any) -> Any:
        # Other threads of the program may go on meanwhile.
        if threading.get_ident() != caller:
            return original(*arguments, **named)
        raise _Impure(name)

    if original not in (datetime.datetime, datetime.date):
        return refuse
    words = {word: staticmethod(refuse) for word in ("now", "utcnow", "today")}
    return type(original.__name__, (original,), words)


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
