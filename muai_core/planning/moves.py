"""Which running replicas would have to move so that one that waits is served: a proposal."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from msgspec import Struct, structs

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.memory import Shape
from muai_core.model.placement import Placement
from muai_core.planning.place import place_all
from muai_core.plugin.allocation import AllocationStrategy

#: Replicas, and sets of them, that are tried; the most promising first.
_MOVED_MAX = 2
_REPLICAS_MAX = 24
_TRIALS_MAX = 120


class Incumbent(Struct, frozen=True, kw_only=True):
    """A replica that runs, with what it holds."""

    replica_id: str
    deployment: Deployment
    placement: Placement


class Move(Struct, frozen=True, kw_only=True):
    """One replica from its devices to others."""

    replica_id: str
    source: Placement
    target: Placement


def propose_moves(
    blocked: PlacementRequest,
    fleet: Fleet,
    running: Sequence[Incumbent],
    strategy: AllocationStrategy,
) -> tuple[Move, ...] | None:
    """The fewest moves that let `blocked` be served; () when it needs none, None when none help.

    `fleet` is as it is now, with the claims of `running`, which keep their places unless moved.
    A replica that moves gets a shape of as few devices as before. Single replicas are tried first,
    then pairs, up to a fixed number of trials: None does not prove that there is no way.
    """
    if _served(place_all([blocked], fleet, strategy)) is not None:
        return ()
    views = {view.uuid: view for view in fleet.devices}
    movable = [one for one in running if all(uuid in views for uuid in one.placement.devices)]
    movable.sort(key=lambda one: (sum(one.placement.claims), one.replica_id))
    for moved in _sets(movable[:_REPLICAS_MAX]):
        found = _after(blocked, fleet, moved, strategy)
        if found is not None:
            return found
    return None


def _sets(movable: Sequence[Incumbent]) -> Iterator[tuple[Incumbent, ...]]:
    """The fewest replicas first, of these those that hold the least."""
    trials = 0
    for size in range(1, _MOVED_MAX + 1):
        for moved in combinations(movable, size):
            trials += 1
            if trials > _TRIALS_MAX:
                return
            yield moved


def _after(
    blocked: PlacementRequest,
    fleet: Fleet,
    moved: Sequence[Incumbent],
    strategy: AllocationStrategy,
) -> tuple[Move, ...] | None:
    requests = [blocked] + [
        PlacementRequest(
            replica_id=one.replica_id,
            deployment=_no_worse(one.deployment, one.placement.shape),
            options=blocked.options,
        )
        for one in moved
    ]
    placements = _served(place_all(requests, _without(fleet, moved), strategy))
    if placements is None:
        return None
    moves = (
        Move(replica_id=one.replica_id, source=one.placement, target=target)
        for one, target in zip(moved, placements[1:], strict=True)
    )
    return tuple(move for move in moves if move.source.stages != move.target.stages)


def _served(answers: Sequence[tuple[object, str | None]]) -> list[Placement] | None:
    """All placements; None unless every replica has one."""
    placements = [answer for answer, _ in answers if isinstance(answer, Placement)]
    return placements if len(placements) == len(answers) else None


def _no_worse(deployment: Deployment, shape: Shape) -> Deployment:
    """Allowed only the shapes with as few devices as it has now."""
    if deployment.memory is None:
        return deployment
    sharded = []
    for one in deployment.memory.sharded:
        sizes = tuple(
            stages
            for stages in one.pipeline_parallel_sizes
            if one.tensor_parallel_size * stages <= shape.device_count
        )
        if sizes:
            sharded.append(structs.replace(one, pipeline_parallel_sizes=sizes))
    memory = structs.replace(deployment.memory, sharded=tuple(sharded))
    return structs.replace(deployment, memory=memory)


def _without(fleet: Fleet, moved: Sequence[Incumbent]) -> Fleet:
    """The fleet as if these replicas did not run."""
    views = {view.uuid: view for view in fleet.devices}
    for one in moved:
        for uuid, claim in one.placement.claims_by_device.items():
            views[uuid] = _released(views[uuid], one.replica_id, claim)
    return structs.replace(fleet, devices=tuple(views.values()))


def _released(view: DeviceView, replica_id: str, claim_bytes: int) -> DeviceView:
    return structs.replace(
        view,
        claimed_bytes=max(0, view.claimed_bytes - claim_bytes),
        claimants=tuple(name for name in view.claimants if name != replica_id),
    )
