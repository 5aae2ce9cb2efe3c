"""What a config would change in a running controller: its own state, carried on with the wish."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs, to_builtins

from muai_core.config.loaded import LoadedConfig
from muai_core.control.events import DeploymentsDesired
from muai_core.control.plane import ControlPlane
from muai_core.control.state import ControlSettings, Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.placement import Placement
from muai_core.runtime.alternatives import proposed_moves
from muai_core.runtime.device_views import View, identity
from muai_core.runtime.observation import without_self_tests
from muai_core.runtime.resolution import GIB, Resolved
from muai_core.runtime.settling import settle
from muai_core.runtime.unplaced import unplaced_views
from muai_core.runtime.what_if import placements

ModelChange = Literal["new", "gone", "changed", "unchanged"]
#: `waits`: it has no devices, before and after.
ReplicaChange = Literal["stays", "moves", "starts", "stops", "waits"]

#: Not part of the wish: counted by the plane, worked out, or words.
_DERIVED = ("name", "generation", "memory", "memory_reason", "engine_reason")
#: What the config calls it, where that is something else.
_CONFIG_KEYS = {
    "memory_bytes_per_device": "memory_gib",
    "strategy": "allocation.strategy",
    "strategy_options": "allocation.options",
    "policy": "recovery.policy",
    "policy_options": "recovery.options",
    "memory_reserve_bytes": "devices.memory_reserve_gib",
}
#: May hold what is nobody's business.
_HIDDEN = ("engine_options", "strategy_options", "policy_options")


class Difference(Struct, frozen=True):
    """A controller's state once all that is under way has ended well, and with the new config."""

    before: State
    after: State
    #: As they are in the controller and in the config.
    settings: tuple[ControlSettings, ControlSettings]


def difference(snapshot: bytes, loaded: LoadedConfig, resolved: Resolved) -> Difference:
    """Carry the state of a running controller on, with its own config and with the new one.

    Nothing is done. Raises msgspec.ValidationError when the snapshot is of another version, and
    KeyError when its strategy or policy is not installed here.
    """
    state = msgspec.json.decode(snapshot, type=State)
    own = state.settings
    current = _plane(state, own, loaded)
    now_s = settle(current, state.now_s)
    settled = msgspec.json.decode(current.snapshot(), type=State)
    wanted = _plane(settled, resolved.settings, loaded)
    settle(wanted, now_s, [DeploymentsDesired(deployments=resolved.deployments)])
    return Difference(current.state, wanted.state, (own, resolved.settings))


def _plane(state: State, settings: ControlSettings, loaded: LoadedConfig) -> ControlPlane:
    state.settings = without_self_tests(settings)
    return ControlPlane.restore(
        msgspec.json.encode(state),
        loaded.plugins.allocation_strategies[settings.strategy],
        loaded.plugins.recovery_policies[settings.policy],
    )


def diff_view(found: Difference) -> View:
    """The JSON of `muai plan --diff`, documented in docs/cli.md, without `config`."""
    before, after = found.before, found.after
    models = {name: _model(found, name) for name in {**before.deployments, **after.deployments}}
    settings = list(_changed_settings(*found.settings))
    return {
        "changed": bool(settings)
        or any(
            model["verdict"] != "unchanged"
            or any(one["verdict"] not in ("stays", "waits") for one in model["replicas"])
            for model in models.values()
        ),
        "settings": settings,
        "models": models,
        "devices": {uuid: identity(record.device) for uuid, record in after.devices.items()},
        "unplaced": unplaced_views(after),
        "proposed_moves": {
            name: moves
            for name in dict.fromkeys(one["model"] for one in unplaced_views(after))
            if (moves := proposed_moves(after, name))
        },
    }


def _model(found: Difference, name: str) -> View:
    before, after = found.before.deployments.get(name), found.after.deployments.get(name)
    fields: list[View] = []
    verdict: ModelChange
    if before is None:
        verdict = "new"
    elif after is None:
        verdict = "gone"
    else:
        fields = list(_changed_fields(before, after))
        verdict = "changed" if fields else "unchanged"
    return {"verdict": verdict, "fields": fields, "replicas": list(_replicas(found, name))}


def _changed_fields(before: Deployment, after: Deployment) -> Iterator[View]:
    for field in Deployment.__struct_fields__:
        if field in _DERIVED or (one := getattr(before, field)) == (other := getattr(after, field)):
            continue
        if field in _HIDDEN:
            yield from _hidden(field, one, other)
        else:
            yield _change(_CONFIG_KEYS.get(field, field), one, other)


def _hidden(field: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[View]:
    """Which options differ, without their values."""
    field = _CONFIG_KEYS.get(field, field)
    for key in {**before, **after}:
        if (key in before) != (key in after) or before.get(key) != after.get(key):
            yield _change(f"{field}.{key}", None, None)


def _change(field: str, before: object, after: object) -> View:
    if field.endswith("_gib"):
        before, after = (
            value / GIB if isinstance(value, int) else value for value in (before, after)
        )
    return {"field": field, "before": to_builtins(before), "after": to_builtins(after)}


def _changed_settings(before: ControlSettings, after: ControlSettings) -> Iterator[View]:
    for field in ControlSettings.__struct_fields__:
        one, other = getattr(before, field), getattr(after, field)
        if one == other:
            continue
        if field in _HIDDEN:
            yield from _hidden(field, one, other)
        elif isinstance(one, Struct):
            yield from (
                _change(f"devices.{field}.{key}", value, getattr(other, key))
                for key, value in structs.asdict(one).items()
                if value != getattr(other, key)
            )
        else:
            yield _change(_CONFIG_KEYS.get(field, f"recovery.{field}"), one, other)


def _replicas(found: Difference, name: str) -> Iterator[View]:
    """Those that there are, then those that there would be."""
    was, will = placements(found.before), placements(found.after)
    for replica in _ordered(found, name):
        before, after = was.get(replica.id), will.get(replica.id)
        yield {
            "replica": replica.id,
            "verdict": _verdict(replica, found, before, after),
            "before": None if before is None else [list(stage) for stage in before.stages],
            "after": None if after is None else [list(stage) for stage in after.stages],
            "reason": None if after is None else after.reason or None,
        }


def _ordered(found: Difference, name: str) -> Sequence[Replica]:
    both = {**found.before.replicas, **found.after.replicas}
    own = (replica for replica in both.values() if replica.deployment == name)
    return sorted(own, key=lambda replica: replica.number)


def _verdict(
    replica: Replica, found: Difference, before: Placement | None, after: Placement | None
) -> ReplicaChange:
    if replica.id not in found.after.replicas:
        return "stops"
    if before is None and after is None:
        return "waits"
    if before is None:
        return "starts"
    if after is None:
        return "stops"
    same_epoch = found.before.replicas[replica.id].epoch == found.after.replicas[replica.id].epoch
    return "stays" if same_epoch and before.stages == after.stages else "moves"
