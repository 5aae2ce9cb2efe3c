"""What would become of a plan if devices were lost: the control plane is told, and carries on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import Struct

from muai_core.control.events import ReplicaExited
from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.state import State
from muai_core.model.placement import Placement
from muai_core.runtime.device_names import UnknownDevice, find_device
from muai_core.runtime.device_views import View, identity
from muai_core.runtime.dry_run import DryRun, without_devices
from muai_core.runtime.settling import settle

#: `unplaced`: it had no devices before either.
ReplicaVerdict = Literal["unaffected", "moved", "reduced", "reshaped", "lost", "unplaced"]
#: Of a model: the worst of its replicas that had devices; `degraded`: some are lost, not all.
ModelVerdict = Literal["unaffected", "moved", "reshaped", "reduced", "degraded", "not_served"]

_LOSS_S = 1.0
_WORSE: tuple[ReplicaVerdict, ...] = ("unaffected", "unplaced", "moved", "reshaped", "reduced")


class WhatIf(Struct, frozen=True):
    """The plan before the loss; what came after is the dry run's state."""

    #: Devices that are gone.
    lost: tuple[View, ...]
    #: Where replicas were, by id.
    before: Mapping[str, Placement]


def lose(result: DryRun, names: Sequence[str]) -> WhatIf:
    """Let the plan come up, lose the devices all at once, and let the control plane recover.

    Each name is a device, as `find_device` takes it, or a node with all its devices. Changes
    `result.state`. Raises UnknownDevice or AmbiguousDevice.
    """
    known = [identity(one.device) for one in result.state.devices.values() if one.present]
    lost = _meant(known, names)
    gone = {device["uuid"] for device in lost}
    gone |= {
        record.device.uuid
        for record in result.state.devices.values()
        if record.device.parent_uuid in gone
    }
    now_s = settle(result.plane, result.now_s)
    before = placements(result.state)
    now_s += _LOSS_S
    settle(
        result.plane,
        now_s,
        [*without_devices(result.facts, gone, now_s), *_ends(result.state, gone)],
    )
    return WhatIf(lost=tuple(one for one in known if one["uuid"] in gone), before=before)


def _ends(state: State, gone: AbstractSet[str]) -> Iterator[ReplicaExited]:
    """What runs on a device that is lost ends with it."""
    for replica in state.replicas.values():
        if replica.placement is not None and not gone.isdisjoint(replica.placement.devices):
            yield ReplicaExited(
                replica_id=replica.id, epoch=replica.epoch, cause="a device of it was lost"
            )


def placements(state: State) -> dict[str, Placement]:
    """Where each replica is that holds devices, by id."""
    return {
        replica.id: replica.placement
        for replica in state.replicas.values()
        if replica.placement is not None and replica.state in HOLDS_DEVICES
    }


def _meant(known: Sequence[View], names: Iterable[str]) -> list[View]:
    found: dict[str, View] = {}
    nodes = dict.fromkeys(device["node"] for device in known)
    for name in names:
        if name.strip() in nodes:
            found |= {one["uuid"]: one for one in known if one["node"] == name.strip()}
            continue
        try:
            one = find_device(known, name)
        except UnknownDevice as error:
            raise UnknownDevice(f"{error}; or a whole node: {', '.join(nodes)}") from None
        found[one["uuid"]] = dict(one)
    return list(found.values())


def what_if_view(state: State, question: WhatIf) -> View:
    """What became of each replica and each model: the key `what_if` of `muai plan --json`."""
    after = placements(state)
    models: dict[str, View] = {}
    for name in state.deployments:
        ids = [one.id for one in state.replicas.values() if one.deployment == name]
        replicas = [_replica(one, question.before.get(one), after.get(one)) for one in ids]
        models[name] = {"verdict": _of_model(replicas), "replicas": replicas}
    return {"without": list(question.lost), "models": models}


def _replica(replica: str, before: Placement | None, after: Placement | None) -> View:
    return {
        "replica": replica,
        "verdict": _verdict(before, after),
        "before": None if before is None else [list(stage) for stage in before.stages],
        "after": None if after is None else [list(stage) for stage in after.stages],
    }


def _verdict(before: Placement | None, after: Placement | None) -> ReplicaVerdict:
    if before is None and after is None:
        return "unplaced"
    if after is None:
        return "lost"
    if before is None:
        return "moved"
    if before.stages == after.stages:
        return "unaffected"
    if before.shape == after.shape:
        return "moved"
    fewer = after.shape.device_count < before.shape.device_count
    return "reduced" if fewer else "reshaped"


def _of_model(replicas: Sequence[View]) -> ModelVerdict:
    verdicts: list[ReplicaVerdict] = [one["verdict"] for one in replicas]
    if "lost" in verdicts:
        return "degraded" if any(one["after"] for one in replicas) else "not_served"
    if replicas and all(one["after"] is None for one in replicas):
        return "not_served"
    worst = max(verdicts, key=_WORSE.index, default="unaffected")
    if worst == "unplaced":
        return "unaffected"
    return worst  # type: ignore[return-value]
