"""Events, actions and their effects as lines of text, for people and for the scenario tests.

    at 12.5
      event     ReplicaExited chat.0/1: exited with status 1
      action    PublishRoutes v3: chat recovering 0/1
      action    ConfirmRelease chat.0/1 of gpu0, until 17.5
      now       chat.0/1 releasing, holds gpu0, failures 1

`chat.0/1` is epoch 1 of replica 0 of deployment chat; times are seconds on the controller's clock;
`ignored` (overtaken) and `rejected` (cannot be true) say why an event changed nothing; `now` lines
show every replica that the step changed. Options stand in parentheses, and only where they differ
from these defaults: engine and platform `simulated`, the source named like the deployment, a
device on node n1 whose index is the number at the end of its UUID.

Events can be read back from their lines; actions and effects are only written.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct, convert, structs

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.plane import ControlPlane
from muai_core.control.state import Replica
from muai_core.model.deployment import Affinity, Deployment
from muai_core.model.device import Device, DeviceReading, Inventory, Platform
from muai_core.model.health import Finding, Health, worst
from muai_core.model.routing import RoutingTable

_AWAITS_RETRY = (ReplicaState.RELEASING, ReplicaState.BACKOFF)
_SIZES = {"GiB": 1024**3, "MiB": 1024**2, "B": 1}


class TranscriptError(ValueError):
    """A line that is not an event; the text says which forms there are."""


class Transcript:
    """Steps a plane and writes down what happens."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def step(self, now_s: float, events: Iterable[ev.Event]) -> list[str]:
        """One step of the plane as lines, without the `at` line."""
        state = self.plane.state
        before = dict(state.replicas)
        ignored, rejected = dict(state.stale), dict(state.rejected)
        events = tuple(events)
        actions = self.plane.step(now_s, events)
        return [
            *(_line("event", event_text(event)) for event in events),
            *(_line("ignored", text) for text in _news(ignored, state.stale)),
            *(_line("rejected", text) for text in _news(rejected, state.rejected)),
            *(_line("action", action_text(action)) for action in actions),
            *(_line("now", text) for text in _changes(before, state.replicas)),
        ]


def _line(word: str, text: str) -> str:
    return f"  {word:<9} {text}".rstrip()


def _news(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [text for text, count in after.items() for _ in range(count - before.get(text, 0))]


def _changes(before: Mapping[str, Replica], after: Mapping[str, Replica]) -> list[str]:
    gone = [f"{name} gone" for name in before if name not in after]
    return gone + [
        replica_text(replica) for name, replica in after.items() if replica != before.get(name)
    ]


# --- writing ------------------------------------------------------------------------------------


def replica_text(replica: Replica) -> str:
    """A replica's state and what it waits for, in one line."""
    parts = [f"{_incarnation(replica.id, replica.epoch)} {replica.state.value}"]
    if replica.placement is not None:
        parts.append(f"holds {' '.join(replica.placement.devices)}")
    if replica.retiring:
        parts.append("retiring")
    if replica.failures:
        parts.append(f"failures {replica.failures}")
    if replica.retry_at_s is not None and replica.state in _AWAITS_RETRY:
        parts.append(f"retry at {_time(replica.retry_at_s)}")
    if replica.stage is not None:
        parts.append(f"stage {replica.stage}")
    return ", ".join(parts) + (f": {replica.blocked.summary}" if replica.blocked else "")


def event_text(event: ev.Event) -> str:
    """One event in one line; `parse_event` reads it back."""
    match event:
        case ev.DeploymentsDesired(deployments=wishes):
            text = " ".join(map(_deployment, wishes)) or "nothing"
        case ev.DevicesObserved(inventory=seen):
            readings = {reading.uuid: reading for reading in seen.readings}
            devices = (_device(device, readings.get(device.uuid)) for device in seen.devices)
            text = f"{seen.source} at {_time(seen.observed_at_s)}: {' '.join(devices)}"
        case ev.DeviceSourceFailed():
            text = f"{event.source}: {event.reason}"
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
    return ""


def action_text(action: act.Action) -> str:
    """One action in one line."""
    match action:
        case act.PublishRoutes():
            return f"PublishRoutes {_routes(action.table)}"
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
    unit, size = next((u, s) for u, s in _SIZES.items() if memory_bytes % s == 0)
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
_DEVICE_FIELDS = ("node", "index", "island", "name", "platform")


def _deployment(wish: Deployment) -> str:
    default = _default_deployment(wish.name)
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
    elif (found := worst(reading.findings)) is not None:
        options.append(found.severity.value)
    options += _differing(device, _default_device(device.uuid), _DEVICE_FIELDS)
    if reading is not None and reading.memory_foreign_bytes:
        options.append(f"foreign={_size(reading.memory_foreign_bytes)}")
    return _item(device.uuid, options)


# --- reading ------------------------------------------------------------------------------------


def parse_event(line: str) -> ev.Event:
    """The event that `event_text` writes as `line`. Raises TranscriptError."""
    kind, _, text = line.strip().partition(" ")
    form = _FORMS.get(kind)
    if form is None:
        raise TranscriptError(f"no event is called {kind!r}; there are {', '.join(_FORMS)}")
    pattern, make = form
    found = re.fullmatch(pattern, text)
    if found is None:
        raise TranscriptError(f"{kind}: {text!r} does not have the form {pattern}")
    return make(**found.groupdict())


def _default_deployment(name: str) -> Deployment:
    return Deployment(name=name, source=name, engine="simulated", platforms=("simulated",))


def _default_device(uuid: str) -> Device:
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


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"(-?\d+)(GiB|MiB|B)", text)
    if found is None:
        raise TranscriptError(f"{text!r} is not a size such as 80GiB, 512MiB or 7B")
    return int(found[1]) * _SIZES[found[2]]


