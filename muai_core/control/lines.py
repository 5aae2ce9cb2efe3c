"""Events, actions and replicas in one line of text each; `transcript` tells what the lines mean."""

import re
from collections.abc import Iterable

from msgspec import Struct

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import DeviceRecord, Replica
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, HostFault
from muai_core.model.health import Finding, Health
from muai_core.model.routing import RoutingTable

_AWAITS_RETRY = (ReplicaState.RELEASING, ReplicaState.BACKOFF)
#: In place of the UUID: its source cannot say on which device.
NOWHERE = "somewhere"
#: The kind of a condition of which only the severity is written.
SEEN = "seen"
#: Option of a device → the field of its reading.
READING_SIZES = {
    "foreign": "memory_foreign_bytes",
    "used": "memory_used_bytes",
    "free": "memory_free_bytes",
}
SIZES = {"GiB": 1024**3, "MiB": 1024**2, "B": 1}


def replica_text(replica: Replica) -> str:
    """A replica's state and what it waits for, in one line."""
    parts = [f"{_incarnation(replica.id, replica.epoch)} {replica.state.value}"]
    if replica.placement is not None:
        parts.append(f"holds {' '.join(dict.fromkeys(replica.placement.devices))}")
    if replica.retiring:
        parts.append("retiring")
    if replica.failures:
        parts.append(f"failures {replica.failures}")
    if replica.retry_at_s is not None and replica.state in _AWAITS_RETRY:
        parts.append(f"retry at {_time(replica.retry_at_s)}")
    if replica.stage is not None:
        parts.append(f"stage {replica.stage}")
    return ", ".join(parts) + (f": {replica.blocked.summary}" if replica.blocked else "")


def device_text(record: DeviceRecord) -> str:
    """A device's health in one line."""
    cause = f": {record.health_reason}" if record.health_reason else ""
    return f"{record.device.uuid} {record.health.value}{cause}"


def event_text(event: ev.Event) -> str:
    """One event in one line; `parse_event` reads it back."""
    match event:
        case ev.DeploymentsDesired(deployments=wishes):
            text = " ".join(map(_deployment, wishes)) or "nothing"
        case ev.DevicesObserved(inventory=seen):
            readings = {reading.uuid: reading for reading in seen.readings}
            devices = (_device(device, readings.get(device.uuid)) for device in seen.devices)
            fault = _fault(seen.fault) if seen.fault is not None else ""
            text = f"{seen.source} at {_time(seen.observed_at_s)}{fault}: {' '.join(devices)}"
        case ev.DeviceSourceFailed():
            text = f"{event.source}: {event.reason}"
        case ev.DeviceFaulted():
            where = event.uuid or NOWHERE
            text = f"{event.source} {where} at {_time(event.observed_at_s)}: "
            text += _finding(event.finding)
        case ev.DeviceChecked():
            text = f"{event.uuid} check {event.check}: {_verdict(event)}"
        case ev.DeviceReinstated():
            text = event.uuid
        case ev.ReplicasObserved():
            seen_ids = (_incarnation(s.replica_id, s.epoch) for s in event.sightings)
            text = f"at {_time(event.observed_at_s)}: {' '.join(seen_ids)}"
        case ev.ReplicaFact():
            text = _incarnation(event.replica_id, event.epoch) + _outcome(event)
        case _:
            text = ""
    return f"{type(event).__name__} {text}".rstrip()


def _outcome(event: ev.ReplicaFact) -> str:
    match event:
        case ev.ReplicaSpawned():
            return f" pid {event.pid}"
        case ev.ReplicaProgressed():
            return f" {event.stage}" + (f": {event.detail}" if event.detail else "")
        case ev.ReplicaReady():
            return f" at {event.endpoint}"
        case ev.ReplicaStartFailed() | ev.ReplicaExited():
            return f": {event.cause}"
        case ev.ReplicaComplained():
            return f": {event.line}"
    return ""


def _fault(fault: HostFault) -> str:
    return f" fault {fault.kind} ({fault.reason} -> {fault.advice})"


def _verdict(event: ev.DeviceChecked) -> str:
    if event.finding is not None:
        return f"failed {_finding(event.finding)}"
    if event.inconclusive is not None:
        return f"inconclusive: {event.inconclusive}"
    return "passed"


def _finding(finding: Finding) -> str:
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{finding.key} {_weight(finding)}: {finding.reason}{advice}"


def _weight(finding: Finding) -> str:
    """severity [recovery] [clears] [limit n]"""
    words: list[str] = [finding.severity.value]
    if finding.recovery is not None:
        words.append(finding.recovery)
    if finding.clears != default_finding(finding.key).clears:
        words.append(finding.clears)
    if finding.repeat_limit:
        words.append(f"limit {finding.repeat_limit}")
    return " ".join(words)


