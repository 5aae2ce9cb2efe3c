"""Device health under random stories of readings, happenings, self-tests, faults and operators.

The examples are the same in every run; `MUAI_TEST_EFFORT=20` runs twenty times as many new ones.
"""

import os
import random
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.fleet import fleet_of
from muai_core.control.invariants import violations
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings, HealthSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.model.health import RECOVERY_ACTION, Clears, Finding, Health
from muai_core.planning.balanced import Balanced

EFFORT = int(os.environ.get("MUAI_TEST_EFFORT", "1"))
STORIES = settings(
    max_examples=150 * EFFORT,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

GIB = 1024**3
GPUS = tuple(
    Device(
        uuid=f"gpu{number}",
        node="n1",
        index=number,
        kind="gpu",
        platform="cuda",
        name="GPU",
        memory_total_bytes=80 * GIB,
    )
    for number in range(4)
)
WISH = Deployment(
    name="chat",
    source="weights",
    engine="vllm",
    replicas=2,
    platforms=("cuda",),
    memory_bytes_per_device=40 * GIB,
)


def finding(
    severity: Health, clears: Clears, kind: str = "xid", code: int | None = None, limit: int = 0
) -> Finding:
    return Finding(
        kind=kind,
        code=code,
        severity=severity,
        reason=f"{kind} {code}",
        clears=clears,
        repeat_limit=limit,
    )


FATAL = finding(Health.FAILED, "repaired", code=79)
HAPPENINGS = [
    FATAL,
    finding(Health.FAILED, "checked", code=48),
    finding(Health.SUSPECT, "checked", code=94),
    finding(Health.DEGRADED, "clean", code=92),
    finding(Health.HEALTHY, "clean", code=43),
    finding(Health.HEALTHY, "clean", code=31, limit=2),
]
ASKS = finding(Health.FAILED, "repaired", RECOVERY_ACTION, 2)
CONDITIONS = [
    ASKS,
    finding(Health.FAILED, "checked", "gpu_lost", 15),
    finding(Health.FAILED, "clean", "unresponsive"),
    finding(Health.UNKNOWN, "at_once", "inaccessible", 17),
    finding(Health.DEGRADED, "clean", "thermal"),
    finding(Health.DEGRADED, "checked", "row_remap_pending"),
]
FAULT = HostFault(kind="driver_not_loaded", reason="no driver", advice="load it")

gpus = st.sampled_from(range(4))
conditions = st.lists(st.sampled_from(CONDITIONS), max_size=2)
moves = st.one_of(
    st.tuples(st.just("pause"), st.sampled_from([0.0, 1.0, 5.0, 70.0, 4000.0])),
    st.tuples(st.just("look"), st.dictionaries(gpus, conditions, max_size=2)),
    st.tuples(st.just("look"), st.just({})),
    st.tuples(st.just("stale"), gpus),
    st.tuples(st.just("vanish"), gpus),
    st.tuples(st.just("happen"), st.tuples(gpus, st.sampled_from(HAPPENINGS))),
    st.tuples(st.just("fault"), st.booleans()),
    st.tuples(st.just("check"), st.sampled_from(["passed", "failed", "nothing", "lost", "twice"])),
    st.tuples(st.just("reinstate"), gpus),
    st.tuples(st.just("complain"), st.sampled_from(["CUDA error: unknown error", "all is well"])),
)
stories = st.lists(moves, min_size=5, max_size=60)


class Node:
    """A node with four GPUs, the plane, and a history of each GPU in letters.

    F: a fault that only a repair ends; A, N: a reading that asks for a recovery action, or not; C,
    P: a self-test was asked for, and passed; R: reinstated.
    """

    def __init__(self, self_test: str = "suspect") -> None:
        health: Any = HealthSettings(self_test=self_test)  # type: ignore[arg-type]
        self.plane = ControlPlane(ControlSettings(health=health), Balanced(), Ladder())
        self.now_s = 0.0
        self.batches: list[tuple[float, tuple[ev.Event, ...]]] = []
        self.actions: list[act.Action] = []
        self.checks: list[act.CheckDevice] = []
        self.history = {gpu.uuid: "" for gpu in GPUS}
        self.step(ev.DeploymentsDesired(deployments=(WISH,)))
        self.look({})

    def play(self, move: tuple[str, Any]) -> None:
        kind, what = move
        getattr(self, kind)(what)

    def pause(self, dt_s: float) -> None:
        self.now_s += dt_s
        self.step()

    def look(self, shown: dict[int, list[Finding]], missing: int | None = None) -> None:
        self.now_s += 1.0
        there = [gpu for gpu in GPUS if gpu.index != missing]
        readings = tuple(
            DeviceReading(uuid=gpu.uuid, findings=tuple(shown.get(gpu.index, ()))) for gpu in there
        )
        for gpu in there:
            self.history[gpu.uuid] += "A" if ASKS in shown.get(gpu.index, ()) else "N"
        self.observe(tuple(there), readings)

    def stale(self, number: int) -> None:
        """No answer: the source repeats the last sample."""
        record = self.plane.state.devices.get(GPUS[number].uuid)
        if record is not None and record.present:
            self.now_s += 1.0
            readings = tuple(
                DeviceReading(uuid=gpu.uuid, sampled_at_s=0.0 if gpu.index == number else None)
                for gpu in GPUS
            )
            for gpu in GPUS:
                self.history[gpu.uuid] += "" if gpu.index == number else "N"
            self.observe(GPUS, readings)

    def vanish(self, number: int) -> None:
        self.look({}, missing=number)

    def fault(self, lists: bool) -> None:
        self.now_s += 1.0
        self.observe(GPUS if lists else (), (), FAULT)

    def observe(
        self,
        devices: tuple[Device, ...],
        readings: tuple[DeviceReading, ...],
        fault: HostFault | None = None,
    ) -> None:
        inventory = Inventory(
            source="nvml",
            observed_at_s=self.now_s,
            devices=devices,
            readings=readings,
            fault=fault,
        )
        self.step(ev.DevicesObserved(inventory=inventory))

    def happen(self, what: tuple[int, Finding]) -> None:
        self.now_s += 0.5
        number, one = what
        uuid = GPUS[number].uuid
        if one is FATAL:
            self.history[uuid] += "F"
        self.step(ev.DeviceFaulted(source="nvml", uuid=uuid, observed_at_s=self.now_s, finding=one))

    def check(self, verdict: str) -> None:
        """The oldest self-test that was asked for ends, or is never heard of again."""
        if not self.checks:
            return
        asked = self.checks.pop(0)
        if verdict == "lost":
            return
        uuid = asked.device.uuid
        outcome = ev.DeviceChecked(
            uuid=uuid,
            check=asked.check,
            finding=finding(Health.FAILED, "checked", "self_test") if verdict == "failed" else None,
            inconclusive="no library" if verdict == "nothing" else None,
        )
        if verdict in ("passed", "twice"):
            self.history[uuid] += "P"
        self.step(*[outcome] * (2 if verdict == "twice" else 1))

    def reinstate(self, number: int) -> None:
        self.history[GPUS[number].uuid] += "R"
        self.step(ev.DeviceReinstated(uuid=GPUS[number].uuid))

    def complain(self, line: str) -> None:
        for replica in list(self.plane.state.replicas.values()):
            if replica.epoch:
                about: dict[str, Any] = {"replica_id": replica.id, "epoch": replica.epoch}
                self.step(ev.ReplicaComplained(**about, line=line))

    def step(self, *events: ev.Event) -> None:
        twin = ControlPlane.restore(self.plane.snapshot(), Balanced(), Ladder())
        before = {uuid: record.health for uuid, record in self.plane.state.devices.items()}
        actions = self.plane.step(self.now_s, events)
        assert twin.step(self.now_s, events) == actions
        assert twin.snapshot() == self.plane.snapshot()
        assert violations(self.plane.state) == []
        self.batches.append((self.now_s, events))
        self.actions += actions
        for action in actions:
            if isinstance(action, act.CheckDevice):
                self.checks.append(action)
                self.history[action.device.uuid] += "C"
        self._check_reports(before, actions)

    def _check_reports(self, before: dict[str, Health], actions: list[act.Action]) -> None:
        """Each change is told, but for what is told once for the whole host."""
        told: dict[str, list[Health]] = {}
        for action in actions:
            if isinstance(action, act.ReportHealth):
                assert action.cause
                assert action.evidence or action.after is Health.HEALTHY
                told.setdefault(action.uuid, [action.before]).append(action.after)
        for uuid, record in self.plane.state.devices.items():
            was, now = before.get(uuid, Health.HEALTHY), record.health
            if was is not now and Health.UNKNOWN not in (was, now):
                assert told[uuid][-1] is now
            if was is not now and Health.UNKNOWN in (was, now):
                fault = self.plane.state.sources["nvml"].fault
                assert fault or uuid in told or _ended(actions)


def _ended(actions: list[act.Action]) -> bool:
    return any(isinstance(action, act.ReportHostFault) and action.ended for action in actions)


def repaired(history: str) -> bool:
    """Whether somebody has repaired what broke last, by what happened since."""
    since = history[history.rfind("F") :]
    if "R" in since:
        return True
    return bool(re.search("A[^A]*N[^A]*C.*P", since))


@STORIES
@given(story=stories, self_test=st.sampled_from(["suspect", "suspect", "idle", "off"]))
def test_failures_are_detected_and_tracked(story: list[Any], self_test: str) -> None:
    """What fails a GPU shows in the very step in which it is told, is counted, and keeps new
    replicas away from it."""
    node = Node(self_test)
    made: dict[tuple[str, str], int] = {}
    for move in story:
        known = set(node.plane.state.devices)
        node.play(move)
        kind, what = move
        devices = node.plane.state.devices
        made = {where: times for where, times in made.items() if where[0] in devices}
        if kind == "happen" and GPUS[what[0]].uuid in devices:
            uuid, one = GPUS[what[0]].uuid, what[1]
            made[uuid, one.key] = made.get((uuid, one.key), 0) + 1
            assert devices[uuid].health.rank >= one.severity.rank
        for (uuid, key), times in made.items():
            assert devices[uuid].condition.counts[key] == times
        if kind == "look":
            for number, shown in what.items():
                for one in shown:
                    assert devices[GPUS[number].uuid].health.rank >= one.severity.rank
        if kind == "vanish" and GPUS[what].uuid in known:
            assert devices[GPUS[what].uuid].health is Health.FAILED
        for view in fleet_of(node.plane.state).devices:
            assert devices[view.uuid].present
            assert (view.health, view.health_reason) == (
                devices[view.uuid].health,
                devices[view.uuid].health_reason,
            )
    for action in node.actions:
        if isinstance(action, act.ReportHealth):
            assert action.before is not action.after or action.cause


@STORIES
@given(story=stories)
def test_only_a_repair_or_an_operator_ends_what_needs_a_repair(story: list[Any]) -> None:
    node = Node()
    node.happen((0, FATAL))
    for move in story:
        node.play(move)
        for uuid, history in node.history.items():
            record = node.plane.state.devices.get(uuid)
            if record is None or "F" not in history or repaired(history):
                continue
            assert record.health is Health.FAILED, (uuid, history, record.condition)


@STORIES
@given(story=stories, cut=st.integers(0, 60))
def test_the_same_story_leads_to_the_same_digest(story: list[Any], cut: int) -> None:
    """Also when the plane is stored and restored on the way."""
    node = Node("idle")
    for move in story:
        node.play(move)
    again = ControlPlane(node.plane.state.settings, Balanced(), Ladder())
    for number, (now_s, events) in enumerate(node.batches):
        if number == cut:
            again = ControlPlane.restore(again.snapshot(), Balanced(), Ladder())
        again.step(now_s, events)
    assert again.digest() == node.plane.digest()


@STORIES
@given(story=stories)
def test_a_gpu_that_shows_nothing_and_passes_its_tests_becomes_healthy(story: list[Any]) -> None:
    """Liveness: nothing stays unfit for ever once an operator has reinstated it, and what needs no
    repair does so by itself."""
    node = Node()
    for move in story:
        node.play(move)
    for number in range(4):
        node.reinstate(number)
    node.checks.clear()
    for _ in range(4):
        node.look({})
    assert {record.health for record in node.plane.state.devices.values()} == {Health.HEALTHY}


@settings(max_examples=100 * EFFORT, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_hour_of_benign_noise_is_no_failure(seed: int) -> None:
    """Values that come and go, jitter, late and repeated samples, XIDs of applications."""
    chance = random.Random(seed)
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    plane.step(0.0, [ev.DeploymentsDesired(deployments=(WISH,))])
    stormed: dict[str, float] = {}
    late: list[ev.Event] = []
    now_s, told = 0.0, 0
    while now_s < 3600.0:
        now_s += 5.0 + chance.uniform(-0.5, 0.5)
        events: list[ev.Event] = [_noisy_inventory(chance, now_s)]
        if chance.random() < 0.05:
            late.append(events.pop())
        if late and chance.random() < 0.3:
            events.append(late.pop())
        if chance.random() < 0.1:
            events += _benign_xids(chance, now_s, stormed)
        for action in plane.step(now_s, events):
            assert not isinstance(action, act.ReportHealth | act.ReportHostFault | act.CheckDevice)
            told += isinstance(action, act.ReportFinding)
        assert all(record.health is Health.HEALTHY for record in plane.state.devices.values())
    assert violations(plane.state) == []
    assert told <= 4 * 3 * (3600 / 180 + 1)


def _noisy_inventory(chance: random.Random, now_s: float) -> ev.DevicesObserved:
    def some(value: float) -> float | None:
        return None if chance.random() < 0.1 else value

    readings = tuple(
        DeviceReading(
            uuid=gpu.uuid,
            sampled_at_s=chance.choice([None, now_s - chance.uniform(0.0, 6.0)]),
            memory_used_bytes=chance.choice([None, chance.randrange(30 * GIB)]),
            memory_foreign_bytes=chance.choice([None, 0]),
            temperature_celsius=some(chance.gauss(60, 8)),
            utilization_percent=some(chance.uniform(0, 100)),
            power_watts=some(chance.uniform(80, 700)),
        )
        for gpu in GPUS
    )
    return ev.DevicesObserved(
        inventory=Inventory(
            source="nvml",
            observed_at_s=now_s - chance.uniform(0.0, 0.4),
            devices=GPUS,
            readings=readings,
        )
    )


def _benign_xids(
    chance: random.Random, now_s: float, stormed: dict[str, float]
) -> list[ev.DeviceFaulted]:
    gpu = chance.choice(GPUS)
    code = chance.choice([43, 45, 31])
    limit = 0
    if code == 31:
        # One crash of an application; a second one would be held against the GPU, and rightly so.
        began_s = stormed.setdefault(gpu.uuid, now_s)
        if now_s > began_s + 170.0:
            return []
        limit = 2
    one = finding(Health.HEALTHY, "clean", code=code, limit=limit)
    event = ev.DeviceFaulted(source="nvml", uuid=gpu.uuid, observed_at_s=now_s, finding=one)
    return [event] * chance.randint(1, 40)
