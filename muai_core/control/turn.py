"""One step under way: the tables, what has been asked for so far, and what must be looked at again.

Everything that moves a replica through its life is here, one short procedure each. They assume that
the caller has checked the transition; `facts` and `plane` are the callers.
"""

from heapq import heappop, heappush
from typing import Any

from msgspec import Struct, field, structs

from muai_core.control import recovery
from muai_core.control.actions import (
    Action,
    ConfirmRelease,
    DrainReplica,
    StartReplica,
    StopReplica,
)
from muai_core.control.fleet import Views
from muai_core.control.lifecycle import ReplicaState, Trigger, advance
from muai_core.control.routes import ModelRoutes
from muai_core.control.state import Loss, Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.placement import Placement
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.failure import Failure
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss


class Timers(Struct):
    """When replicas are due, earliest first. Derived from the state, so never part of it."""

    heap: list[tuple[float, str]] = field(default_factory=list)

    def add(self, replica: Replica) -> None:
        if replica.due_at_s is not None:
            heappush(self.heap, (replica.due_at_s, replica.id))

    def next_due_at_s(self, state: State) -> float | None:
        """The earliest entry that still holds; entries that were overtaken are dropped."""
        while self.heap:
            due_at_s, replica_id = self.heap[0]
            replica = state.replicas.get(replica_id)
            if replica is not None and replica.due_at_s == due_at_s:
                return due_at_s
            heappop(self.heap)
        return None

    def take_due(self, state: State) -> list[str]:
        """Ids of the replicas that are due now, earliest first, each once."""
        taken: dict[str, None] = {}
        while (due_at_s := self.next_due_at_s(state)) is not None and due_at_s <= state.now_s:
            taken[heappop(self.heap)[1]] = None
        return list(taken)


