"""What the world says about devices, put into their records: inventories, happenings, evidence.

What a finding makes of a device is `health`'s business; here is who is meant by it, what else
follows for the fleet, and what people are told. Each function checks everything first and then
changes, as in `facts`.
"""

from collections.abc import Collection
from typing import Any

from msgspec import structs

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control import health, self_tests, tally
from muai_core.control.engine_evidence import device_trouble
from muai_core.control.reports import report_fault, report_health
from muai_core.control.state import DeviceHealth, DeviceRecord, Replica, SourceRecord
from muai_core.control.turn import Turn
from muai_core.control.verdict import Illegal, Stale, Verdict
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.model.health import Finding, Health

#: What its source does not list any more and nobody holds is remembered up to this number.
MOST_ABSENT = 1000
#: So many kinds of happenings, each on one node, are followed across devices.
_MOST_FOLLOWED = 2000
#: An estimate of what nobody claims is rounded up to this: it must not change with every reading.
_ESTIMATE_STEP_BYTES = 64 * 1024**2

_NO_READING = Finding(
    kind="no_reading",
    severity=Health.UNKNOWN,
    reason="its source lists it without a reading",
    clears="at_once",
)
_VANISHED = Finding(
    kind=health.VANISHED,
    severity=Health.FAILED,
    reason="no longer seen by its source",
    advice="look for it in the kernel log; `muai reinstate` makes MuAI forget it",
    clears="at_once",
)
_BACK = "seen by its source again"


# --- inventories --------------------------------------------------------------------------------


def observed(turn: Turn, event: ev.DevicesObserved) -> Verdict:
    """One source's whole inventory: what it does not list is not there."""
    inventory, state = event.inventory, turn.state
    known = state.sources.get(inventory.source, SourceRecord())
    if known.observed_at_s is not None and inventory.observed_at_s < known.observed_at_s:
        return Stale("an older observation of the same source")
    contradiction = _contradiction(turn, inventory)
    if contradiction is not None:
        return Illegal(contradiction)
    links = inventory.links if inventory.fault is None else inventory.links or known.links
    turn.views.incomplete |= links != known.links
    at_s, fault = inventory.observed_at_s, inventory.fault
    state.sources[inventory.source] = structs.replace(
        known, observed_at_s=at_s, failure=None, fault=fault, links=links
    )
    report_fault(turn, inventory.source, known.fault, inventory.fault)
    readings = {reading.uuid: reading for reading in inventory.readings}
    for device in inventory.devices:
        record = state.devices.get(device.uuid)
        if inventory.fault is not None and record is not None and not record.present:
            # From memory: that it is there again, the source cannot know now.
            _miss(turn, inventory, record)
        else:
            _see(turn, inventory, device, readings.get(device.uuid))
    seen = {device.uuid for device in inventory.devices}
    missing = [
        record
        for uuid, record in state.devices.items()
        if uuid not in seen and record.source == inventory.source
    ]
    family = {device.parent_uuid for device in inventory.devices if device.parent_uuid} | seen
    for record in missing:
        if inventory.fault is None and _is_nobody(turn, record, family):
            _forget(turn, record)
        else:
            _miss(turn, inventory, record)
    if missing:
        _forget_oldest_absent(turn)
    return None


def _contradiction(turn: Turn, inventory: Inventory) -> str | None:
    state, source = turn.state, inventory.source
    if inventory.observed_at_s > state.now_s:
        return "an observation from the future"
    uuids = {device.uuid for device in inventory.devices}
    if len(uuids) != len(inventory.devices):
        return f"source {source} reports a device twice"
    for device in inventory.devices:
        record = state.devices.get(device.uuid)
        if record is not None and record.source != source:
            return f"{device.uuid} is reported by both {record.source} and {source}"
        if device.memory_total_bytes < 0:
            return f"{device.uuid} has negative memory"
        if device.memory_total_bytes < state.ledger.claimed_bytes(device.uuid):
            return f"{device.uuid} has less memory than is claimed on it"
    for reading in inventory.readings:
        if (
            (reading.memory_foreign_bytes or 0) < 0
            or (reading.memory_used_bytes or 0) < 0
            or (reading.memory_reserved_bytes or 0) < 0
            or (reading.memory_free_bytes or 0) < 0
        ):
            return f"{reading.uuid} has negative memory in use"
        if reading.uuid not in uuids:
            return f"source {source} has a reading of a device that it does not list"
    return None