def _items(text: str) -> Iterable[tuple[str, list[str], dict[str, str]]]:
    """name(word, key=value) ... as name, words, values."""
    for name, inside in re.findall(r"([^\s()]+)(?:\(([^()]*)\))?", text):
        options = [option.strip() for option in inside.split(",") if option.strip()]
        words = [option for option in options if "=" not in option]
        yield name, words, dict(option.split("=", 1) for option in options if "=" in option)


def _changed(default: Any, values: Mapping[str, Any]) -> Any:
    as_is = structs.asdict(default)
    return convert({**as_is, **values}, type(default), strict=False)


def _deployments_desired(items: str) -> ev.Event:
    wishes = []
    for name, sizes, values in _items("" if items == "nothing" else items):
        changes: dict[str, Any] = dict(values)
        if sizes:
            changes["memory_bytes_per_device"] = _parse_size(sizes[0])
        if "platforms" in values:
            changes["platforms"] = values["platforms"].split("+")
        if "affinity" in values:
            changes["affinity"] = Affinity(platform=cast(Platform, values["affinity"]))
        wishes.append(_changed(_default_deployment(name), changes))
    return ev.DeploymentsDesired(deployments=tuple(wishes))


def _devices_observed(source: str, at: str, items: str) -> ev.Event:
    devices, readings = [], []
    for uuid, words, values in _items(items):
        foreign = values.pop("foreign", None)
        changes: dict[str, Any] = {**values, "memory_total_bytes": _parse_size(words[0])}
        if values.get("platform") == "cpu":
            changes["kind"] = "cpu"
        devices.append(_changed(_default_device(uuid), changes))
        if words[1:] == ["unread"]:
            continue
        readings.append(
            DeviceReading(
                uuid=uuid,
                findings=tuple(_seen(word) for word in words[1:]),
                memory_foreign_bytes=_parse_size(foreign) if foreign else None,
            )
        )
    return ev.DevicesObserved(
        inventory=Inventory(
            source=source,
            observed_at_s=float(at),
            devices=tuple(devices),
            readings=tuple(readings),
        )
    )


def _seen(severity: str) -> Finding:
    return Finding(kind="seen", severity=Health(severity), reason=severity, clears="at_once")


def _replicas_observed(at: str, items: str) -> ev.Event:
    split = (item.rpartition("/") for item in items.split())
    sightings = tuple(ev.ReplicaSighting(name, int(epoch)) for name, _, epoch in split)
    return ev.ReplicasObserved(observed_at_s=float(at), sightings=sightings)


def _about_replica(kind: Callable[..., ev.Event]) -> Callable[..., ev.Event]:
    def make(replica: str, epoch: str, **values: Any) -> ev.Event:
        if "pid" in values:
            values["pid"] = int(values["pid"])
        return kind(replica_id=replica, epoch=int(epoch), **values)

    return make


def _plain(kind: Callable[..., ev.Event]) -> Callable[..., ev.Event]:
    def make(**values: str) -> ev.Event:
        return kind(**values)

    return make


_AT = r"at (?P<at>[-\d.e]+):(?P<items>.*)"
_WHO = r"(?P<replica>[^/\s]+)/(?P<epoch>-?\d+)"

#: Kind of event → the form of its line, and what makes the event from the form's parts.
_FORMS: dict[str, tuple[str, Callable[..., ev.Event]]] = {
    "DeploymentsDesired": (r"(?P<items>.+)", _deployments_desired),
    "ShutdownRequested": ("", _plain(ev.ShutdownRequested)),
    "DevicesObserved": (rf"(?P<source>\S+) {_AT}", _devices_observed),
    "DeviceSourceFailed": (r"(?P<source>[^:\s]+): (?P<reason>.+)", _plain(ev.DeviceSourceFailed)),
    "ReplicaSpawned": (rf"{_WHO} pid (?P<pid>-?\d+)", _about_replica(ev.ReplicaSpawned)),
    "ReplicaProgressed": (
        rf"{_WHO} (?P<stage>[^:\s]+)(?:: (?P<detail>.+))?",
        _about_replica(ev.ReplicaProgressed),
    ),
    "ReplicaReady": (rf"{_WHO} at (?P<endpoint>\S+)", _about_replica(ev.ReplicaReady)),
    "ReplicaStartFailed": (rf"{_WHO}: (?P<cause>.+)", _about_replica(ev.ReplicaStartFailed)),
    "ReplicaExited": (rf"{_WHO}: (?P<cause>.+)", _about_replica(ev.ReplicaExited)),
    "ReplicaDrained": (_WHO, _about_replica(ev.ReplicaDrained)),
    "ReplicaReleased": (_WHO, _about_replica(ev.ReplicaReleased)),
    "ReplicasObserved": (_AT, _replicas_observed),
}
