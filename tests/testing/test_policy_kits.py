"""The kits for strategies and policies tell right from wrong: each defect breaks its own clause."""

from typing import Any, get_args

import pytest

from muai_core.control.recovery import Ladder
from muai_core.planning.balanced import Balanced
from muai_core.planning.packed import Packed
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.recovery import RecoveryPolicy
from muai_core.testing import (
    AllocationConformance,
    ClauseResult,
    RecoveryConformance,
    clauses_of,
    run_clause,
    run_clauses,
)
from muai_core.testing.allocation import AllocationLimits, AllocationSubject
from muai_core.testing.clauses import Kind
from muai_core.testing.fakes.policies import (
    ALLOCATION_DEFECTS,
    RECOVERY_DEFECTS,
    FakePolicy,
    FakeStrategy,
)
from muai_core.testing.recovery import RecoveryLimits, RecoverySubject

MODULES = ("slow_to_import", "hooks_raise")
TOO_LONG_S = 1.0
KINDS: tuple[Kind, ...] = ("allocation strategy", "recovery policy")
DEFECTS = {"allocation strategy": ALLOCATION_DEFECTS, "recovery policy": RECOVERY_DEFECTS}
CASES = [(kind, defect) for kind in KINDS for defect in DEFECTS[kind]]


def subject(kind: Kind, defect: str = "") -> Any:
    module = f"muai_core.testing.fakes.{defect}" if defect in MODULES else None
    if kind == "recovery policy":
        slow = defect == "thinks_for_long"
        return RecoverySubject(
            FakePolicy(defect, TOO_LONG_S),
            plugin_module=module,
            # Others may share the machine: the limit is short where it shall be missed.
            limits=RecoveryLimits(decide_s=0.1 if slow else 60),
        )
    slow = defect == "is_slow_in_large_fleets"
    return AllocationSubject(
        FakeStrategy(defect, TOO_LONG_S),
        plugin_module=module,
        limits=AllocationLimits(place_s=0.1 if slow else 60),
    )


def results_of(kind: Kind, defect: str = "") -> list[ClauseResult]:
    if defect == "thinks_for_long":
        # All others would wait for it, too.
        numbers = [one.number for one in clauses_of(kind) if one.number in ("R01", "R04", "R16")]
        return run_clauses(kind, subject(kind, defect), numbers)
    return run_clauses(kind, subject(kind, defect))


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_part_keeps_every_clause(kind: Kind) -> None:
    results = results_of(kind)
    assert [one.number for one in results] == [one.number for one in clauses_of(kind)]
    left = [one for one in results if one.outcome != "passed"]
    # The fake is asked for one after the other.
    assert [one.number for one in left if one.number != "A17"] == []


@pytest.mark.parametrize(("kind", "defect"), CASES)
def test_a_defect_breaks_its_clause_and_no_other(kind: Kind, defect: str) -> None:
    broken = [one for one in results_of(kind, defect) if one.outcome == "failed"]
    assert [one.number for one in broken] == [DEFECTS[kind][defect]], broken
    assert broken[0].reason


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_defect_for_every_clause(kind: Kind) -> None:
    assert list(DEFECTS[kind].values()) == [one.number for one in clauses_of(kind)]
    assert kind in get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_each_clause_works_alone(kind: Kind) -> None:
    for clause in clauses_of(kind):
        assert run_clause(clause, subject(kind)).outcome != "failed"


class _Builtin(AllocationConformance):
    plugin_module = "muai_core.builtin"


class TestBalanced(_Builtin):
    def make_strategy(self) -> AllocationStrategy:
        return Balanced()


class TestPacked(_Builtin):
    def make_strategy(self) -> AllocationStrategy:
        return Packed()


class TestLadder(RecoveryConformance):
    plugin_module = "muai_core.builtin"

    def make_policy(self) -> RecoveryPolicy:
        return Ladder()