class Turn(Struct, kw_only=True):
    """The working set of the plane. Dicts serve as ordered sets, so iteration has an order."""

    state: State
    strategy: AllocationStrategy
    policy: RecoveryPolicy
    timers: Timers = field(default_factory=Timers)
    #: The fleet as policies see it. Derived as well.
    views: Views = field(default_factory=Views)
    actions: list[Action] = field(default_factory=list)
    #: Deployments whose replicas or wishes changed.
    dirty: dict[str, None] = field(default_factory=dict)
    #: Whether a pending replica might find devices that it did not find before.
    capacity_changed: bool = False
    #: Devices that were seen in this step and may be due for a self-test.
    to_check: dict[str, None] = field(default_factory=dict)
    #: Deployments whose part of the routing table might have changed.
    reroute: dict[str, None] = field(default_factory=dict)
    #: The parts that the published routing table was put together from.
    published: dict[str, ModelRoutes] = field(default_factory=dict)
    #: Two indices over `state.replicas`: ids by deployment, and the ids of all pending ones.
    members: dict[str, dict[str, None]] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)

    def index(self) -> None:
        """Derive from the state, just restored, everything that is not part of it."""
        restored, self.state.replicas = self.state.replicas, {}
        for replica in restored.values():
            self.store(replica)
        # A state is stored between steps, when there is nothing left to look at again.
        self.dirty, self.reroute = {}, {}

    def store(self, replica: Replica) -> Replica:
        """Put a record into its table and everything that follows from it up to date."""
        before = self.state.replicas.get(replica.id)
        if before is None or before.due_at_s != replica.due_at_s:
            self.timers.add(replica)
        self.state.replicas[replica.id] = replica
        self.members.setdefault(replica.deployment, {})[replica.id] = None
        if replica.state is ReplicaState.PENDING:
            self.pending[replica.id] = None
        else:
            self.pending.pop(replica.id, None)
        self.touch(replica.deployment)
        return replica

    def forget(self, replica: Replica) -> None:
        """Take a record out of its table and its indices."""
        del self.state.replicas[replica.id]
        del self.members[replica.deployment][replica.id]
        self.pending.pop(replica.id, None)
        self.touch(replica.deployment)

    def touch(self, deployment: str) -> None:
        """Look at this deployment again before the step ends."""
        self.dirty[deployment] = None
        self.reroute[deployment] = None

    def move(self, replica: Replica, trigger: Trigger, **changes: Any) -> Replica:
        """Take one step of the lifecycle table; `due_at_s` is cleared unless given."""
        changes.setdefault("due_at_s", None)
        state = advance(replica.state, trigger)
        moved = structs.replace(replica, state=state, since_s=self.state.now_s, **changes)
        if state is ReplicaState.GONE:
            self.forget(replica)
            return moved
        return self.store(moved)

    def create(self, deployment: str) -> Replica:
        """A new replica of the deployment's current generation, under an id never used before."""
        number = self.state.numbers.get(deployment, -1) + 1
        self.state.numbers[deployment] = number
        return self.store(
            Replica(
                id=f"{deployment}.{number}",
                deployment=deployment,
                generation=self.state.deployments[deployment].generation,
                number=number,
                since_s=self.state.now_s,
            )
        )

    def start(self, replica: Replica, placement: Placement) -> None:
        """Claim the devices for a new epoch and ask for its start."""
        epoch = replica.epoch + 1
        deadline_at_s = self.state.now_s + self.state.settings.start_deadline_s
        self.state.ledger.claim(replica.id, epoch, placement)
        self.views.outdated |= dict.fromkeys(placement.devices)
        self.move(
            replica,
            Trigger.PLACED,
            epoch=epoch,
            placement=placement,
            restarts=replica.restarts + (replica.epoch > 0),
            due_at_s=deadline_at_s,
            blocked=None,
            retry_at_s=None,
            condemned=None,
            pid=None,
            spawned_at_s=None,
            endpoint=None,
            stage=None,
            detail=None,
        )
        self.actions.append(
            StartReplica(
                replica_id=replica.id,
                epoch=epoch,
                deadline_at_s=deadline_at_s,
                deployment=_shaped(self.state.deployments[replica.deployment], placement),
                placement=placement,
                devices=tuple(self.state.devices[uuid].device for uuid in placement.devices),
            )
        )

    def drain(self, replica: Replica) -> None:
        """Out of the routing table; requests in flight get `drain_s` to finish."""
        deadline_at_s = self.state.now_s + self.state.settings.drain_s
        self.move(replica, Trigger.DRAIN, retiring=True, due_at_s=deadline_at_s)
        self.actions.append(
            DrainReplica(replica_id=replica.id, epoch=replica.epoch, deadline_at_s=deadline_at_s)
        )

    def stop(self, replica: Replica, reason: str, **changes: Any) -> None:
        """Tell the process to end. Its devices stay claimed until that is proven."""
        stopping = self.move(replica, Trigger.STOP, **changes)
        self.ask_to_stop(stopping, self.state.settings.stop_grace_s, reason)

    def ask_to_stop(self, replica: Replica, grace_s: float, reason: str) -> None:
        deadline_at_s = self.state.now_s + grace_s + self.state.settings.stop_margin_s
        self.store(structs.replace(replica, due_at_s=deadline_at_s))
        self.stop_epoch(replica.id, replica.epoch, deadline_at_s, grace_s, reason)

    def stop_epoch(
        self, replica_id: str, epoch: int, deadline_at_s: float, grace_s: float, reason: str
    ) -> None:
        self.actions.append(
            StopReplica(
                replica_id=replica_id,
                epoch=epoch,
                deadline_at_s=deadline_at_s,
                grace_s=grace_s,
                reason=reason,
            )
        )

    def lose(
        self, replica: Replica, cause: str, log_tail: str = "", failure: Failure | None = None
    ) -> None:
        """The process is said to be gone: have that proven, and decide what to do afterwards."""
        changes: dict[str, Any] = {"pid": None, "endpoint": None}
        if replica.retiring or replica.deployment not in self.state.deployments:
            changes["retiring"] = True
        else:
            changes |= self._failure(replica, cause, log_tail, failure)
        self.ask_to_release(self.move(replica, Trigger.LOST, **changes))

    def _failure(
        self, replica: Replica, cause: str, log_tail: str, failure: Failure | None
    ) -> dict[str, Any]:
        now_s, settings = self.state.now_s, self.state.settings
        was_stable = (
            replica.state is ReplicaState.READY
            and now_s - replica.since_s >= settings.stable_after_s
        )
        failures = 1 if was_stable else replica.failures + 1
        full_cause = f"{replica.condemned}; {cause}" if replica.condemned else cause
        decision, complaint = recovery.decide(
            self.policy,
            ReplicaLoss(
                replica_id=replica.id,
                epoch=replica.epoch,
                deployment=self.state.deployments[replica.deployment],
                cause=full_cause,
                failure=failure,
                failures=failures,
                jitter=recovery.jitter(replica.id, replica.epoch),
                options=settings.policy_options,
            ),
            settings.backoff_initial_s,
            settings.backoff_max_s,
        )
        if complaint is not None:
            self.complain(f"recovery policy {self.policy.name}")
        return {
            "failures": failures,
            "loss": Loss(now_s, replica.epoch, full_cause, log_tail, failure),
            "retry_at_s": None if isinstance(decision, GiveUp) else now_s + decision.delay_s,
            "recovery_reason": decision.reason,
        }

    def ask_to_release(self, replica: Replica) -> None:
        assert replica.placement is not None
        deadline_at_s = self.state.now_s + self.state.settings.release_deadline_s
        self.store(structs.replace(replica, due_at_s=deadline_at_s))
        self.actions.append(
            ConfirmRelease(
                replica_id=replica.id,
                epoch=replica.epoch,
                deadline_at_s=deadline_at_s,
                devices=tuple(dict.fromkeys(replica.placement.devices)),
            )
        )

    def release(self, replica: Replica) -> None:
        """Its devices are proven free. What comes next was decided when it was lost."""
        assert replica.placement is not None
        self.state.ledger.release(replica.id, replica.epoch, replica.placement.devices)
        self.views.outdated |= dict.fromkeys(replica.placement.devices)
        self.capacity_changed = True
        for uuid in replica.placement.devices:
            freed = structs.replace(self.state.devices[uuid], freed_at_s=self.state.now_s)
            self.state.devices[uuid] = freed
        if replica.retiring:
            self.move(replica, Trigger.FORGET)
        elif replica.retry_at_s is None:
            self.move(replica, Trigger.GIVE_UP, placement=None)
        else:
            due_at_s = max(replica.retry_at_s, self.state.now_s)
            self.move(replica, Trigger.RETRY_LATER, placement=None, due_at_s=due_at_s)

    def retire(self, replica: Replica, reason: str) -> None:
        """It is not wanted any more, whatever it is doing."""
        match replica.state:
            case ReplicaState.PENDING | ReplicaState.BACKOFF | ReplicaState.ABANDONED:
                self.move(replica, Trigger.FORGET)
            case ReplicaState.STARTING:
                self.stop(replica, reason, retiring=True)
            case ReplicaState.READY:
                self.drain(replica)
            case _:
                self.store(structs.replace(replica, retiring=True))

    def complain(self, about: str) -> None:
        self.state.policy_failures[about] = self.state.policy_failures.get(about, 0) + 1


def _shaped(deployment: Deployment, placement: Placement) -> Deployment:
    """The wish with the one shape that was chosen for this replica."""
    shape = placement.shape
    return structs.replace(
        deployment,
        tensor_parallel_size=shape.tensor_parallel_size,
        pipeline_parallel_size=shape.pipeline_parallel_size,
    )
