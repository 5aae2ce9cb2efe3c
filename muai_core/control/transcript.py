"""Events, actions and their effects as lines of text, for people and for the scenario tests.

    at 12.5
      event     ReplicaExited chat.0/1: exited with status 1
      action    PublishRoutes v3: chat recovering 0/1
      action    ConfirmRelease chat.0/1 of gpu0, until 17.5
      now       chat.0/1 releasing, holds gpu0, failures 1

`chat.0/1` is epoch 1 of replica 0 of deployment chat; times are seconds on the controller's clock;
`ignored` (overtaken) and `rejected` (cannot be true) say why an event changed nothing; `now` lines
show every replica that the step changed, and every device whose health it changed. Options stand in
parentheses, and only where they differ from these defaults: engine and platform `simulated`, the
source named like the deployment, a device on node n1 whose index is the number at the end of its
UUID.

    DevicesObserved gpus at 5: gpu0(80GiB) gpu1(80GiB, thermal=degraded) gpu2(80GiB, failed)
    DeviceFaulted gpus gpu3 at 6: xid:79 failed reboot repaired: fell off the bus -> reboot the node

A finding has a severity, how a failed device comes back, how the finding clears unless that is
`clean`, and `limit n` if it may repeat so often. `gpu2(80GiB, failed)` is a condition of no name,
which clears at once.

Events can be read back from their lines; actions and effects are only written.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import convert, structs

from muai_core.control import events as ev
from muai_core.control.lines import (
    DEVICE_FIELDS,
    NOWHERE,
    READING_SIZES,
    SEEN,
    SIZES,
    action_text,
    default_deployment,
    default_device,
    default_finding,
    device_text,
    event_text,
    replica_text,
)
from muai_core.control.plane import ControlPlane
from muai_core.control.state import DeviceRecord, Replica
from muai_core.model.deployment import Affinity
from muai_core.model.device import DeviceReading, HostFault, Inventory, Platform
from muai_core.model.health import Clears, Finding, Health, Recovery


class TranscriptError(ValueError):
    """A line that is not an event; the text says which forms there are."""


class Transcript:
    """Steps a plane and writes down what happens."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def step(self, now_s: float, events: Iterable[ev.Event]) -> list[str]:
        """One step of the plane as lines, without the `at` line."""
        state = self.plane.state
        before, devices_before = dict(state.replicas), dict(state.devices)
        ignored, rejected = dict(state.stale), dict(state.rejected)
        events = tuple(events)
        actions = self.plane.step(now_s, events)
        return [
            *(_line("event", event_text(event)) for event in events),
            *(_line("ignored", text) for text in _news(ignored, state.stale)),
            *(_line("rejected", text) for text in _news(rejected, state.rejected)),
            *(_line("action", action_text(action)) for action in actions),
            *(_line("now", text) for text in _changes(before, state.replicas)),
            *(_line("now", text) for text in _health_changes(devices_before, state.devices)),
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


def _health_changes(
    before: Mapping[str, DeviceRecord], after: Mapping[str, DeviceRecord]
) -> list[str]:
    gone = [f"{uuid} forgotten" for uuid in before if uuid not in after]
    return gone + [
        device_text(record)
        for uuid, record in after.items()
        if _fitness(record) != (_fitness(before[uuid]) if uuid in before else _FIT)
    ]


_FIT = (Health.HEALTHY, None)


def _fitness(record: DeviceRecord) -> tuple[Health, str | None]:
    return record.health, record.health_reason


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


def _parse_size(text: str) -> int:
    found = re.fullmatch(r"(-?\d+)(GiB|MiB|B)", text)
    if found is None:
        raise TranscriptError(f"{text!r} is not a size such as 80GiB, 512MiB or 7B")
    return int(found[1]) * SIZES[found[2]]


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
        wishes.append(_changed(default_deployment(name), changes))
    return ev.DeploymentsDesired(deployments=tuple(wishes))


def _devices_observed(source: str, at: str, items: str, **fault: str) -> ev.Event:
    devices, readings = [], []
    for uuid, words, values in _items(items):
        changes: dict[str, Any] = {field: values[field] for field in DEVICE_FIELDS & values.keys()}
        changes["memory_total_bytes"] = _parse_size(words[0])
        if values.get("platform") == "cpu":
            changes["kind"] = "cpu"
        devices.append(_changed(default_device(uuid), changes))
        if words[1:] != ["unread"]:
            readings.append(_reading(uuid, words[1:], values))
    return ev.DevicesObserved(
        inventory=Inventory(
            source=source,
            observed_at_s=float(at),
            devices=tuple(devices),
            readings=tuple(readings),
            fault=HostFault(**fault) if fault["kind"] else None,
        )
    )


def _reading(uuid: str, words: list[str], values: dict[str, str]) -> DeviceReading:
    sizes: dict[str, Any] = {
        field: _parse_size(values[o]) for o, field in READING_SIZES.items() if o in values
    }
    known = {*DEVICE_FIELDS, *READING_SIZES, "sampled"}
    found = [_finding(SEEN, word, word) for word in words]
    found += [_finding(key, weight) for key, weight in values.items() if key not in known]
    return DeviceReading(
        uuid=uuid,
        findings=tuple(found),
        sampled_at_s=float(values["sampled"]) if "sampled" in values else None,
        **sizes,
    )


_FINDING = r"(?P<severity>[a-z]+)(?: (?P<recovery>reset|reboot|service))?"
_FINDING += r"(?: (?P<clears>at_once|clean|checked|tested|repaired))?(?: limit (?P<limit>\d+))?"


def _finding(key: str, weight: str, reason: str = "", advice: str | None = None) -> Finding:
    found = re.fullmatch(_FINDING, weight)
    if found is None or found["severity"] not in list(Health):
        raise TranscriptError(
            f"{key}: {weight!r} is not severity [recovery] [clears] [limit n], "
            f"with a severity of {', '.join(Health)}"
        )
    default = default_finding(key)
    return structs.replace(
        default,
        severity=Health(found["severity"]),
        recovery=cast(Recovery | None, found["recovery"]),
        reason=reason or default.reason,
        advice=advice or "",
        clears=cast(Clears, found["clears"] or default.clears),
        repeat_limit=int(found["limit"] or 0),
    )


def _device_faulted(source: str, where: str, at: str, **finding: Any) -> ev.Event:
    return ev.DeviceFaulted(
        source=source,
        uuid=None if where == NOWHERE else where,
        observed_at_s=float(at),
        finding=_finding_of(finding),
    )


def _device_checked(uuid: str, check: str, **outcome: Any) -> ev.Event:
    why = outcome["inconclusive"]
    finding = _finding_of(outcome) if outcome["key"] else None
    return ev.DeviceChecked(uuid=uuid, check=int(check), finding=finding, inconclusive=why)


def _finding_of(parts: Mapping[str, Any]) -> Finding:
    return _finding(parts["key"], parts["weight"], parts["reason"], parts["advice"])


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


_TIME = r"at (?P<at>[-\d.e]+)"
_AT = rf"{_TIME}:(?P<items>.*)"
_FAULT = r"(?: fault (?P<kind>\S+) \((?P<reason>.+?) -> (?P<advice>.*?)\))?"
_FOUND = r"(?P<key>\S+) (?P<weight>[^:]+): (?P<reason>.+?)(?: -> (?P<advice>.+))?"
_ENDED = rf"(?:passed|inconclusive: (?P<inconclusive>.+)|failed {_FOUND})"
_WHO = r"(?P<replica>[^/\s]+)/(?P<epoch>-?\d+)"

#: Kind of event → the form of its line, and what makes the event from the form's parts.
_FORMS: dict[str, tuple[str, Callable[..., ev.Event]]] = {
    "DeploymentsDesired": (r"(?P<items>.+)", _deployments_desired),
    "ShutdownRequested": ("", _plain(ev.ShutdownRequested)),
    "DevicesObserved": (
        rf"(?P<source>\S+) {_TIME}{_FAULT}:(?P<items>.*)",
        _devices_observed,
    ),
    "DeviceSourceFailed": (r"(?P<source>[^:\s]+): (?P<reason>.+)", _plain(ev.DeviceSourceFailed)),
    "DeviceFaulted": (rf"(?P<source>\S+) (?P<where>\S+) {_TIME}: {_FOUND}", _device_faulted),
    "DeviceChecked": (rf"(?P<uuid>\S+) check (?P<check>-?\d+): {_ENDED}", _device_checked),
    "DeviceReinstated": (r"(?P<uuid>\S+)", _plain(ev.DeviceReinstated)),
    "ReplicaSpawned": (rf"{_WHO} pid (?P<pid>-?\d+)", _about_replica(ev.ReplicaSpawned)),
    "ReplicaProgressed": (
        rf"{_WHO} (?P<stage>[^:\s]+)(?:: (?P<detail>.+))?",
        _about_replica(ev.ReplicaProgressed),
    ),
    "ReplicaReady": (rf"{_WHO} at (?P<endpoint>\S+)", _about_replica(ev.ReplicaReady)),
    "ReplicaStartFailed": (rf"{_WHO}: (?P<cause>.+)", _about_replica(ev.ReplicaStartFailed)),
    "ReplicaComplained": (rf"{_WHO}: (?P<line>.+)", _about_replica(ev.ReplicaComplained)),
    "ReplicaExited": (rf"{_WHO}: (?P<cause>.+)", _about_replica(ev.ReplicaExited)),
    "ReplicaDrained": (_WHO, _about_replica(ev.ReplicaDrained)),
    "ReplicaReleased": (_WHO, _about_replica(ev.ReplicaReleased)),
    "ReplicasObserved": (_AT, _replicas_observed),
}
