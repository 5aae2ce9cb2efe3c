"""What each event does to the tables. A handler checks everything first and then changes, or
answers why it changed nothing: no event is ever half applied."""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from muai_core.control import devices
from muai_core.control import events as ev
from muai_core.control.lifecycle import (
    HOLDS_DEVICES,
    MAY_RUN,
    ReplicaState,
    Trigger,
    states_before,
)
from muai_core.control.state import Replica
from muai_core.control.turn import Turn
from muai_core.control.verdict import Illegal, Stale, Verdict
from muai_core.model.deployment import Deployment

#: Per deployment; more is a slip of the hand, and would keep a step busy for minutes.
MOST_REPLICAS = 100_000


def apply(turn: Turn, event: ev.Event) -> Verdict:
    """Apply one event, or say why not. Never raises on anything that decodes as an event."""
    return _HANDLERS[type(event)](turn, event)


# --- desired state ------------------------------------------------------------------------------


def _deployments_desired(turn: Turn, event: ev.DeploymentsDesired) -> Verdict:
    state = turn.state
    if state.shutting_down:
        return Illegal("the controller is shutting down")
    names = [deployment.name for deployment in event.deployments]
    if len(set(names)) != len(names):
        return Illegal("a deployment is named twice")
    for deployment in event.deployments:
        if not _possible(deployment):
            return Illegal(f"deployment {deployment.name} asks for impossible sizes")
    wanted = {deployment.name: _counted(turn, deployment) for deployment in event.deployments}
    for name in [*state.deployments, *wanted]:
        if state.deployments.get(name) != wanted.get(name):
            turn.touch(name)
    for name, deployment in wanted.items():
        state.generations[name] = deployment.generation
    state.deployments = wanted
    turn.capacity_changed = True
    return None


def _possible(deployment: Deployment) -> bool:
    return (
        0 <= deployment.replicas <= MOST_REPLICAS
        and deployment.tensor_parallel_size >= 1
        and deployment.pipeline_parallel_size >= 1
        and (deployment.memory_bytes_per_device or 0) >= 0
        and (deployment.memory is None or deployment.memory.is_sound)
        and deployment.shared_shape is None  # the planner's own
    )


def _counted(turn: Turn, wanted: Deployment) -> Deployment:
    """The wish under its generation: the last one, plus one if more than `replicas` changed.

    A better estimate of its memory, or another reason for its engine, is no other wish.
    """
    last = turn.state.deployments.get(wanted.name)
    generation = turn.state.generations.get(wanted.name, 0)
    if last is None:
        return structs.replace(wanted, generation=generation + 1)
    same = structs.replace(
        last,
        replicas=wanted.replicas,
        memory=wanted.memory,
        memory_reason=wanted.memory_reason,
        engine_reason=wanted.engine_reason,
    )
    if structs.replace(wanted, generation=last.generation) == same:
        return same
    return structs.replace(wanted, generation=generation + 1)


def _shutdown_requested(turn: Turn, event: ev.ShutdownRequested) -> Verdict:
    if turn.state.shutting_down:
        return Stale("already shutting down")
    turn.state.shutting_down = True
    for name in turn.state.deployments:
        turn.touch(name)
    turn.state.deployments = {}
    return None


# --- replicas -----------------------------------------------------------------------------------


def _replica_told(turn: Turn, event: ev.ReplicaFact) -> Verdict:
    """Find the incarnation an event is about, and apply the event if it is not overtaken."""
    replica = turn.state.replicas.get(event.replica_id)
    if replica is None:
        return _forgotten(turn, event.replica_id)
    if not 1 <= event.epoch <= replica.epoch:
        return Illegal("an epoch that never was")
    if event.epoch < replica.epoch:
        return Stale("an earlier epoch")
    states, change = _REPLICA_FACTS[type(event)]
    if replica.state not in states:
        return Stale("late")
    change(turn, replica, event)
    return None


def _forgotten(turn: Turn, replica_id: str) -> Verdict:
    name, _, number = replica_id.rpartition(".")
    last = turn.state.numbers.get(name)
    # `int` refuses to read thousands of digits.
    if last is not None and number.isdecimal() and len(number) <= 9 and int(number) <= last:
        return Stale("a replica that is gone")
    return Illegal("a replica that never was")


def _spawned(turn: Turn, replica: Replica, event: ev.ReplicaSpawned) -> None:
    turn.store(structs.replace(replica, pid=event.pid, spawned_at_s=turn.state.now_s))


