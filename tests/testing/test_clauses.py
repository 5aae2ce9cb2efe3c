"""The frame of the kits: what a clause says becomes an outcome, whatever it raises."""

import pytest

from muai_core.testing import Clause, ClauseFailure, ClauseSkipped, clause, clauses_of, run_clause


class Subject:
    capabilities = ("streaming",)


def outcome_of(error: Exception | None, *needs: str) -> tuple[str, str]:
    def check(subject: Subject) -> None:
        if error is not None:
            raise error

    made = Clause(number="X01", kind="engine", title="it works", needs=needs, check=check)
    result = run_clause(made, Subject())
    assert (result.number, result.title) == ("X01", "it works")
    assert result.took_s >= 0
    return result.outcome, result.reason


def test_every_way_to_end_is_an_outcome() -> None:
    assert outcome_of(None) == ("passed", "")
    assert outcome_of(ClauseFailure("it sent\nnothing")) == ("failed", "it sent nothing")
    assert outcome_of(ClauseSkipped("no GPU")) == ("not_applicable", "no GPU")
    assert outcome_of(KeyError("data")) == ("failed", "KeyError: 'data'")
    assert len(outcome_of(ValueError("x" * 10**6))[1]) <= 1000


def test_a_clause_applies_only_to_what_declares_its_capabilities() -> None:
    assert outcome_of(None, "streaming") == ("passed", "")
    assert outcome_of(None, "streaming", "seed") == ("not_applicable", "it does not declare seed")


def test_a_number_is_given_once() -> None:
    taken = clauses_of("engine")[0].number
    with pytest.raises(ValueError, match=f"clause {taken} is there twice"):
        clause(taken, kind="engine", title="again")(print)
