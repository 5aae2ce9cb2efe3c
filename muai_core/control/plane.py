"""The control plane: `step` turns facts into intents.

    events ──▶ absorb ──▶ expire ──▶ reconcile ──▶ place ──▶ self-tests ──▶ publish ──▶ actions
               facts.py   timers     reconcile.py  planning/ self_tests.py  routes.py
               devices.py

Given the same first snapshot and the same sequence of (now, events), `step` returns the same
actions and the same digest, in every process. So nothing here knows a clock, chance, a set's order
or the world: time comes in as an argument and goes out through `next_wakeup`, ids come from
counters, jitter from a stable hash. The rest follows from that sentence: `muai plan` is a step
without an executor, `muai replay` is the journal through `step` again.

Where to look: the states of a replica and what may follow what in `lifecycle`; what is held by whom
in `ledger`; what an event changes in `facts` and, about devices, in `devices`; what a device's
health is in `health`; how a replica is moved in `turn`; what is wanted in
`reconcile`; when a lost replica returns in `recovery`; what must always hold in `invariants`.
"""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec
from msgspec import structs

from muai_core.control import facts, routes, self_tests
from muai_core.control.actions import Action, PublishRoutes
from muai_core.control.events import Event
from muai_core.control.lifecycle import HOLDS_DEVICES, ReplicaState, Trigger
from muai_core.control.reconcile import reconcile
from muai_core.control.state import ControlSettings, Replica, State
from muai_core.control.turn import Turn
from muai_core.control.verdict import Illegal, Stale
from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.placement import Placement
from muai_core.planning.place import place_all
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.recovery import RecoveryPolicy

# Insertion order is part of the state: it decides who is placed first, so it must survive.
_ENCODER = msgspec.json.Encoder()
#: How many different reasons for an ignored event are told apart.
_COUNTED_REASONS = 200


