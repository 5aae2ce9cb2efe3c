"""What each event does to the tables. A handler checks everything first and then changes, or
answers why it changed nothing: no event is ever half applied."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct, structs

from muai_core.control import events as ev
from muai_core.control.lifecycle import (
    HOLDS_DEVICES,
    MAY_RUN,
    ReplicaState,
    Trigger,
    states_before,
)
from muai_core.control.state import DeviceRecord, Replica, SourceRecord
from muai_core.control.turn import Turn
from muai_core.model.deployment import Deployment
from muai_core.model.device import DeviceReading, Inventory
from muai_core.model.health import Finding, Health


class Stale(Struct, frozen=True):
    """True once, overtaken since: another epoch, an older observation, a late outcome."""

    why: str


class Illegal(Struct, frozen=True):
    """Cannot be true. Rejected whole and counted."""

    why: str


_NO_READING = Finding(
    kind="no_reading", severity=Health.UNKNOWN, reason="no reading", clears="at_once"
)

Verdict = Stale | Illegal | None

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
    )


def _counted(turn: Turn, wanted: Deployment) -> Deployment:
    """The wish under its generation: the last one, plus one if more than `replicas` changed."""
    last = turn.state.deployments.get(wanted.name)
    generation = turn.state.generations.get(wanted.name, 0)
    if last is None:
        return structs.replace(wanted, generation=generation + 1)
    same = structs.replace(last, replicas=wanted.replicas)
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


# --- devices ------------------------------------------------------------------------------------


def _devices_observed(turn: Turn, event: ev.DevicesObserved) -> Verdict:
    inventory = event.inventory
    known = turn.state.sources.get(inventory.source, SourceRecord())
    if known.observed_at_s is not None and inventory.observed_at_s < known.observed_at_s:
        return Stale("an older observation of the same source")
    fault = _inventory_fault(turn, inventory)
    if fault is not None:
        return Illegal(fault)
    turn.state.sources[inventory.source] = SourceRecord(inventory.observed_at_s)
    readings = {reading.uuid: reading for reading in inventory.readings}
    for device in inventory.devices:
        reading = readings.get(
            device.uuid,
            DeviceReading(uuid=device.uuid, findings=(_NO_READING,)),
        )
        _see(turn, DeviceRecord(device=device, source=inventory.source, reading=reading))
    seen = {device.uuid for device in inventory.devices}
    missing = [
        uuid
        for uuid, record in turn.state.devices.items()
        if record.source == inventory.source and uuid not in seen
    ]
    for uuid in missing:
        record = turn.state.devices[uuid]
        turn.capacity_changed |= record.present
        turn.views.incomplete = True
        turn.state.devices[uuid] = structs.replace(record, present=False)
    turn.forget_absent_devices(tuple(missing))
    return None


def _inventory_fault(turn: Turn, inventory: Inventory) -> str | None:
    if inventory.observed_at_s > turn.state.now_s:
        return "an observation from the future"
    uuids = [device.uuid for device in inventory.devices]
    if len(set(uuids)) != len(uuids):
        return f"source {inventory.source} reports a device twice"
    for device in inventory.devices:
        record = turn.state.devices.get(device.uuid)
        if record is not None and record.source != inventory.source:
            return f"{device.uuid} is reported by both {record.source} and {inventory.source}"
        if device.memory_total_bytes < 0:
            return f"{device.uuid} has negative memory"
        if device.memory_total_bytes < turn.state.ledger.claimed_bytes(device.uuid):
            return f"{device.uuid} has less memory than is claimed on it"
    for reading in inventory.readings:
        if (reading.memory_foreign_bytes or 0) < 0:
            return f"{reading.uuid} has negative memory in use"
    if not {reading.uuid for reading in inventory.readings} <= set(uuids):
        return f"source {inventory.source} has a reading of a device that it does not list"
    return None


def _see(turn: Turn, record: DeviceRecord) -> None:
    before = turn.state.devices.get(record.device.uuid)
    turn.state.devices[record.device.uuid] = record
    if record.device.platform not in turn.state.platforms:
        turn.state.platforms.append(record.device.platform)
    if before is None or not before.present or before.device != record.device:
        turn.views.incomplete = True
        turn.capacity_changed = True
    elif _room(before) != _room(record):
        turn.views.outdated[record.device.uuid] = None
        turn.capacity_changed = True


def _room(record: DeviceRecord) -> tuple[Any, ...]:
    """All of a reading that decides about placements, or stands in their reasons."""
    return record.health, record.health_reason, record.reading.memory_foreign_bytes


def _device_source_failed(turn: Turn, event: ev.DeviceSourceFailed) -> Verdict:
    known = turn.state.sources.get(event.source, SourceRecord())
    turn.state.sources[event.source] = structs.replace(known, failure=event.reason)
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
    turn.lose(replica, event.cause, event.log_tail)


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
    ev.DevicesObserved: _devices_observed,
    ev.DeviceSourceFailed: _device_source_failed,
    ev.ReplicasObserved: _replicas_observed,
    **dict.fromkeys(_REPLICA_FACTS, _replica_told),
}
