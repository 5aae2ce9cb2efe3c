"""The control plane against a small hostile world, driven by Hypothesis.

The world runs "processes" on request, loses outcomes, repeats old ones, lies within what the
interface allows, and knows the truth: which process is alive on which device. After every step the
invariants must hold, a plane restored from the snapshot must have done exactly the same, and no
device may hold more living processes' bytes than it has. At the end faults stop, and every replica
that can be placed must become ready.

The examples are the same in every run; `MUAI_TEST_EFFORT=20` runs twenty times as many new ones.
"""

import os
from typing import Any

import msgspec
from hostile_world import (
    DEVICES,
    FINDINGS,
    GIB,
    OUTCOMES,
    TOTAL,
    fleets,
    hostile_events,
    outcome,
    some_devices,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec import structs

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.fleet import fleet_of
from muai_core.control.invariants import violations
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.model.placement import Unplaceable
from muai_core.planning.balanced import Balanced
from muai_core.planning.place import place_all

EFFORT = int(os.environ.get("MUAI_TEST_EFFORT", "1"))
COUNTERS = ("now_s", "applied", "stale", "rejected")


class Incarnation:
    """One started epoch as the world knows it: what it was told and whether it lives."""

    def __init__(self, start: act.StartReplica) -> None:
        self.alive = True
        self.claims = dict(zip(start.placement.devices, start.placement.claims, strict=True))
        self.orders = {"StartReplica"}


class PlaneMachine(RuleBasedStateMachine):
    @initialize(devices=some_devices, deployments=fleets)
    def begin(self, devices: dict[int, Any], deployments: list[Deployment]) -> None:
        self.plane = ControlPlane(
            ControlSettings(start_deadline_s=60.0, drain_s=10.0, memory_reserve_bytes=GIB),
            Balanced(),
            Ladder(),
        )
        self.now_s = 0.0
        self.world: dict[tuple[str, int], Incarnation] = {}
        self.last_epoch: dict[str, int] = {}
        self.gone: set[str] = set()
        self.history: list[ev.Event] = []
        self.checks: list[act.CheckDevice] = []
        self.old_sightings: list[ev.ReplicasObserved] = []
        self._observe({**dict.fromkeys(range(7), (Health.HEALTHY, None)), **devices}, self.now_s)
        self.desire(deployments)

    # --- the legal world ------------------------------------------------------------------------

    @rule(deployments=fleets)
    def desire(self, deployments: list[Deployment]) -> None:
        self._step(ev.DeploymentsDesired(deployments=tuple(deployments)))

    @rule(devices=some_devices, age_s=st.sampled_from([0.0, 0.0, 3.0]))
    def observe_devices(self, devices: dict[int, Any], age_s: float) -> None:
        observed_at_s = max(0.0, self.now_s - age_s)
        newest_s = self.plane.state.sources["gpus"].observed_at_s
        assert newest_s is not None
        self._step()
        before = _essence(self.plane)
        self._observe(devices, observed_at_s)
        if observed_at_s < newest_s:
            assert _essence(self.plane) == before

    @rule(data=st.data(), batch=st.integers(1, 4))
    def outcomes(self, data: st.DataObject, batch: int) -> None:
        """What the plane asked for comes true, in any order, several in one batch."""
        events: list[ev.Event] = []
        for _ in range(batch):
            open_orders = [(key, order) for key in self.world for order in self._orders(key)]
            if not open_orders:
                break
            key, order = data.draw(st.sampled_from(open_orders))
            good = data.draw(st.sampled_from([True, True, True, False]))
            events.append(self._fulfil(key, order, good))
        self._step(*events)

    @rule(moves=st.integers(1, 12))
    def all_goes_well(self, moves: int) -> None:
        """For a while: this is how the world gets to second and third epochs."""
        for _ in range(moves):
            self._one_quiet_move()

    @rule(data=st.data())
    def lose_an_order(self, data: st.DataObject) -> None:
        """The driver forgets what it was asked; only the deadline brings it back."""
        open_orders = [(key, order) for key in self.world for order in self._orders(key)]
        if not open_orders:
            return
        key, order = data.draw(st.sampled_from(open_orders))
        self.world[key].orders.discard(order)

    @rule(data=st.data(), reported=st.booleans())
    def crash(self, data: st.DataObject, reported: bool) -> None:
        living = [key for key, one in self.world.items() if one.alive]
        if not living:
            return
        key = data.draw(st.sampled_from(living))
        self.world[key].alive = False
        if reported:
            self._step(ev.ReplicaExited(replica_id=key[0], epoch=key[1], cause="killed"))

    @rule(keep=st.booleans())
    def observe_replicas(self, keep: bool) -> None:
        seen = ev.ReplicasObserved(observed_at_s=self.now_s, sightings=self._sightings())
        if keep:
            self.old_sightings.append(seen)
        else:
            self._see_replicas(seen)

    @rule()
    def observation_comes_late(self) -> None:
        if not self.old_sightings:
            return
        self._see_replicas(self.old_sightings.pop())

    @rule(dt_s=st.sampled_from([0.01, 1.0, 7.0, 61.0, 5000.0]))
    def time_passes(self, dt_s: float) -> None:
        self.now_s += dt_s
        self._step()

    @rule()
    def wake_up(self) -> None:
        due_at_s = self.plane.next_wakeup()
        if due_at_s is None:
            return
        self.now_s = max(self.now_s, due_at_s)
        self._step()
        following = self.plane.next_wakeup()
        assert following is None or following > self.now_s

    # --- the hostile world ----------------------------------------------------------------------

    @rule(data=st.data())
    def old_event_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.history))
        if not self._false_proof(event):
            self._step(event)

    @rule(data=st.data(), kind=st.sampled_from(list(OUTCOMES)))
    def outcome_out_of_turn(self, data: st.DataObject, kind: type[ev.ReplicaFact]) -> None:
        """Any outcome of anything that was ever started, whatever has become of it since."""
        if self.world:
            event = outcome(kind, data.draw(st.sampled_from(list(self.world))))
            if not self._false_proof(event):
                self._step(event)

    @rule()
    def overtaken_outcomes(self) -> None:
        """Every outcome of every earlier epoch, and signs of life of what is ending."""
        replicas = self.plane.state.replicas
        late: list[ev.ReplicaFact] = []
        for key in self.world:
            replica = replicas.get(key[0])
            if replica is None or key[1] < replica.epoch:
                late += [outcome(kind, key) for kind in OUTCOMES]
            elif replica.state in (ReplicaState.STOPPING, ReplicaState.RELEASING):
                signs = (ev.ReplicaProgressed, ev.ReplicaReady, ev.ReplicaDrained)
                late += [outcome(kind, key) for kind in signs]
        self._step()
        before = _essence(self.plane)
        assert self._step(*(event for event in late if not self._false_proof(event))) == []
        assert _essence(self.plane) == before

    @rule(event=hostile_events())
    def hostile_event(self, event: ev.Event) -> None:
        if self._false_proof(event):
            return
        self._step()
        state = self.plane.state
        rejected, before = sum(state.rejected.values()), _essence(self.plane)
        actions = self._step(event)
        if sum(state.rejected.values()) > rejected:
            assert actions == []
            assert _essence(self.plane) == before

    @rule(
        number=st.integers(0, 6), finding=st.sampled_from(FINDINGS), age_s=st.sampled_from([0, 9])
    )
    def device_faulted(self, number: int, finding: Finding, age_s: float) -> None:
        """Nothing that runs is given up for it; what is failed gets nothing new."""
        uuid, observed_at_s = DEVICES[number].uuid, max(0.0, self.now_s - age_s)
        fault = ev.DeviceFaulted(
            source="gpus", uuid=uuid, observed_at_s=observed_at_s, finding=finding
        )
        self._step()
        applied = self.plane.state.applied.get("DeviceFaulted", 0)
        held = dict(self.plane.state.replicas)
        self._step(fault)
        assert all(self.plane.state.replicas[name].state is r.state for name, r in held.items())
        record = self.plane.state.devices.get(uuid)
        if record is not None and self.plane.state.applied.get("DeviceFaulted", 0) > applied:
            assert record.health.rank >= finding.severity.rank

    @rule(outcome=st.sampled_from(["passed", "failed", "nothing", "lost"]))
    def self_test_ends(self, outcome: str) -> None:
        if not self.checks:
            return
        asked = self.checks.pop(0)
        if outcome == "lost":
            return
        failed = structs.replace(FINDINGS[0], kind="self_test", clears="checked")
        self._step(
            ev.DeviceChecked(
                uuid=asked.device.uuid,
                check=asked.check,
                finding=failed if outcome == "failed" else None,
                inconclusive="no library" if outcome == "nothing" else None,
            )
        )

    @rule(number=st.integers(0, 6))
    def operator_reinstates(self, number: int) -> None:
        self._step(ev.DeviceReinstated(uuid=DEVICES[number].uuid))

    @rule(data=st.data())
    def false_exit(self, data: st.DataObject) -> None:
        """An exit is reported of a process that lives: it costs a restart, never a device."""
        living = [key for key, one in self.world.items() if one.alive]
        if not living:
            return
        key = data.draw(st.sampled_from(living))
        self._step(ev.ReplicaExited(replica_id=key[0], epoch=key[1], cause="so they say"))

    @precondition(lambda self: len(self.history) > 30)
    @rule(sure=st.integers(0, 20))
    def shut_down(self, sure: int) -> None:
        if sure == 20:
            self._step(ev.ShutdownRequested())

    # --- the end: faults stop -------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "plane"):
            return
        self.now_s += 1.0
        self._observe(dict.fromkeys(range(7), (Health.HEALTHY, None)), self.now_s)
        for device in DEVICES:
            self._step(ev.DeviceReinstated(uuid=device.uuid))
        self._come_to_rest()
        self._check_liveness()
        self._step(ev.ShutdownRequested())
        self._come_to_rest()
        assert self.plane.state.replicas == {}
        assert self.plane.state.ledger.claims == {}
        assert not any(one.alive for one in self.world.values())

    def _come_to_rest(self) -> None:
        for _ in range(2000):
            if not self._one_quiet_move():
                return
        raise AssertionError("the plane does not come to rest")

    def _check_liveness(self) -> None:
        state = self.plane.state
        for replica in state.replicas.values():
            assert replica.generation == state.deployments[replica.deployment].generation
            if replica.state is ReplicaState.READY:
                continue
            assert replica.state is ReplicaState.PENDING, replica
            request = self.plane._request(replica)
            [(answer, _)] = place_all([request], fleet_of(state), self.plane._turn.strategy)
            assert isinstance(answer, Unplaceable), answer

    def _one_quiet_move(self) -> bool:
        for key in list(self.world):
            for order in self._orders(key):
                self._step(self._fulfil(key, order, good=True))
                return True
        if any(one.alive and not self._owned(key) for key, one in self.world.items()):
            self._step(ev.ReplicasObserved(observed_at_s=self.now_s, sightings=self._sightings()))
        due_at_s = self.plane.next_wakeup()
        if due_at_s is None:
            # Whatever died unnoticed shows in the next observation.
            self.now_s += 1.0
            return bool(
                self._step(
                    ev.ReplicasObserved(observed_at_s=self.now_s, sightings=self._sightings())
                )
            )
        self.now_s = max(self.now_s, due_at_s)
        self._step()
        return True

    # --- how it is done -------------------------------------------------------------------------

    def _observe(self, devices: dict[int, Any], observed_at_s: float) -> None:
        chosen = sorted(devices)
        inventory = Inventory(
            source="gpus",
            observed_at_s=observed_at_s,
            devices=tuple(DEVICES[i] for i in chosen),
            readings=tuple(
                DeviceReading(
                    uuid=DEVICES[i].uuid,
                    findings=_conditions(devices[i][0]),
                    memory_foreign_bytes=devices[i][1],
                )
                for i in chosen
            ),
        )
        self._step(ev.DevicesObserved(inventory=inventory))

    def _see_replicas(self, seen: ev.ReplicasObserved) -> None:
        """The truth of some time: nothing that lives may be given up for it."""
        self._step()
        newest_s = self.plane.state.replicas_observed_at_s
        before, held = _essence(self.plane), dict(self.plane.state.replicas)
        self._step(seen)
        if newest_s is not None and seen.observed_at_s < newest_s:
            assert _essence(self.plane) == before
        for name, replica in self.plane.state.replicas.items():
            if name in held and replica.state is not held[name].state:
                assert not self.world[name, held[name].epoch].alive

    def _orders(self, key: tuple[str, int]) -> list[str]:
        return sorted(self.world[key].orders)

    def _owned(self, key: tuple[str, int]) -> bool:
        replica = self.plane.state.replicas.get(key[0])
        return replica is not None and replica.epoch == key[1] and replica.placement is not None

    def _fulfil(self, key: tuple[str, int], order: str, good: bool) -> ev.Event:
        one = self.world[key]
        about: dict[str, Any] = {"replica_id": key[0], "epoch": key[1]}
        one.orders.discard(order)
        match order:
            case "StartReplica" if good and one.alive:
                return ev.ReplicaReady(**about, endpoint="http://127.0.0.1:1")
            case "StartReplica":
                one.alive = False
                return ev.ReplicaStartFailed(**about, cause="no")
            case "DrainReplica" if good:
                return ev.ReplicaDrained(**about)
            case "ConfirmRelease":
                one.alive = False
                return ev.ReplicaReleased(**about)
        one.alive = False
        return ev.ReplicaExited(**about, cause="gone")

    def _sightings(self) -> tuple[ev.ReplicaSighting, ...]:
        return tuple(ev.ReplicaSighting(*key) for key, one in self.world.items() if one.alive)

    def _false_proof(self, event: ev.Event) -> bool:
        """A proof of release must be true: the interface asks that of drivers."""
        if not isinstance(event, ev.ReplicaReleased):
            return False
        one = self.world.get((event.replica_id, event.epoch))
        return one is not None and one.alive

    def _step(self, *events: ev.Event) -> list[act.Action]:
        twin = ControlPlane.restore(self.plane.snapshot(), Balanced(), Ladder())
        held = _held(self.plane)
        actions = self.plane.step(self.now_s, events)
        assert twin.step(self.now_s, events) == actions
        assert twin.snapshot() == self.plane.snapshot()
        assert twin.next_wakeup() == self.plane.next_wakeup()
        assert violations(self.plane.state) == []
        self.history += events
        self._check_releases(held, events)
        self._check_identities()
        for action in actions:
            self._carry_out(action)
        self._check_the_truth()
        return actions

    def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.CheckDevice():
                self.checks.append(action)
                return
            case act.StartReplica():
                assert (action.replica_id, action.epoch) not in self.world
                self.world[action.replica_id, action.epoch] = Incarnation(action)
            case act.ReplicaIntent():
                one = self.world.get((action.replica_id, action.epoch))
                if one is not None:
                    one.orders.add(type(action).__name__)
                if isinstance(action, act.StopReplica | act.ConfirmRelease) and one is not None:
                    one.orders.discard("StartReplica")

    def _check_releases(self, held: set[Any], events: tuple[ev.Event, ...]) -> None:
        proven = {(e.replica_id, e.epoch) for e in events if isinstance(e, ev.ReplicaReleased)}
        assert {(name, epoch) for _, name, epoch in held - _held(self.plane)} <= proven

    def _check_identities(self) -> None:
        replicas = self.plane.state.replicas
        assert not self.gone & set(replicas)
        self.gone |= set(self.last_epoch) - set(replicas)
        for name, replica in replicas.items():
            assert replica.epoch >= self.last_epoch.get(name, 0)
            self.last_epoch[name] = replica.epoch

    def _check_the_truth(self) -> None:
        used: dict[str, int] = {}
        for one in self.world.values():
            for uuid, claim in one.claims.items() if one.alive else ():
                used[uuid] = used.get(uuid, 0) + claim
        assert all(total <= TOTAL for total in used.values()), used


def _conditions(health: Health) -> tuple[Finding, ...]:
    if health is Health.HEALTHY:
        return ()
    return (Finding(kind="seen", severity=health, reason=health.value, clears="at_once"),)


def _held(plane: ControlPlane) -> set[Any]:
    claims = plane.state.ledger.claims
    return {(uuid, c.replica_id, c.epoch) for uuid, on in claims.items() for c in on.values()}


def _essence(plane: ControlPlane) -> Any:
    """The state without the clock and the counters."""
    state = msgspec.json.decode(plane.snapshot())
    return {name: value for name, value in state.items() if name not in COUNTERS}


PlaneMachine.TestCase.settings = settings(
    max_examples=60 * EFFORT,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPlane = PlaneMachine.TestCase