def _progressed(turn: Turn, replica: Replica, event: ev.ReplicaProgressed) -> None:
    turn.store(structs.replace(replica, stage=event.stage, detail=event.detail))


def _ready(turn: Turn, replica: Replica, event: ev.ReplicaReady) -> None:
    turn.move(replica, Trigger.READY, endpoint=event.endpoint, stage=None, detail=None)


def _lost(turn: Turn, replica: Replica, event: ev.ReplicaStartFailed | ev.ReplicaExited) -> None:
    # What is told to end dies in many ways, and none says anything about its devices.
    if not replica.retiring:
        devices.accuse(turn, replica, f"{event.log_tail}\n{event.cause}")
    turn.lose(replica, _cause(event), event.log_tail, event.failure)


def _cause(event: ev.ReplicaStartFailed | ev.ReplicaExited) -> str:
    """Why it ended, in one line: what was seen, what that is called, what to do about it."""
    failure = event.failure
    if failure is None:
        return event.cause
    said = "" if failure.reason in event.cause else f": {failure.reason}"
    advice = f"; {failure.advice}" if failure.advice else ""
    return f"{event.cause} ({failure.kind}{said}{advice})"


def _complained(turn: Turn, replica: Replica, event: ev.ReplicaComplained) -> None:
    if not replica.retiring:
        devices.accuse(turn, replica, event.line)


def _drained(turn: Turn, replica: Replica, event: ev.ReplicaDrained) -> None:
    turn.stop(replica, "drained")


def _released(turn: Turn, replica: Replica, event: ev.ReplicaReleased) -> None:
    turn.release(replica)


#: Event → the states in which it still means something, and what it does then.
_REPLICA_FACTS: dict[type, tuple[frozenset[ReplicaState], Callable[[Turn, Replica, Any], None]]] = {
    ev.ReplicaSpawned: (MAY_RUN, _spawned),
    ev.ReplicaProgressed: (frozenset({ReplicaState.STARTING}), _progressed),
    ev.ReplicaReady: (states_before(Trigger.READY), _ready),
    ev.ReplicaStartFailed: (states_before(Trigger.LOST), _lost),
    ev.ReplicaExited: (states_before(Trigger.LOST), _lost),
    # Its last lines are read when its process has just gone.
    ev.ReplicaComplained: (HOLDS_DEVICES, _complained),
    ev.ReplicaDrained: (frozenset({ReplicaState.DRAINING}), _drained),
    ev.ReplicaReleased: (frozenset({ReplicaState.RELEASING}), _released),
}


def _replicas_observed(turn: Turn, event: ev.ReplicasObserved) -> Verdict:
    state = turn.state
    if event.observed_at_s > state.now_s:
        return Illegal("an observation from the future")
    last = state.replicas_observed_at_s
    if last is not None and event.observed_at_s < last:
        return Stale("an older observation")
    state.replicas_observed_at_s = event.observed_at_s
    seen = {(sighting.replica_id, sighting.epoch) for sighting in event.sightings}
    for replica in list(state.replicas.values()):
        existed = _ran_before(replica, event.observed_at_s)
        if existed and (replica.id, replica.epoch) not in seen:
            turn.lose(replica, "its process is gone; the exit itself was not reported")
    for sighting in event.sightings:
        owner = state.replicas.get(sighting.replica_id)
        if owner is None or sighting.epoch != owner.epoch or owner.state not in HOLDS_DEVICES:
            deadline_at_s = state.now_s + state.settings.stop_margin_s
            turn.stop_epoch(
                sighting.replica_id, sighting.epoch, deadline_at_s, 0.0, "nobody owns this process"
            )
    return None


def _ran_before(replica: Replica, observed_at_s: float) -> bool:
    """Whether an observation of that time must show the replica's process if it still runs."""
    if replica.state is ReplicaState.STARTING:
        return replica.spawned_at_s is not None and replica.spawned_at_s < observed_at_s
    return replica.state in MAY_RUN and replica.since_s < observed_at_s


_HANDLERS: dict[type, Callable[[Turn, Any], Verdict]] = {
    ev.DeploymentsDesired: _deployments_desired,
    ev.ShutdownRequested: _shutdown_requested,
    ev.DevicesObserved: devices.observed,
    ev.DeviceSourceFailed: devices.source_failed,
    ev.DeviceFaulted: devices.faulted,
    ev.DeviceChecked: devices.checked,
    ev.DeviceReinstated: devices.reinstated,
    ev.ReplicasObserved: _replicas_observed,
    **dict.fromkeys(_REPLICA_FACTS, _replica_told),
}
