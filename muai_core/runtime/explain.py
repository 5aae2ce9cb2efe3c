"""Why a model is where it is, or why it waits: a pure view, the stable JSON of `muai explain`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from muai_core.control.fleet import fleet_of
from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.routes import routes_of
from muai_core.control.state import Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.placement import Refusal
from muai_core.planning.filters import eligible
from muai_core.runtime.alternatives import alternatives, proposed_moves
from muai_core.runtime.device_views import View, identity, refusal_words
from muai_core.runtime.memory_views import ranks_view
from muai_core.runtime.replica_fleet import claims_of, fleet_without
from muai_core.runtime.status import choices_view, model_facts, replica_view, replicas_of
from muai_core.runtime.waiting import reason_of

if TYPE_CHECKING:
    from muai_core.runtime.resolution import EngineChoice

_ELIGIBLE = "passes every filter"
_NOT_CHOSEN = "passes every filter; the strategy chose others"


def explain_view(
    state: State,
    model: str,
    choices: Sequence["EngineChoice"],
    now_s: float,
    *,
    planned: bool = False,
) -> View | None:
    """Everything that led to where `model` is; None when no such model is desired.

    `planned` says that the state is a dry run's: nothing runs. What is told of devices that a
    replica does not hold is as of now, the rest as of when it was decided.
    """
    deployment = state.deployments.get(model)
    if deployment is None:
        return None
    replicas = replicas_of(state, model)
    status = routes_of(deployment, replicas).status
    return {
        "model": model,
        "planned": planned,
        "state": status.state,
        "desired": status.desired,
        "ready": status.ready,
        **model_facts(deployment, replicas),
        "strategy": state.settings.strategy,
        "engines": choices_view(choices),
        "alternatives": alternatives(state, model),
        "proposed_moves": proposed_moves(state, model),
        "replicas": [_replica(state, deployment, replica, now_s) for replica in replicas],
    }


def _replica(state: State, deployment: Deployment, replica: Replica, now_s: float) -> View:
    view = replica_view(state, replica, now_s)
    if view["last_failure"] is not None and replica.loss is not None:
        view["last_failure"]["log_tail"] = replica.loss.log_tail
    holds = replica.placement is not None and replica.state in HOLDS_DEVICES
    view["placement_reason"] = replica.placement.reason if holds and replica.placement else None
    view["reason"] = None if claims_of(replica) else reason_of(state, replica)
    view["ranks"] = ranks_view(deployment, replica.placement if holds else None)
    view["considered"] = list(_considered(state, deployment, replica))
    return view


def _considered(state: State, deployment: Deployment, replica: Replica) -> Iterator[View]:
    """Every device with its verdict, in fleet order; then what is about the fleet as a whole."""
    claims = claims_of(replica)
    fleet = fleet_without(replica, fleet_of(state))
    refused, of_fleet = _refusals(deployment, replica, fleet)
    for view in fleet.devices:
        if view.uuid in claims:
            yield _verdict(identity(view.device), "chosen", None, None, claims[view.uuid])
        elif view.uuid in refused:
            refusal = refused[view.uuid]
            words = refusal_words(state, refusal)
            yield _verdict(identity(view.device), "refused", refusal.filter, words)
        else:
            message = _NOT_CHOSEN if claims else _ELIGIBLE
            yield _verdict(identity(view.device), "eligible", None, message)
    for refusal in of_fleet:
        yield _verdict(None, "refused", refusal.filter, refusal.message)


def _verdict(
    device: View | None,
    verdict: str,
    filter_name: str | None,
    message: str | None,
    claimed_bytes: int | None = None,
) -> View:
    return {
        "device": device,
        "verdict": verdict,
        "filter": filter_name,
        "message": message,
        "claimed_bytes": claimed_bytes,
    }


def _refusals(
    deployment: Deployment, replica: Replica, fleet: Fleet
) -> tuple[dict[str, Refusal], list[Refusal]]:
    """By device, and those about the whole fleet: as decided, or by the filters as of now."""
    if replica.blocked is not None:
        told = replica.blocked.refusals
    else:
        told = eligible(PlacementRequest(replica_id=replica.id, deployment=deployment), fleet)[1]
    by_device = {refusal.device: refusal for refusal in told if refusal.device is not None}
    return by_device, [refusal for refusal in told if refusal.device is None]
