"""A plane carried on as if everything that it asks for went well, and at once."""

from collections.abc import Iterable

from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.plane import ControlPlane
from muai_core.control.state import Replica

_ENDPOINT = "http://127.0.0.1:1"
#: A replica that is replaced goes through some eight states, and its successor through two.
_ROUNDS_PER_REPLICA = 20


def settle(plane: ControlPlane, now_s: float, events: Iterable[ev.Event] = ()) -> float:
    """Tell the plane of `events`, then let starts succeed and stops end until nothing is due.

    Every start, drain, stop and release that is under way ends well; waiting takes no time. Nothing
    is started. Returns the plane's time at the end.
    """
    plane.step(now_s, events)
    wanted = sum(one.replicas for one in plane.state.deployments.values())
    for _ in range(_ROUNDS_PER_REPLICA * (wanted + len(plane.state.replicas) + 1)):
        outcomes = [
            outcome
            for replica in plane.state.replicas.values()
            if (outcome := _outcome(replica)) is not None
        ]
        if not outcomes:
            due_at_s = plane.next_wakeup()
            if due_at_s is None:
                break
            now_s = max(now_s, due_at_s)
        plane.step(now_s, outcomes)
    return now_s


def _outcome(replica: Replica) -> ev.Event | None:
    match replica.state:
        case ReplicaState.STARTING:
            return ev.ReplicaReady(replica_id=replica.id, epoch=replica.epoch, endpoint=_ENDPOINT)
        case ReplicaState.DRAINING:
            return ev.ReplicaDrained(replica_id=replica.id, epoch=replica.epoch)
        case ReplicaState.STOPPING:
            return ev.ReplicaExited(
                replica_id=replica.id, epoch=replica.epoch, cause="stopped as asked"
            )
        case ReplicaState.RELEASING:
            return ev.ReplicaReleased(replica_id=replica.id, epoch=replica.epoch)
    return None
