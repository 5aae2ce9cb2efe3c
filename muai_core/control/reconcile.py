"""Desired against actual, as a value with named buckets. Deciding is here; doing is the plane's."""

from collections.abc import Sequence

from msgspec import Struct

from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import Replica
from muai_core.model.deployment import Deployment

#: Which replicas go first when there are too many: those that serve least.
_DISPENSABLE_FIRST = (
    ReplicaState.ABANDONED,
    ReplicaState.BACKOFF,
    ReplicaState.PENDING,
    ReplicaState.RELEASING,
    ReplicaState.STOPPING,
    ReplicaState.STARTING,
    ReplicaState.DRAINING,
    ReplicaState.READY,
)


_SETTLED = (ReplicaState.READY, ReplicaState.ABANDONED)


class Reconciliation(Struct, frozen=True, kw_only=True):
    """What one deployment needs. Replicas are named by id; every live one is in one bucket."""

    #: How many new replicas to create.
    create: int = 0
    #: Of the current generation and wanted.
    keep: tuple[str, ...] = ()
    #: Of an older generation, serving until their successors do.
    replace_later: tuple[str, ...] = ()
    #: Not wanted: surplus, outdated and replaceable now, or of a deployment that is gone.
    retire: tuple[str, ...] = ()
    #: On their way out already.
    leaving: tuple[str, ...] = ()


def reconcile(
    deployment: Deployment | None, replicas: Sequence[Replica], *, make_room: bool = True
) -> Reconciliation:
    """Sort a deployment's replicas into buckets. `deployment` None: nothing is desired.

    New before old: a ready replica of an older generation stays while fewer than the desired
    number of current ones are ready. When a current one finds no devices, the outdated ones make
    room one at a time: the next goes when nothing is leaving or on its way to ready any more.
    """
    leaving = tuple(replica.id for replica in replicas if replica.retiring)
    live = [replica for replica in replicas if not replica.retiring]
    if deployment is None:
        return Reconciliation(retire=tuple(replica.id for replica in live), leaving=leaving)
    current = [replica for replica in live if replica.generation == deployment.generation]
    outdated = [replica for replica in live if replica.generation != deployment.generation]
    current.sort(key=_worth, reverse=True)
    keep, surplus = current[: deployment.replicas], current[deployment.replicas :]
    still_needed = _outdated_still_needed(deployment, keep, outdated)
    if make_room and not leaving and _stuck(keep):
        still_needed = max(0, still_needed - 1)
    outdated.sort(key=_worth, reverse=True)
    return Reconciliation(
        create=deployment.replicas - len(keep),
        keep=tuple(replica.id for replica in keep),
        replace_later=tuple(replica.id for replica in outdated[:still_needed]),
        retire=tuple(replica.id for replica in surplus + outdated[still_needed:]),
        leaving=leaving,
    )


def _worth(replica: Replica) -> tuple[int, int]:
    return _DISPENSABLE_FIRST.index(replica.state), -replica.number


def _outdated_still_needed(
    deployment: Deployment, current: Sequence[Replica], outdated: Sequence[Replica]
) -> int:
    ready_now = sum(replica.state is ReplicaState.READY for replica in current)
    ready_before = sum(replica.state is ReplicaState.READY for replica in outdated)
    return min(ready_before, max(0, deployment.replicas - ready_now))


def _stuck(current: Sequence[Replica]) -> bool:
    """Some find no devices, and none of the others will become ready by waiting."""
    waiting = [replica for replica in current if replica.state not in _SETTLED]
    return bool(waiting) and all(replica.blocked is not None for replica in waiting)
