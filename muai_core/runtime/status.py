"""What a controller says of itself: pure views from its state to plain data.

This is the stable JSON of `muai status`, `muai devices` and `muai plugins`, documented in
docs/cli.md: keys are added, never renamed. What is unknown is None. Moments are given as seconds
from now, because the controller's clock means nothing to anybody else. Engine options and
environments may hold secrets, so no view contains them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs, to_builtins

from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.routes import routes_of
from muai_core.control.state import Loss, Replica, State
from muai_core.model.deployment import Deployment
from muai_core.plugin.loading import PluginRecord
from muai_core.runtime.device_views import View, ago_s, devices_view, identity, sources_view
from muai_core.runtime.replica_memory import ReplicaMemory, memory_view

if TYPE_CHECKING:
    from muai_core.runtime.journal import JournalState
    from muai_core.runtime.resolution import EngineChoice
    from muai_core.runtime.sinks import SinkStatus


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the control plane's state does not tell about its controller."""

    version: str
    pid: int
    #: On the same clock as the state's times.
    started_at_s: float
    #: None until the gateway listens.
    gateway_address: str | None = None
    #: Requests by (replica id, epoch).
    in_flight: Mapping[tuple[str, int], int] = {}
    #: What replicas hold beside what was predicted, by (replica id, epoch).
    memory: Mapping[tuple[str, int], ReplicaMemory] = {}
    sinks: Sequence["SinkStatus"] = ()
    #: None for a plane that is not journaled.
    journal: "JournalState | None" = None
    plugins: Sequence[PluginRecord] = ()
    #: model → the engines that were considered.
    choices: Mapping[str, Sequence["EngineChoice"]] = {}


def status_view(state: State, surroundings: Surroundings, now_s: float) -> View:
    """Everything `muai status` shows."""
    return {
        "version": surroundings.version,
        "pid": surroundings.pid,
        "state": "stopping" if state.shutting_down else "running",
        "uptime_s": round(max(0.0, now_s - surroundings.started_at_s), 3),
        "gateway": {
            "address": surroundings.gateway_address,
            "requests_in_flight": sum(surroundings.in_flight.values()),
        },
        "models": {
            name: _model_view(state, name, surroundings, now_s) for name in _model_names(state)
        },
        "devices": devices_view(state, now_s),
        "device_sources": sources_view(state, now_s),
        "sinks": [to_builtins(sink) for sink in surroundings.sinks],
        "journal": to_builtins(surroundings.journal),
        "plugins": plugins_view(surroundings.plugins, surroundings.version),
        "events_rejected": dict(state.rejected),
        "policy_failures": dict(state.policy_failures),
    }


def plugins_view(records: Iterable[PluginRecord], core_version: str) -> list[View]:
    """The rows of `muai plugins`. What is built in has the core's version."""
    return [
        {
            "name": record.name,
            "version": core_version if record.origin == "built-in" else record.version,
            "origin": record.origin,
            "status": record.status,
            "registers": [{"kind": kind, "name": name} for kind, name in record.registers],
            "reason": record.reason,
        }
        for record in records
    ]


def choices_view(choices: Iterable["EngineChoice"]) -> list[View]:
    """The engines considered for a model, best first."""
    return [to_builtins(choice) for choice in choices]


def stages_view(state: State, replica: Replica) -> list[list[View]] | None:
    """The devices a replica holds, by pipeline stage and rank; None when it holds none."""
    if replica.placement is None or replica.state not in HOLDS_DEVICES:
        return None
    return [
        [identity(state.devices[uuid].device) for uuid in stage]
        for stage in replica.placement.stages
    ]


def loss_view(loss: Loss | None, now_s: float) -> View | None:
    """The last failure, without its log."""
    if loss is None:
        return None
    return {
        "ago_s": ago_s(loss.at_s, now_s),
        "epoch": loss.epoch,
        "cause": loss.cause,
        "failure": None if loss.failure is None else structs.asdict(loss.failure),
    }


def model_facts(deployment: Deployment, replicas: Sequence[Replica]) -> View:
    """What is served, and how: nothing that could be secret.

    The shape is that of the first replica that holds devices, else the preferred one.
    """
    shapes = (
        replica.placement.shape
        for replica in replicas
        if replica.placement is not None and replica.state in HOLDS_DEVICES
    )
    shape = next(shapes, deployment.shapes[0])
    return {
        "source": deployment.source,
        "engine": deployment.engine,
        "engine_reason": deployment.engine_reason,
        "generation": deployment.generation,
        "tensor_parallel_size": shape.tensor_parallel_size,
        "pipeline_parallel_size": shape.pipeline_parallel_size,
        "memory_bytes_per_device": deployment.memory_bytes_per_device,
    }


def replicas_of(state: State, model: str) -> list[Replica]:
    """A model's replicas in the order of their numbers."""
    own = [replica for replica in state.replicas.values() if replica.deployment == model]
    return sorted(own, key=lambda replica: replica.number)


def replica_view(state: State, replica: Replica, now_s: float) -> View:
    """One replica as it is now."""
    return {
        "id": replica.id,
        "state": replica.state.value,
        "for_s": ago_s(replica.since_s, now_s),
        "stage": replica.stage,
        "detail": replica.detail,
        "generation": replica.generation,
        "epoch": replica.epoch,
        "pid": replica.pid,
        "endpoint": replica.endpoint,
        "devices": stages_view(state, replica),
        "retiring": replica.retiring,
        "restarts": replica.restarts,
        "failures_in_a_row": replica.failures,
        "last_failure": loss_view(replica.loss, now_s),
        "retry_in_s": _in_s(replica.retry_at_s, now_s),
        "recovery_reason": replica.recovery_reason,
        "blocked": None if replica.blocked is None else replica.blocked.summary,
    }


def _model_names(state: State) -> list[str]:
    """The desired models, then those that are on their way out."""
    leaving = [replica.deployment for replica in state.replicas.values()]
    return list(dict.fromkeys([*state.deployments, *leaving]))


def _model_view(state: State, name: str, surroundings: Surroundings, now_s: float) -> View:
    replicas = replicas_of(state, name)
    rows = [
        {
            **replica_view(state, replica, now_s),
            "requests_in_flight": surroundings.in_flight.get((replica.id, replica.epoch), 0),
            "memory": _memory_view(surroundings.memory.get((replica.id, replica.epoch))),
        }
        for replica in replicas
    ]
    deployment = state.deployments.get(name)
    if deployment is None:
        return {"state": "leaving", "desired": 0, "ready": 0, "reason": None, "replicas": rows}
    status = routes_of(deployment, replicas).status
    return {
        "state": status.state,
        "desired": status.desired,
        "ready": status.ready,
        "reason": status.reason,
        "retry_after_s": status.retry_after_s,
        **model_facts(deployment, replicas),
        "replicas": rows,
    }


def _memory_view(memory: ReplicaMemory | None) -> list[View] | None:
    return None if memory is None else memory_view(memory)


def _in_s(moment_s: float | None, now_s: float) -> float | None:
    return None if moment_s is None else round(max(0.0, moment_s - now_s), 3)
