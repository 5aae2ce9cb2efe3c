"""Replicas that find no devices, with every refusal: a pure view."""

from muai_core.control.lifecycle import HOLDS_DEVICES
from muai_core.control.state import Replica, State
from muai_core.model.placement import Refusal
from muai_core.runtime.device_views import View, refusal_words
from muai_core.runtime.status import replicas_of
from muai_core.runtime.waiting import reason_of


def unplaced_views(state: State) -> list[View]:
    """All of them, in the order of the deployments: `plan.unplaced[]` in docs/cli.md."""
    return [
        view
        for name in state.deployments
        for replica in replicas_of(state, name)
        if (view := _unplaced_view(state, replica)) is not None
    ]


def _unplaced_view(state: State, replica: Replica) -> View | None:
    if replica.state in HOLDS_DEVICES:
        return None
    blocked = replica.blocked
    return {
        "model": replica.deployment,
        "replica": replica.id,
        "reason": reason_of(state, replica),
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
