"""The life of a replica: what the table promises, and that its picture is up to date."""

import importlib.util
from pathlib import Path

import pytest

from muai_core.control.lifecycle import (
    HOLDS_DEVICES,
    MAY_RUN,
    TRANSITIONS,
    IllegalTransition,
    ReplicaState,
    Trigger,
    advance,
    states_before,
)

ROOT = Path(__file__).parents[2]


def reachable(start: ReplicaState) -> set[ReplicaState]:
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        new = {after for (before, _), after in TRANSITIONS.items() if before is here} - found
        found |= new
        todo += new
    return found


def test_every_state_is_reached_and_every_replica_can_be_forgotten() -> None:
    assert reachable(ReplicaState.PENDING) == set(ReplicaState)
    assert all(ReplicaState.GONE in reachable(state) for state in ReplicaState)
    assert reachable(ReplicaState.GONE) == {ReplicaState.GONE}


def test_devices_are_let_go_only_from_releasing() -> None:
    ways_out = {
        before
        for (before, _), after in TRANSITIONS.items()
        if before in HOLDS_DEVICES and after not in HOLDS_DEVICES
    }
    assert ways_out == {ReplicaState.RELEASING}


def test_every_process_can_be_lost_and_none_comes_back_to_life() -> None:
    for state in MAY_RUN:
        assert advance(state, Trigger.LOST) is ReplicaState.RELEASING
    assert not any(
        after in MAY_RUN
        for (before, _), after in TRANSITIONS.items()
        if before not in MAY_RUN
        if before is not ReplicaState.PENDING
    )


def test_only_a_starting_replica_becomes_ready() -> None:
    assert states_before(Trigger.READY) == {ReplicaState.STARTING}


def test_a_step_that_the_table_lacks_is_an_error() -> None:
    for state in ReplicaState:
        for trigger in Trigger:
            if (state, trigger) not in TRANSITIONS:
                with pytest.raises(IllegalTransition, match=state.value):
                    advance(state, trigger)


def test_the_diagram_in_the_architecture_is_the_table() -> None:
    """If this fails, run `python tools/lifecycle_diagram.py`."""
    tool = ROOT / "tools" / "lifecycle_diagram.py"
    spec = importlib.util.spec_from_file_location("lifecycle_diagram", tool)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert module.with_diagram(text) == text
