"""Which probes run when: pauses, limits and rejoining, with time as an argument."""

from itertools import pairwise
from typing import Any

import pytest
from muai_nvml.fleet import Fleet
from muai_nvml.probe_process import ProbeProcess
from muai_nvml.slots import Listener, Probe, Slot
from muai_nvml.wire import HOST, Described, InitFailed, Missed, Ready, Sampled, Started, Starting


class FakeProcess:
    """A probe that says only what the test lets it say."""

    def __init__(self, pid: int, only: int | None, without: frozenset[int]) -> None:
        self.pid = pid
        self.only = only
        self.without = without
        self.killed = False
        self.immortal = False
        self.sent: list[Any] = []

    def send(self, command: Any) -> bool:
        self.sent.append(command)
        return True

    def kill(self) -> None:
        self.killed = True

    def reap(self) -> bool:
        return self.killed and not self.immortal


class World:
    """A fleet of GPUs, two as a rule, whose probes are played by the test."""

    def __init__(self, gpus: int = 2) -> None:
        self.gpus = range(gpus)
        self.spawned: list[FakeProcess] = []
        self.told: list[tuple[int, int]] = []
        world = self

        class Teller(Listener):
            def unresponsive(self, slot: Slot) -> None:
                assert slot.stuck is not None
                world.told.append((slot.index, slot.stuck.misses))

        def spawn(only: int | None, without: frozenset[int], with_links: bool) -> ProbeProcess:
            process: Any = FakeProcess(1000 + len(world.spawned), only, without)
            world.spawned.append(process)
            return process  # type: ignore[no-any-return]

        self.fleet = Fleet(spawn, lambda process: None, Teller(), deadline_s=2.0)
        self.now_s = 100.0

    def say(self, probe: Probe | None, *reports: Any) -> None:
        assert probe is not None
        for report in reports:
            self.fleet.hear(probe, report, self.now_s)

    def tick(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.fleet.tick(self.now_s)

    def answer(self, probe: Probe | None, *gpus: int) -> None:
        samples = [Sampled(index=gpu, at_s=self.now_s) for gpu in (*gpus, HOST)]
        self.say(probe, *samples)

    def begin(self) -> None:
        """The main probe is up and has seen all GPUs."""
        self.fleet.ask(self.now_s, self.now_s)
        self.come_up(self.fleet.main, *self.gpus)

    def come_up(self, probe: Probe | None, *gpus: int) -> None:
        described = [
            Described(index=gpu, gpu_uuid=f"GPU-{gpu}", pci_bus_id=None, devices=()) for gpu in gpus
        ]
        self.say(probe, Starting(), Started(len(self.gpus)), *described)
        self.answer(probe, *gpus)
        self.say(probe, Ready())

    def lose_gpu_1(self) -> None:
        """It hangs in the main probe, which is replaced."""
        self.say(self.fleet.main, Missed(1, "nvmlDeviceGetMemoryInfo", 2.0))
        self.tick()
        self.come_up(self.fleet.next, 0)
        self.tick()


@pytest.fixture
def world() -> World:
    world = World()
    world.begin()
    return world


def test_a_stuck_gpu_gets_a_probe_of_its_own_and_the_main_one_is_replaced(world: World) -> None:
    old = world.spawned[0]
    world.say(world.fleet.main, Missed(1, "nvmlDeviceGetMemoryInfo", 2.0))
    world.tick()
    roles = [(process.only, process.without) for process in world.spawned[1:]]
    assert sorted(roles, key=str) == [(1, frozenset()), (None, frozenset({1}))]
    assert not old.killed
    world.come_up(world.fleet.next, 0)
    assert old.killed
    assert world.told == [(1, 1)]


def test_it_is_tried_again_after_pauses_that_double_up_to_a_minute(world: World) -> None:
    world.lose_gpu_1()
    starts = [world.now_s]
    while len(starts) < 9:
        probe = world.fleet.alone[1]
        world.now_s += 2.0
        world.say(probe, Starting(), Started(2), Missed(1, "nvmlDeviceGetHandleByIndex", 8.0))
        missed_at_s = world.now_s
        while 1 not in world.fleet.alone:
            due_s = world.fleet.next_due_s()
            assert due_s is not None
            assert due_s >= world.now_s
            world.tick(due_s - world.now_s)
        starts.append(world.now_s - missed_at_s)
    assert [round(pause_s) for pause_s in starts[1:]] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert world.told == [(1, misses) for misses in range(1, 10)]


def test_probes_that_cannot_be_killed_are_not_piled_up(world: World) -> None:
    world.lose_gpu_1()
    for _ in range(20):
        if 1 in world.fleet.alone:
            probe = world.fleet.alone[1]
            process: Any = probe.process
            process.immortal = True
            world.say(probe, Starting(), Started(2), Missed(1, "nvmlDeviceGetUUID", 2.0))
        world.tick(60.0)
    assert sum(process.only == 1 for process in world.spawned) == 3
    assert world.fleet.burials.undead(1) == 3


def test_it_rejoins_after_some_answers(world: World) -> None:
    world.lose_gpu_1()
    world.come_up(world.fleet.alone[1], 1)
    assert world.fleet.slots[1].stuck is None
    for _ in range(2):
        world.tick()
        assert world.fleet.next is None
        world.fleet.ask(world.now_s, world.now_s)
        world.answer(world.fleet.main, 0)
        world.answer(world.fleet.alone[1], 1)
    world.tick()
    assert world.fleet.next is not None
    assert world.fleet.next.without == frozenset()
    world.come_up(world.fleet.next, 0, 1)
    world.tick()
    assert world.fleet.alone == {}
    assert [process.killed for process in world.spawned[:-1]] == [True] * 3


def test_a_main_probe_that_keeps_dying_is_restarted_after_growing_pauses(world: World) -> None:
    ends = []
    for _ in range(9):
        assert world.fleet.main is not None
        world.fleet.ended(world.fleet.main, "it crashed", world.now_s)
        ended_at_s = world.now_s
        while world.fleet.main is None:
            world.tick(max(0.0, world.fleet.restart_at_s - world.now_s))
            world.fleet.ask(world.now_s, world.now_s)
        ends.append(world.now_s - ended_at_s)
    assert ends == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_nothing_is_due_while_a_main_probe_that_keeps_dying_pauses(world: World) -> None:
    world.lose_gpu_1()
    alone = world.fleet.alone[1]
    world.say(alone, Starting(), Started(2), Missed(1, "nvmlDeviceGetUUID", 2.0))
    for _ in range(3):
        if world.fleet.main is not None:
            world.fleet.ended(world.fleet.main, "it crashed", world.now_s)
    assert world.fleet.main is None
    world.tick(3600.0)
    assert world.fleet.next_due_s() is None


def test_a_probe_is_asked_once_for_each_round(world: World) -> None:
    probe = world.fleet.main
    assert probe is not None
    process: Any = probe.process
    for _ in range(3):
        world.fleet.ask(world.now_s, since_s=world.now_s)
        world.answer(probe, 0, 1)
    assert len(process.sent) == 1
    world.fleet.ask(world.now_s + 1, since_s=world.now_s + 1)
    assert len(process.sent) == 2


def test_one_crash_is_forgotten_after_a_good_round(world: World) -> None:
    for _ in range(3):
        assert world.fleet.main is not None
        world.fleet.ended(world.fleet.main, "it crashed", world.now_s)
        assert world.fleet.main is not None
        world.come_up(world.fleet.main, 0, 1)
        world.fleet.works()


def test_a_probe_that_says_nothing_is_replaced(world: World) -> None:
    world.fleet.ask(world.now_s, world.now_s)
    world.tick(2.9)
    assert len(world.spawned) == 1
    world.tick(0.2)
    assert world.spawned[0].killed
    assert len(world.spawned) == 2


def test_one_that_is_asked_nothing_may_be_silent(world: World) -> None:
    world.tick(3600.0)
    assert len(world.spawned) == 1


def test_a_start_of_nvml_that_fails_is_tried_again_after_growing_pauses() -> None:
    world = World()
    pauses = []
    for _ in range(8):
        world.fleet.ask(world.now_s, world.now_s)
        world.say(world.fleet.main, Starting(), InitFailed(999, "nvmlInit answered 999"))
        assert world.fleet.main is None
        pauses.append(world.fleet.restart_at_s - world.now_s)
        world.now_s = world.fleet.restart_at_s
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(early <= late for early, late in pairwise(pauses))
    assert world.fleet.failures == 0


def test_when_a_hundred_gpus_hang_they_take_turns_at_a_probe_of_their_own() -> None:
    world = World(100)
    world.begin()
    world.say(world.fleet.main, *(Missed(gpu, "nvmlDeviceGetName", 2.0) for gpu in world.gpus))
    had_a_turn: set[int] = set()
    deadline_s = world.now_s + 600
    while had_a_turn != set(world.gpus):
        assert world.now_s < deadline_s, sorted(set(world.gpus) - had_a_turn)
        world.tick(1.0)
        assert len(world.fleet.alone) <= 16
        for gpu, probe in list(world.fleet.alone.items()):
            had_a_turn.add(gpu)
            world.say(probe, Starting(), Started(100), Missed(gpu, "nvmlDeviceGetName", 2.0))
