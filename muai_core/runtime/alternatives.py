"""Views of what else was possible: other shapes, and moves that would serve what waits."""

from muai_core.control.fleet import fleet_of
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.fleet import PlacementRequest
from muai_core.model.memory import Shape
from muai_core.planning.alternatives import Alternative
from muai_core.planning.alternatives import alternatives as judged
from muai_core.planning.balanced import Balanced
from muai_core.planning.moves import Incumbent, propose_moves
from muai_core.runtime.device_views import View
from muai_core.runtime.memory_views import shape_view
from muai_core.runtime.replica_fleet import claims_of, fleet_without
from muai_core.runtime.status import replicas_of

#: On larger fleets both cost too much for what people ask of a box or a rack.
MOST_DEVICES = 1024


def alternatives(state: State, model: str) -> list[View] | None:
    """Every shape that the deployment allows, in the order of preference, each with its verdict.

    For the first replica that waits, else the first of all; with everybody else's claims in place,
    as the built-in strategy sees it, whatever the config's is: that one may take seconds. None:
    not worked out, because there is no replica or the fleet is too large.
    """
    replicas = replicas_of(state, model)
    waiting = [replica for replica in replicas if not claims_of(replica)]
    replica = next(iter(waiting or replicas), None)
    fleet = fleet_of(state)
    if replica is None or len(fleet.devices) > MOST_DEVICES:
        return None
    deployment = state.deployments[model]
    request = PlacementRequest(replica_id=replica.id, deployment=deployment)
    found = judged(request, fleet_without(replica, fleet))
    holds = replica.placement is not None and bool(claims_of(replica))
    chosen = replica.placement.shape if holds and replica.placement is not None else None
    return [_view(deployment, one, chosen) for one in found]


def _view(deployment: Deployment, one: Alternative, chosen: Shape | None) -> View:
    verdict, reason = one.verdict, one.reason
    if chosen is not None and one.shape == chosen:
        verdict = "chosen"
    elif verdict != "refused":
        verdict = "fits"
        reason = _why_not(one, chosen)
    needs = deployment.even_rank_bytes(one.shape)
    known = [need for need in needs if need is not None]
    return {
        **shape_view(one.shape),
        "verdict": verdict,
        "reason": reason,
        "devices": one.shape.device_count,
        "rank_bytes": max(known, default=None),
        "total_bytes": sum(known) * one.shape.tensor_parallel_size if known else None,
    }


def _why_not(one: Alternative, chosen: Shape | None) -> str:
    """What speaks for the chosen shape where both fit."""
    if chosen is None:
        return "would find devices now"
    if one.verdict == "chosen":
        return f"suits best alone, but the plan as a whole is better with {chosen}"
    if one.shape.device_count < chosen.device_count:
        return f"fits, but {one.shape.pipeline_parallel_size} stages are slower than {chosen}"
    return one.reason


def proposed_moves(state: State, model: str) -> list[View] | None:
    """The fewest moves of ready replicas after which the model's first waiting replica is served.

    Empty: none are needed, or none were found. None: not worked out, because the fleet is too
    large. By the built-in strategy, as `alternatives`.
    """
    fleet = fleet_of(state)
    waiting = [replica for replica in replicas_of(state, model) if _waits(replica)]
    if not waiting:
        return []
    if len(fleet.devices) > MOST_DEVICES:
        return None
    running = [
        Incumbent(replica_id=one.id, deployment=deployment, placement=one.placement)
        for one in state.replicas.values()
        if one.state is ReplicaState.READY
        and one.placement is not None
        and (deployment := state.deployments.get(one.deployment)) is not None
        and one.generation == deployment.generation
    ]
    request = PlacementRequest(replica_id=waiting[0].id, deployment=state.deployments[model])
    moves = propose_moves(request, fleet, running, Balanced())
    return [
        {
            "replica": move.replica_id,
            "before": [list(stage) for stage in move.source.stages],
            "after": [list(stage) for stage in move.target.stages],
            "moved_bytes": sum(move.target.claims),
        }
        for move in moves or ()
    ]


def _waits(replica: Replica) -> bool:
    return replica.state is ReplicaState.PENDING and replica.blocked is not None
