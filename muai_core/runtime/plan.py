"""The plan of a config: a pure view of a dry run, the stable JSON of `muai plan`."""

from typing import Any

from muai_core.control.fleet import fleet_of
from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.state import DeviceRecord, Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.fleet import DeviceView
from muai_core.model.placement import Placement
from muai_core.runtime.alternatives import alternatives
from muai_core.runtime.device_views import View, identity, sources_view
from muai_core.runtime.dry_run import DryRun
from muai_core.runtime.memory_views import (
    claims_by_kind,
    ranks_view,
    shape_view,
    tokens_that_fit,
)
from muai_core.runtime.status import choices_view, replicas_of
from muai_core.runtime.unplaced import unplaced_views
from muai_core.runtime.what_if import WhatIf, what_if_view

#: Shapes are compared up to this many devices times models: about a second.
_MOST_COMPARED = 16_384


def plan_view(result: DryRun, question: WhatIf | None = None) -> View:
    """What is placed where and why, what is left of each device, and what found no place.

    With a `question` it is the plan after the loss, and `what_if` says what the loss changed.
    """
    state = result.state
    devices = {view.uuid: view for view in fleet_of(state).devices}
    return {
        "strategy": state.settings.strategy,
        "models": {
            name: {
                **_model_view(state, deployment, devices),
                "engines": choices_view(result.resolved.choices.get(name, ())),
            }
            for name, deployment in state.deployments.items()
        },
        "devices": devices_after(state),
        "unplaced": unplaced_views(state),
        "what_if": None if question is None else what_if_view(state, question),
        "device_sources": sources_view(state, result.now_s),
        "events_rejected": dict(state.rejected),
    }


def _model_view(state: State, deployment: Deployment, devices: dict[str, DeviceView]) -> View:
    placed = [
        _placed_view(replica, deployment, devices)
        for replica in replicas_of(state, deployment.name)
        if replica.state in HOLDS_DEVICES
    ]
    reasons = [f"engine {deployment.engine}: {deployment.engine_reason}"]
    if deployment.memory_reason:
        reasons.append(f"memory: {deployment.memory_reason}")
    reasons += [f"{one['replica']}: {one['reason']}" for one in placed if one["reason"]]
    first = placed[0] if placed else None
    needs = deployment.memory
    return {
        "engine": deployment.engine,
        "engine_reason": deployment.engine_reason,
        # Of the first replica that found devices, else the preferred shape.
        **(shape_view(deployment.shapes[0]) if first is None else _shape(first)),
        "replicas": deployment.replicas,
        "memory_bytes_per_device": deployment.memory_bytes_per_device,
        "memory_reason": deployment.memory_reason or None,
        "context_tokens": None if needs is None else needs.context_tokens,
        "concurrency": deployment.concurrency,
        "layers": None if first is None else first["layers"],
        "ranks": ranks_view(deployment, None) if first is None else first["ranks"],
        "placement": [one["stages"] for one in placed],
        "placed": placed,
        "alternatives": alternatives(state, deployment.name)
        if len(devices) * len(state.deployments) <= _MOST_COMPARED
        else None,
        "reasons": reasons,
    }


def _shape(placed: View) -> View:
    keys = ("tensor_parallel_size", "pipeline_parallel_size")
    return {key: placed[key] for key in keys}


def _placed_view(replica: Replica, deployment: Deployment, devices: dict[str, DeviceView]) -> View:
    placement = replica.placement
    assert placement is not None
    return {
        "replica": replica.id,
        **shape_view(placement.shape),
        "stages": [list(stage) for stage in placement.stages],
        "layers": list(placement.layers) or None,
        "claims": placement.claims_by_device,
        "ranks": ranks_view(deployment, placement),
        "kv_tokens_possible": tokens_that_fit(deployment, placement, devices),
        "reason": placement.reason or None,
    }


def devices_after(state: State) -> dict[str, Any]:
    """What each device has, and what is left of it, by UUID in the order of planning."""
    kinds = _kinds_by_device(state)
    return {
        view.uuid: {
            **identity(view.device),
            "island": view.device.island,
            "numa_node": view.device.numa_node,
            "health": view.health.value,
            "health_reason": view.health_reason,
            "advice": state.devices[view.uuid].condition.advice or None,
            "capacity_bytes": view.device.memory_total_bytes,
            "driver_reserved_bytes": state.devices[view.uuid].reading.memory_reserved_bytes,
            "foreign_bytes": _foreign_bytes(state.devices[view.uuid]),
            "reserve_bytes": state.settings.memory_reserve_bytes,
            "allocatable_bytes": view.allocatable_bytes,
            "claimed_bytes": view.claimed_bytes,
            "free_bytes": view.free_bytes,
            "claims": {
                claim.replica_id: claim.memory_bytes for claim in state.ledger.on(view.uuid)
            },
            "claims_by_kind": kinds.get(view.uuid, {}),
        }
        for view in fleet_of(state).devices
    }


def _kinds_by_device(state: State) -> dict[str, dict[str, View]]:
    """UUID → replica → bytes by kind."""
    found: dict[str, dict[str, View]] = {}
    for replica_id, (deployment, placement) in _holders(state).items():
        for uuid, kinds in claims_by_kind(deployment, placement):
            known = found.setdefault(uuid, {}).setdefault(replica_id, dict.fromkeys(kinds, 0))
            for kind, amount_bytes in kinds.items():
                known[kind] += amount_bytes
    return found


def _holders(state: State) -> dict[str, tuple[Deployment, Placement]]:
    return {
        replica.id: (deployment, replica.placement)
        for replica in state.replicas.values()
        if replica.placement is not None
        and replica.state in HOLDS_DEVICES
        and (deployment := state.deployments.get(replica.deployment)) is not None
    }


def _foreign_bytes(record: DeviceRecord) -> int | None:
    reading = record.reading
    if reading.memory_foreign_bytes is None and reading.memory_used_bytes is None:
        return None
    return record.foreign_bytes
