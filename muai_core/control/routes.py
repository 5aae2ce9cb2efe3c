"""The routing table that follows from the state."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import Replica
from muai_core.model.deployment import Deployment
from muai_core.model.routing import ModelState, ModelStatus, Route, RoutingTable


class ModelRoutes(Struct, frozen=True):
    """One deployment's part of the routing table."""

    status: ModelStatus
    routes: tuple[Route, ...]


def routes_of(deployment: Deployment, replicas: Sequence[Replica]) -> ModelRoutes:
    """Routes to the ready ones among a deployment's replicas, and its status for clients."""
    ready = [replica for replica in replicas if replica.state is ReplicaState.READY]
    return ModelRoutes(
        _status(deployment, replicas, len(ready)),
        tuple(_route(replica, deployment) for replica in ready),
    )


def assemble(version: int, parts: Iterable[ModelRoutes]) -> RoutingTable:
    """The parts of all deployments as one table."""
    parts = list(parts)
    return RoutingTable(
        version,
        tuple(part.status for part in parts),
        tuple(route for part in parts for route in part.routes),
    )


def _route(replica: Replica, deployment: Deployment) -> Route:
    assert replica.endpoint is not None
    return Route(
        model=replica.deployment,
        replica_id=replica.id,
        epoch=replica.epoch,
        endpoint=replica.endpoint,
        engine=deployment.engine,
    )


def _status(deployment: Deployment, replicas: Sequence[Replica], ready: int) -> ModelStatus:
    waiting = [
        replica
        for replica in replicas
        if not replica.retiring and replica.state is not ReplicaState.READY
    ]
    return ModelStatus(
        name=deployment.name,
        desired=deployment.replicas,
        ready=ready,
        state=_model_state(deployment, waiting, ready),
        reason="; ".join(_reason(replica) for replica in waiting) or None,
        retry_after_s=_retry_after_s(waiting),
    )


def _model_state(deployment: Deployment, waiting: list[Replica], ready: int) -> ModelState:
    if ready:
        return "ready"
    if deployment.replicas == 0:
        return "stopped"
    if any(replica.loss or replica.condemned for replica in waiting):
        return "recovering"
    if any(replica.state is ReplicaState.STARTING for replica in waiting):
        return "starting"
    return "pending"


def _reason(replica: Replica) -> str:
    """Why this replica is not ready, in one line."""
    parts = [f"{replica.id} {replica.state.value}"]
    if replica.blocked is not None:
        parts.append(replica.blocked.summary)
    elif replica.stage is not None:
        parts.append(replica.stage)
    if replica.loss is not None:
        parts.append(f"last failure: {replica.loss.cause}")
    return ": ".join(parts)


def _retry_after_s(waiting: list[Replica]) -> float | None:
    """The shortest backoff decided for a waiting replica: when asking again may help."""
    delays = [
        replica.retry_at_s - replica.loss.at_s
        for replica in waiting
        if replica.retry_at_s is not None and replica.loss is not None
    ]
    return min(delays, default=None)