def action_text(action: act.Action) -> str:
    """One action in one line."""
    match action:
        case act.PublishRoutes():
            return f"PublishRoutes {_routes(action.table)}"
        case act.CheckDevice():
            return (
                f"CheckDevice {action.device.uuid} check {action.check} within "
                f"{_size(action.memory_free_bytes)}, until {_time(action.deadline_at_s)}"
            )
        case act.ReportHealth():
            advice = f" -> {action.advice}" if action.advice else ""
            change = f"{action.before.value} to {action.after.value}"
            return f"ReportHealth {action.uuid} {change}: {action.cause}{advice}"
        case act.ReportFinding():
            advice = f" -> {action.finding.advice}" if action.finding.advice else ""
            where = f"{action.source} {action.uuid or NOWHERE}"
            what = f"{action.finding.key} ({action.count}): {action.finding.reason}"
            return f"ReportFinding {where} {what}{advice}"
        case act.ReportHostFault(ended=True):
            return f"ReportHostFault {action.source} {action.kind} is over"
        case act.ReportHostFault():
            return (
                f"ReportHostFault {action.source} {action.kind}: {action.reason} -> {action.advice}"
            )
        case act.StartReplica():
            text = f" on {' | '.join(' '.join(stage) for stage in action.placement.stages)}"
        case act.ConfirmRelease():
            text = f" of {' '.join(action.devices)}"
        case act.StopReplica():
            text = f" within {_time(action.grace_s)} s ({action.reason})"
        case act.DrainReplica():
            text = ""
    who = _incarnation(action.replica_id, action.epoch)
    return f"{type(action).__name__} {who}{text}, until {_time(action.deadline_at_s)}"


def _routes(table: RoutingTable) -> str:
    models = []
    for model in table.models:
        routes = [
            _incarnation(route.replica_id, route.epoch)
            for route in table.routes
            if route.model == model.name
        ]
        leads = f" via {' '.join(routes)}" if routes else ""
        models.append(f"{model.name} {model.state} {model.ready}/{model.desired}{leads}")
    return f"v{table.version}: {'; '.join(models) or 'nothing'}"


def _incarnation(replica_id: str, epoch: int) -> str:
    return f"{replica_id}/{epoch}"


def _time(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _size(memory_bytes: int) -> str:
    unit, size = next((u, s) for u, s in SIZES.items() if memory_bytes % s == 0)
    return f"{memory_bytes // size}{unit}"


def _item(name: str, options: Iterable[str]) -> str:
    inside = ", ".join(re.sub(r"[(),]", "_", option) for option in options)
    return f"{name}({inside})" if inside else name


def _differing(record: Struct, default: Struct, fields: Iterable[str]) -> list[str]:
    return [
        f"{name}={getattr(record, name)}"
        for name in fields
        if getattr(record, name) != getattr(default, name)
    ]


_DEPLOYMENT_FIELDS = ("replicas", "tensor_parallel_size", "pipeline_parallel_size", "engine")
DEVICE_FIELDS = ("node", "index", "island", "name", "platform")


def _deployment(wish: Deployment) -> str:
    default = default_deployment(wish.name)
    options = _differing(wish, default, (*_DEPLOYMENT_FIELDS, "source"))
    if wish.platforms != default.platforms:
        options.append(f"platforms={'+'.join(wish.platforms)}")
    if wish.memory_bytes_per_device is not None:
        options.insert(0, _size(wish.memory_bytes_per_device))
    if wish.affinity.platform is not None:
        options.append(f"affinity={wish.affinity.platform}")
    return _item(wish.name, options)


def _device(device: Device, reading: DeviceReading | None) -> str:
    options = [_size(device.memory_total_bytes)]
    if reading is None:
        options.append("unread")
    options += _differing(device, default_device(device.uuid), DEVICE_FIELDS)
    if reading is not None:
        options += [_condition(finding) for finding in reading.findings]
        if reading.sampled_at_s is not None:
            options.append(f"sampled={_time(reading.sampled_at_s)}")
        for option, field in READING_SIZES.items():
            if getattr(reading, field) is not None:
                options.append(f"{option}={_size(getattr(reading, field))}")
    return _item(device.uuid, options)


def _condition(finding: Finding) -> str:
    if finding.kind == SEEN:
        return finding.severity.value
    return f"{finding.key}={_weight(finding)}"


# --- what is not written because it is as usual ---------------------------------------------------


def default_deployment(name: str) -> Deployment:
    return Deployment(name=name, source=name, engine="simulated", platforms=("simulated",))


def default_device(uuid: str) -> Device:
    number = re.search(r"\d+$", uuid)
    return Device(
        uuid=uuid,
        node="n1",
        index=int(number[0]) if number else 0,
        kind="gpu",
        platform="simulated",
        name="GPU",
        memory_total_bytes=0,
    )


def default_finding(key: str) -> Finding:
    kind, _, code = key.partition(":")
    return Finding(
        kind=kind,
        code=int(code) if code else None,
        severity=Health.HEALTHY,
        reason=key.replace("_", " "),
        clears="at_once" if kind == SEEN else "clean",
    )