def _see(turn: Turn, inventory: Inventory, device: Device, reading: DeviceReading | None) -> None:
    """One device that is listed. Of 10,000 healthy ones each must cost next to nothing."""
    before = turn.state.devices.get(device.uuid)
    sampled_at_s = inventory.observed_at_s
    if reading is not None and reading.sampled_at_s is not None:
        sampled_at_s = min(reading.sampled_at_s, turn.state.now_s)
    newest_s = None if before is None else before.sampled_at_s
    condition = DeviceHealth(since_s=turn.state.now_s) if before is None else before.condition
    ended: str | None = None
    if condition.open or reading is None or reading.findings or inventory.fault is not None:
        fresh = reading is not None and (newest_s is None or sampled_at_s > newest_s)
        condition, ended = _weighed(
            turn, inventory, condition, reading, sampled_at_s if fresh else None
        )
    if newest_s is None or (reading is not None and sampled_at_s > newest_s):
        newest_s = sampled_at_s
    record = DeviceRecord(
        device=device,
        source=inventory.source,
        reading=reading or DeviceReading(uuid=device.uuid),
        sampled_at_s=newest_s,
        condition=condition,
        foreign_bytes=_foreign_bytes(turn, before, reading, sampled_at_s),
        freed_at_s=None if before is None else before.freed_at_s,
    )
    _put(turn, before, record, ended)
    if self_tests.may_be_due(turn.state, record):
        turn.to_check[device.uuid] = None


def _weighed(
    turn: Turn,
    inventory: Inventory,
    condition: DeviceHealth,
    reading: DeviceReading | None,
    sampled_at_s: float | None,
) -> tuple[DeviceHealth, str | None]:
    now_s, settings = turn.state.now_s, turn.state.settings.health
    if inventory.fault is not None:
        # What a source says about its devices while its driver is gone says nothing.
        return health.opened(condition, _host_fault(inventory.fault), now_s), None
    listed = health.closed(condition, health.OWN, now_s)
    ended = _BACK if _vanished(condition) else None
    after, ending = health.read(
        listed,
        (_NO_READING,) if reading is None else reading.findings,
        inventory.observed_at_s,
        sampled_at_s,
        now_s,
        settings,
    )
    if ending is health.Ending.CLEAN:
        ended = f"not seen any more in {settings.clean_readings} readings"
    elif ending is not None:
        ended = ending.value
    return after, ended


def _host_fault(fault: HostFault) -> Finding:
    return Finding(
        kind=health.HOST_FAULT,
        severity=Health.UNKNOWN,
        reason=fault.reason,
        advice=fault.advice,
        clears="at_once",
    )


def _vanished(condition: DeviceHealth) -> bool:
    return any(one.finding.kind == health.VANISHED for one in condition.open)