class ControlPlane:
    """One pure state machine. It owns its state; callers read it and never change it."""

    def __init__(
        self,
        settings: ControlSettings,
        strategy: AllocationStrategy,
        policy: RecoveryPolicy,
    ) -> None:
        self._turn = Turn(state=State(settings=settings), strategy=strategy, policy=policy)

    @property
    def state(self) -> State:
        return self._turn.state

    def step(self, now_s: float, events: Iterable[Event]) -> list[Action]:
        """Absorb the facts and return what is to be done about them, in order.

        `now_s` is in seconds on any clock that does not run backwards; if it does, it is taken to
        stand still. An illegal event is rejected whole and counted. Never raises on legal input.
        """
        turn = self._turn
        turn.state.now_s = max(turn.state.now_s, float(now_s))
        turn.actions = []
        for event in events:
            self._absorb(event)
        self._expire()
        self._reconcile()
        self._place()
        self_tests.order(self._turn)
        self._publish()
        return turn.actions

    def next_wakeup(self) -> float | None:
        """When `step` must be called even if nothing happens, on the same clock; None: never."""
        return self._turn.timers.next_due_at_s(self._turn.state)

    def snapshot(self) -> bytes:
        """The whole state as JSON: planes with the same history give the same bytes."""
        return _ENCODER.encode(self._turn.state)

    def digest(self) -> str:
        """A fingerprint of the state, equal in every process that has seen the same."""
        return blake2b(self.snapshot(), digest_size=16).hexdigest()

    @classmethod
    def restore(
        cls, snapshot: bytes, strategy: AllocationStrategy, policy: RecoveryPolicy
    ) -> "ControlPlane":
        """A plane that goes on from `snapshot`. Raises msgspec.ValidationError if it is none."""
        state = msgspec.json.decode(snapshot, type=State)
        plane = cls(state.settings, strategy, policy)
        plane._turn.state = state
        plane._turn.index()
        plane._turn.published = {
            name: part for name in state.deployments if (part := plane._routes_of(name)) is not None
        }
        return plane

    # --- the phases of a step -------------------------------------------------------------------

    def _absorb(self, event: Event) -> None:
        state = self._turn.state
        verdict = facts.apply(self._turn, event)
        kind = type(event).__name__
        match verdict:
            case None:
                _count(state.applied, kind)
            case Stale(why=why):
                _count(state.stale, f"{kind}: {why}")
            case Illegal(why=why):
                _count(state.rejected, f"{kind}: {why}")

    def _expire(self) -> None:
        """Act on every deadline that has passed. No outcome means: ask again, or ask for more."""
        turn = self._turn
        for replica_id in turn.timers.take_due(turn.state):
            replica = turn.state.replicas[replica_id]
            match replica.state:
                case ReplicaState.STARTING:
                    cause = f"did not start within {turn.state.settings.start_deadline_s:g} s"
                    turn.stop(replica, cause, condemned=cause)
                case ReplicaState.DRAINING:
                    turn.stop(replica, "requests in flight did not finish in time")
                case ReplicaState.STOPPING:
                    turn.ask_to_stop(replica, 0.0, "it did not stop in time")
                case ReplicaState.RELEASING:
                    turn.ask_to_release(replica)
                case ReplicaState.BACKOFF:
                    turn.move(replica, Trigger.RETRY)

    def _reconcile(self) -> None:
        """Bring each deployment that changed nearer to what is desired."""
        turn = self._turn
        while turn.dirty:
            name = next(iter(turn.dirty))
            del turn.dirty[name]
            replicas = [turn.state.replicas[key] for key in turn.members.get(name, {})]
            wanted = reconcile(
                turn.state.deployments.get(name),
                replicas,
                # What blocked a replica may be gone by now; `_place` finds out and comes back here.
                make_room=not turn.capacity_changed,
            )
            for replica_id in wanted.retire:
                turn.retire(turn.state.replicas[replica_id], "no longer desired")
            for _ in range(wanted.create):
                turn.create(name)

    def _place(self) -> None:
        """Find devices for pending replicas: for new ones always, for blocked ones on change."""
        turn = self._turn
        pending = self._to_be_placed()
        requests = [self._request(replica) for replica in pending]
        fleet = turn.views.fleet(turn.state) if pending else Fleet(())
        answers = place_all(requests, fleet, turn.strategy) if pending else []
        for replica, (answer, complaint) in zip(pending, answers, strict=True):
            if complaint is not None:
                turn.complain(f"allocation strategy {turn.strategy.name}")
            if isinstance(answer, Placement):
                turn.start(replica, answer)
                continue
            turn.touch(replica.deployment)
            if replica.blocked != answer:
                turn.store(structs.replace(replica, blocked=answer))
        turn.capacity_changed = False
        # A replica that found no devices may be a reason to let an outdated one make room.
        self._reconcile()

    def _to_be_placed(self) -> list[Replica]:
        """In the order of the deployments, then of the replicas' numbers."""
        turn = self._turn
        pending = [turn.state.replicas[key] for key in turn.pending]
        if not turn.capacity_changed:
            pending = [replica for replica in pending if replica.blocked is None]
        if len(pending) > 1:
            position = {name: place for place, name in enumerate(turn.state.deployments)}
            pending.sort(key=lambda replica: (position[replica.deployment], replica.number))
        return pending

    def _request(self, replica: Replica) -> PlacementRequest:
        turn = self._turn
        siblings = [
            turn.state.replicas[key]
            for key in turn.members[replica.deployment]
            if key != replica.id and turn.state.replicas[key].state in HOLDS_DEVICES
        ]
        return PlacementRequest(
            replica_id=replica.id,
            deployment=turn.state.deployments[replica.deployment],
            sibling_nodes=tuple(
                turn.state.devices[sibling.placement.devices[0]].device.node
                for sibling in siblings
                if sibling.placement is not None
            ),
            options=turn.state.settings.strategy_options,
        )

    def _publish(self) -> None:
        """Hand out a new routing table if it says anything new."""
        turn = self._turn
        changed = False
        for name in turn.reroute:
            part = self._routes_of(name)
            changed = changed or part != turn.published.get(name)
            if part is None:
                turn.published.pop(name, None)
            else:
                turn.published[name] = part
        turn.reroute = {}
        if changed:
            parts = (turn.published[name] for name in turn.state.deployments)
            turn.state.routes = routes.assemble(turn.state.routes.version + 1, parts)
            # First, so that nothing is drained or stopped while it is still being routed to.
            turn.actions.insert(0, PublishRoutes(table=turn.state.routes))

    def _routes_of(self, name: str) -> routes.ModelRoutes | None:
        turn = self._turn
        deployment = turn.state.deployments.get(name)
        if deployment is None:
            return None
        replicas = [turn.state.replicas[key] for key in turn.members.get(name, {})]
        return routes.routes_of(deployment, replicas)


def _count(table: dict[str, int], key: str) -> None:
    """Count one more. Reasons may name devices without end; what is beyond the limit is summed."""
    if key not in table and len(table) >= _COUNTED_REASONS:
        key = f"{key.partition(':')[0]}: other reasons"
    table[key] = table.get(key, 0) + 1
