"""The plan of a config: a pure view of a dry run, the stable JSON of `muai plan`."""

from typing import Any

from muai_core.control.fleet import fleet_of
from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.state import DeviceRecord, Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.placement import Refusal
from muai_core.runtime.device_views import View, identity, refusal_words, sources_view
from muai_core.runtime.dry_run import DryRun
from muai_core.runtime.status import choices_view, replicas_of


def plan_view(result: DryRun) -> View:
    """What is placed where and why, what is left of each device, and what found no place."""
    state = result.state
    return {
        "strategy": state.settings.strategy,
        "models": {
            name: {
                **_model_view(state, deployment),
                "engines": choices_view(result.resolved.choices.get(name, ())),
            }
            for name, deployment in state.deployments.items()
        },
        "devices": devices_after(state),
        "unplaced": [
            view
            for name in state.deployments
            for replica in replicas_of(state, name)
            if (view := _unplaced_view(state, replica)) is not None
        ],
        "device_sources": sources_view(state, result.now_s),
        "events_rejected": dict(state.rejected),
    }


def _model_view(state: State, deployment: Deployment) -> View:
    placed = [
        _placed_view(replica)
        for replica in replicas_of(state, deployment.name)
        if replica.state in HOLDS_DEVICES
    ]
    reasons = [f"engine {deployment.engine}: {deployment.engine_reason}"]
    reasons += [f"{one['replica']}: {one['reason']}" for one in placed if one["reason"]]
    return {
        "engine": deployment.engine,
        "engine_reason": deployment.engine_reason,
        "tensor_parallel_size": deployment.tensor_parallel_size,
        "pipeline_parallel_size": deployment.pipeline_parallel_size,
        "replicas": deployment.replicas,
        "memory_bytes_per_device": deployment.memory_bytes_per_device,
        "placement": [one["stages"] for one in placed],
        "placed": placed,
        "reasons": reasons,
    }


def _placed_view(replica: Replica) -> View:
    placement = replica.placement
    assert placement is not None
    return {
        "replica": replica.id,
        "stages": [list(stage) for stage in placement.stages],
        "claims": dict(zip(placement.devices, placement.claims, strict=True)),
        "reason": placement.reason or None,
    }


def devices_after(state: State) -> dict[str, Any]:
    """What each device has, and what is left of it, by UUID in the order of planning."""
    return {
        view.uuid: {
            **identity(view.device),
            "island": view.device.island,
            "health": view.health.value,
            "health_reason": view.health_reason,
            "advice": state.devices[view.uuid].condition.advice or None,
            "capacity_bytes": view.device.memory_total_bytes,
            "foreign_bytes": _foreign_bytes(state.devices[view.uuid]),
            "allocatable_bytes": view.allocatable_bytes,
            "claimed_bytes": view.claimed_bytes,
            "free_bytes": view.free_bytes,
            "claims": {
                claim.replica_id: claim.memory_bytes for claim in state.ledger.on(view.uuid)
            },
        }
        for view in fleet_of(state).devices
    }


def _foreign_bytes(record: DeviceRecord) -> int | None:
    reading = record.reading
    if reading.memory_foreign_bytes is None and reading.memory_used_bytes is None:
        return None
    return record.foreign_bytes


def _unplaced_view(state: State, replica: Replica) -> View | None:
    if replica.state in HOLDS_DEVICES:
        return None
    blocked = replica.blocked
    return {
        "model": replica.deployment,
        "replica": replica.id,
        "summary": blocked.summary if blocked else replica.state.value,
        "refusals": [_refusal_view(state, refusal) for refusal in blocked.refusals]
        if blocked
        else [],
    }


def _refusal_view(state: State, refusal: Refusal) -> View:
    """Why one device was refused; without a device it is about the whole fleet."""
    return {
        "device": refusal.device,
        "filter": refusal.filter,
        "message": refusal_words(state, refusal),
    }