def _foreign_bytes(
    turn: Turn, before: DeviceRecord | None, reading: DeviceReading | None, sampled_at_s: float
) -> int:
    """What is in use beyond all claims, as the source tells it or as the sample suggests."""
    if reading is None:
        return 0
    if reading.memory_foreign_bytes is not None:
        return reading.memory_foreign_bytes
    if reading.memory_used_bytes is None:
        return 0
    if before is not None and before.freed_at_s is not None and sampled_at_s <= before.freed_at_s:
        # The sample still shows what a replica has given back since.
        return before.foreign_bytes
    claimed_bytes = turn.state.ledger.claimed_bytes(reading.uuid)
    beyond_bytes = max(0, reading.memory_used_bytes - claimed_bytes)
    return -(-beyond_bytes // _ESTIMATE_STEP_BYTES) * _ESTIMATE_STEP_BYTES


def _miss(turn: Turn, inventory: Inventory, record: DeviceRecord) -> None:
    """A device that its source does not list any more, unless nothing is known of any of them."""
    now_s, before = turn.state.now_s, record.condition
    if inventory.fault is not None:
        condition = health.opened(before, _host_fault(inventory.fault), now_s)
        if condition is not before:
            _put(turn, record, structs.replace(record, condition=condition))
        return
    condition = health.opened(health.closed(before, (health.HOST_FAULT,), now_s), _VANISHED, now_s)
    if record.present or condition is not before:
        turn.views.incomplete |= record.present
        turn.capacity_changed |= record.present
        _put(turn, record, structs.replace(record, present=False, condition=condition))


def _is_nobody(turn: Turn, record: DeviceRecord, family: Collection[str]) -> bool:
    """Whether what is not listed any more has not vanished, and nobody holds it.

    It was a place of which nothing was known, and which has a name now; or its whole was divided
    into others or put together again, as MIG does. `family`: what is listed, and its wholes.
    """
    device = record.device
    was_nobody = not device.memory_total_bytes and device.pci_bus_id is None
    redivided = device.uuid in family or device.parent_uuid in family
    return (was_nobody or redivided) and not turn.state.ledger.on(device.uuid)


def _forget(turn: Turn, record: DeviceRecord) -> None:
    del turn.state.devices[record.device.uuid]
    turn.views.incomplete = True
    turn.capacity_changed = True


def _forget_oldest_absent(turn: Turn) -> None:
    absent = [
        uuid
        for uuid, record in turn.state.devices.items()
        if not record.present and not turn.state.ledger.on(uuid)
    ]
    for uuid in absent[: max(0, len(absent) - MOST_ABSENT)]:
        del turn.state.devices[uuid]


def source_failed(turn: Turn, event: ev.DeviceSourceFailed) -> Verdict:
    known = turn.state.sources.get(event.source, SourceRecord())
    turn.state.sources[event.source] = structs.replace(known, failure=event.reason)
    return None


# --- happenings ---------------------------------------------------------------------------------


def faulted(turn: Turn, event: ev.DeviceFaulted) -> Verdict:
    """Something happened on a device, or on none that is known: then it is counted and told."""
    if event.observed_at_s > turn.state.now_s:
        return Illegal("an observation from the future")
    record = None if event.uuid is None else turn.state.devices.get(event.uuid)
    if record is None:
        _happened_somewhere(turn, event)
        return None
    if record.source != event.source:
        return Illegal(f"{record.device.uuid} belongs to {record.source}, not to {event.source}")
    reinstated_at_s = record.condition.reinstated_at_s
    if reinstated_at_s is not None and event.observed_at_s < reinstated_at_s:
        return Stale("the device was reinstated since")
    _happened(turn, record, event.finding, event.observed_at_s)
    return None


def _happened_somewhere(turn: Turn, event: ev.DeviceFaulted) -> None:
    known = turn.state.sources.get(event.source, SourceRecord())
    key, settings = event.finding.key, turn.state.settings.health
    counts = tally.counted(known.counts, key)
    if tally.begins_burst(known.bursts.get(key, ()), event.observed_at_s, settings):
        bursts = tally.with_burst(known.bursts, key, event.observed_at_s, settings)
        known = structs.replace(known, bursts=bursts)
        _tell(turn, event.source, event.uuid, event.finding, counts.get(key, 0))
    turn.state.sources[event.source] = structs.replace(known, counts=counts)


def accuse(turn: Turn, replica: Replica, text: str) -> None:
    """What an engine's log says against its devices; of several it may be any."""
    found = device_trouble(text)
    if found is None or replica.placement is None:
        return
    finding = structs.replace(found, reason=f"{replica.id}: {found.reason}")
    told = False
    for uuid in replica.placement.devices:
        record = turn.state.devices.get(uuid)
        if record is not None and record.device.kind == "gpu":
            _happened(turn, record, finding, turn.state.now_s, tell=not told)
            told = True


def _happened(
    turn: Turn, record: DeviceRecord, finding: Finding, at_s: float, *, tell: bool = True
) -> None:
    state, uuid, before = turn.state, record.device.uuid, record.condition
    elsewhere = False
    if finding.repeat_limit and finding.severity is Health.HEALTHY:
        place = f"{finding.key} on {record.device.node}"
        sights = state.seen_on.pop(place, ())
        elsewhere = tally.seen_elsewhere(sights, uuid, at_s, state.settings.health)
        if len(state.seen_on) >= _MOST_FOLLOWED:
            del state.seen_on[next(iter(state.seen_on))]
        state.seen_on[place] = tally.with_sight(sights, uuid, at_s)
    after = health.happened(
        before, finding, at_s, state.now_s, state.settings.health, elsewhere=elsewhere
    )
    reported = _put(turn, record, structs.replace(record, condition=after))
    if tell and not reported and after.bursts is not before.bursts:
        if elsewhere:
            advice = "other devices of the node show the same: look for the cause in the software"
            finding = structs.replace(finding, advice=advice)
        _tell(turn, record.source, uuid, finding, after.counts.get(finding.key, 0))


def _tell(turn: Turn, source: str, uuid: str | None, finding: Finding, count: int) -> None:
    turn.actions.append(act.ReportFinding(source=source, uuid=uuid, finding=finding, count=count))


# --- people and self-tests ----------------------------------------------------------------------


def reinstated(turn: Turn, event: ev.DeviceReinstated) -> Verdict:
    """All findings so far are forgotten; a device that is not there is forgotten altogether."""
    record = turn.state.devices.get(event.uuid)
    if record is None:
        return Illegal("a device that never was, or is forgotten")
    if not record.present and not turn.state.ledger.on(event.uuid):
        del turn.state.devices[event.uuid]
        return None
    condition, ending = health.reinstated(record.condition, turn.state.now_s)
    ended = None if ending is None else ending.value
    _put(turn, record, structs.replace(record, condition=condition), ended)
    return None


def checked(turn: Turn, event: ev.DeviceChecked) -> Verdict:
    """A self-test has ended."""
    record = turn.state.devices.get(event.uuid)
    if record is None:
        return Stale("a device that is not known")
    test = record.condition.self_test
    if test is None or not 1 <= event.check <= test.check:
        return Illegal("a self-test that was never asked for")
    if event.check < test.check or test.verdict is not None:
        return Stale("a self-test that had ended")
    condition, ended = self_tests.concluded(
        record.condition, event, turn.state.now_s, turn.state.settings.health
    )
    _put(turn, record, structs.replace(record, condition=condition), ended)
    return None


# --- how it is done -----------------------------------------------------------------------------


def _put(
    turn: Turn, before: DeviceRecord | None, record: DeviceRecord, ended: str | None = None
) -> bool:
    """Store the record and what follows from it. Returns whether people are told of its health."""
    uuid = record.device.uuid
    turn.state.devices[uuid] = record
    if before is None or not before.present or before.device != record.device:
        turn.views.incomplete = True
        turn.capacity_changed = True
        if record.device.platform not in turn.state.platforms:
            turn.state.platforms.append(record.device.platform)
    elif _room(before) != _room(record):
        turn.views.outdated[uuid] = None
        turn.capacity_changed = True
    elif before.condition.cause != record.condition.cause:
        turn.views.outdated[uuid] = None
    then = DeviceHealth() if before is None else before.condition
    if health.same_findings(then.open, record.condition.open):
        return False
    return report_health(turn, uuid, then, record.condition, ended)


def _room(record: DeviceRecord) -> tuple[Any, ...]:
    """All of a record that decides about placements, or stands in their reasons."""
    state = record.condition.state
    return (
        state,
        None if state.placeable else record.condition.cause,
        record.foreign_bytes,
        record.reading.memory_reserved_bytes,
    )
