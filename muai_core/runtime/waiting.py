"""Why a replica waits, in one stable word for scripts."""

from collections.abc import Iterable
from typing import Literal, cast

from muai_core.control.fleet import fleet_of
from muai_core.control.state import Replica, State
from muai_core.model.fleet import DeviceView

#: `platform`, `affinity`, `health`, `memory`: what refused too many devices. `capacity`: they would
#: do, but others' claims leave too little. `shape`: no node has as many devices as any shape needs.
#: `strategy`: it failed or was refused. `recovery`: it waits for its next start, or was given up.
Reason = Literal[
    "platform", "affinity", "health", "memory", "capacity", "shape", "strategy", "recovery"
]
#: The filters of a device, in their order.
_FILTERS = ("platform", "affinity", "health", "memory")
_STRATEGY = "allocation strategy "


def reason_of(state: State, replica: Replica) -> Reason:
    """The obstacle nearest to success: the last filter, in their order, that refused too many."""
    blocked = replica.blocked
    deployment = state.deployments.get(replica.deployment)
    if blocked is None or deployment is None:
        return "recovery"
    if blocked.summary.startswith(_STRATEGY):
        return "strategy"
    of_fleet = [one.filter for one in blocked.refusals if one.device is None]
    for word in ("capacity", "memory"):
        if word in of_fleet:
            return cast(Reason, word)
    need = min(shape.device_count for shape in deployment.shapes)
    refused = {one.device: one.filter for one in blocked.refusals if one.device is not None}
    if "shape" in refused.values():
        return "shape"
    devices = fleet_of(state).devices
    for name in reversed(_FILTERS):
        left = [view for view in devices if _reaches(refused.get(view.uuid), name)]
        # Ranks share a CPU, so one is enough.
        enough = _most_on_a_node(left) >= need or any(one.device.kind == "cpu" for one in left)
        if name in refused.values() and enough:
            return cast(Reason, name)
    return "shape"


def _reaches(refused_by: str | None, name: str) -> bool:
    """Whether a device passes every filter that stands before this one."""
    return refused_by not in _FILTERS[: _FILTERS.index(name)]


def _most_on_a_node(devices: Iterable[DeviceView]) -> int:
    counts: dict[str, int] = {}
    for view in devices:
        counts[view.device.node] = counts.get(view.device.node, 0) + 1
    return max(counts.values(), default=0)
