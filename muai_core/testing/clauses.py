"""Numbered clauses: what every plugin of a kind must do, and the outcome of trying it.

A clause is a plain function of its subject, which knows how to make and drive the part that is
tested. Nothing here needs pytest: `muai plugin check` runs the same clauses.
"""

import time
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any, Literal

from msgspec import Struct

from muai_core.planning.wording import described, one_line

#: The words of `muai_core.plugin.loading.KINDS`.
Kind = Literal["engine", "device source", "allocation strategy", "recovery policy", "metric sink"]
Outcome = Literal["passed", "failed", "not_applicable"]

_REASON_LIMIT_CHARACTERS = 1000

#: Importing these registers the clauses of a kind.
_HOMES: dict[Kind, tuple[str, ...]] = {
    "engine": (
        "muai_core.testing.engine.launching",
        "muai_core.testing.engine.answers",
        "muai_core.testing.engine.abilities",
        "muai_core.testing.engine.endings",
        "muai_core.testing.engine.faults",
    ),
    "device source": (
        "muai_core.testing.device_source.registering",
        "muai_core.testing.device_source.observing",
        "muai_core.testing.device_source.reporting",
        "muai_core.testing.device_source.self_testing",
        "muai_core.testing.device_source.ending",
    ),
    "allocation strategy": ("muai_core.testing.allocation",),
    "recovery policy": ("muai_core.testing.recovery",),
    "metric sink": (
        "muai_core.testing.metric_sink.registering",
        "muai_core.testing.metric_sink.opening",
        "muai_core.testing.metric_sink.publishing",
        "muai_core.testing.metric_sink.outages",
        "muai_core.testing.metric_sink.ending",
    ),
}


class ClauseFailure(Exception):
    """The subject breaks the clause; the text says what it did and what was expected."""


class ClauseSkipped(Exception):
    """The clause does not apply to this subject, here and now; the text says why."""


class Clause(Struct, frozen=True, kw_only=True):
    """One rule. `check` returns when the subject keeps it."""

    #: A letter for the kind and two digits; clauses run in this order.
    number: str
    kind: Kind
    #: What a subject that keeps it does, as a sentence without a full stop.
    title: str
    #: Capabilities that the subject must declare; else the clause is not applicable.
    needs: tuple[str, ...] = ()
    #: Raises ClauseFailure or ClauseSkipped; anything else that it raises is a failure, too.
    check: Callable[[Any], None]


class ClauseResult(Struct, frozen=True, kw_only=True):
    """What came of one clause. `reason` is one line; empty when it passed."""

    number: str
    title: str
    outcome: Outcome
    reason: str = ""
    took_s: float = 0.0


_clauses: dict[str, Clause] = {}


def clause(
    number: str, *, kind: Kind, title: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers the decorated function as a clause. Raises ValueError when the number is taken."""

    def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
        if number in _clauses:
            raise ValueError(f"clause {number} is there twice")
        _clauses[number] = Clause(number=number, kind=kind, title=title, needs=needs, check=check)
        return check

    return register


def clauses_of(kind: Kind) -> tuple[Clause, ...]:
    """All clauses of a kind, in their order."""
    for home in _HOMES[kind]:
        import_module(home)
    return tuple(_clauses[number] for number in sorted(_clauses) if _clauses[number].kind == kind)


def run_clauses(
    kind: Kind, subject: Any, only: Collection[str] | None = None
) -> list[ClauseResult]:
    """Tries every clause of the kind, or those numbers, on one subject. Never raises.

    The subject's `capabilities`, where it has them, decide which clauses apply. It stays open:
    closing it is its maker's.
    """
    return [
        run_clause(clause, subject)
        for clause in clauses_of(kind)
        if only is None or clause.number in only
    ]


def run_clause(clause: Clause, subject: Any) -> ClauseResult:
    """Tries one clause. Never raises but for what ends the program."""
    started_s = time.monotonic()
    outcome, reason = _try(clause, subject)
    return ClauseResult(
        number=clause.number,
        title=clause.title,
        outcome=outcome,
        reason=one_line(reason, _REASON_LIMIT_CHARACTERS),
        took_s=time.monotonic() - started_s,
    )


def _try(clause: Clause, subject: Any) -> tuple[Outcome, str]:
    declared = getattr(subject, "capabilities", ())
    missing = [word for word in clause.needs if word not in declared]
    if missing:
        return "not_applicable", f"it does not declare {', '.join(missing)}"
    try:
        clause.check(subject)
    except ClauseSkipped as skipped:
        return "not_applicable", str(skipped)
    except ClauseFailure as failure:
        return "failed", str(failure)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        return "failed", described(error)
    return "passed", ""
