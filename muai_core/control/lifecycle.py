"""The life of a replica as one table.

A replica is a slot of a deployment that keeps its id for life; each start is a new *epoch*. The
table below is the whole truth about which step may follow which: the plane changes a replica's
state nowhere but through `advance`, and the diagram in ARCHITECTURE.md is generated from it.

    pending    wants devices; either none fit now, or it has not been tried yet
    starting   devices are claimed, the process is being started and the model loaded
    ready      it serves, and only now is it in the routing table
    draining   out of the routing table; requests in flight may finish
    stopping   the process was told to end
    releasing  the process is said to be gone; its devices stay claimed until that is proven
    backoff    its devices are free; it waits before it is started again
    abandoned  the recovery policy gave up; only a change of the desired state revives it
    gone       forgotten; the id is never used again

Two rules shape it. Whatever happens to a process leads through `releasing`, because a device is
free only on proof, never on a time-out. And every exit is a failure while the replica is desired,
whatever the exit status, so there is one trigger for all of them.
"""

from enum import StrEnum


class ReplicaState(StrEnum):
    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    RELEASING = "releasing"
    BACKOFF = "backoff"
    ABANDONED = "abandoned"
    GONE = "gone"


class Trigger(StrEnum):
    PLACED = "devices claimed"
    READY = "serves"
    LOST = "process gone or start failed"
    DRAIN = "no longer desired"
    STOP = "told to end"
    RETRY_LATER = "devices proven free, still desired"
    RETRY = "backoff over"
    GIVE_UP = "policy gave up"
    FORGET = "not desired, holds nothing"


_S, _T = ReplicaState, Trigger

TRANSITIONS: dict[tuple[ReplicaState, Trigger], ReplicaState] = {
    (_S.PENDING, _T.PLACED): _S.STARTING,
    (_S.PENDING, _T.FORGET): _S.GONE,
    (_S.STARTING, _T.READY): _S.READY,
    (_S.STARTING, _T.LOST): _S.RELEASING,
    (_S.STARTING, _T.STOP): _S.STOPPING,
    (_S.READY, _T.LOST): _S.RELEASING,
    (_S.READY, _T.DRAIN): _S.DRAINING,
    (_S.DRAINING, _T.STOP): _S.STOPPING,
    (_S.DRAINING, _T.LOST): _S.RELEASING,
    (_S.STOPPING, _T.LOST): _S.RELEASING,
    (_S.RELEASING, _T.RETRY_LATER): _S.BACKOFF,
    (_S.RELEASING, _T.GIVE_UP): _S.ABANDONED,
    (_S.RELEASING, _T.FORGET): _S.GONE,
    (_S.BACKOFF, _T.RETRY): _S.PENDING,
    (_S.BACKOFF, _T.FORGET): _S.GONE,
    (_S.ABANDONED, _T.FORGET): _S.GONE,
}

#: States in which the replica's devices are claimed.
HOLDS_DEVICES = frozenset({_S.STARTING, _S.READY, _S.DRAINING, _S.STOPPING, _S.RELEASING})

#: States in which a process of the replica's current epoch may be alive.
MAY_RUN = HOLDS_DEVICES - {_S.RELEASING}


class IllegalTransition(Exception):
    """The table has no such step. Callers know `states_before`; this is a bug if it escapes."""


def states_before(trigger: Trigger) -> frozenset[ReplicaState]:
    """The states in which `trigger` is possible."""
    return frozenset(state for state, possible in TRANSITIONS if possible is trigger)


def advance(state: ReplicaState, trigger: Trigger) -> ReplicaState:
    """The state after `trigger`. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(f"{state} has no step for {trigger!r}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {_S.PENDING}"]
    for (state, trigger), target in TRANSITIONS.items():
        end = "[*]" if target is _S.GONE else target.value
        lines.append(f"    {state.value} --> {end}: {trigger.value}")
    return "\n".join(lines)
