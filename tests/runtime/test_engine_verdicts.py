"""What engines say of their replicas, and what is done about it, on real processes."""

import asyncio
import mmap
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from replica_programs import is_alive, until
from supervised_fleet import Fleet, returning

from muai_core.control import events as ev
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.plugin.engine import Engine, LaunchRequest, LaunchSpec, Suitability
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.runtime.shared_memory import remove_named, remove_unused
from muai_core.runtime.verdicts import Verdicts

RANK = (
    "import subprocess, sys\n"
    "rank = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', 'a-rank'])\n"
    "print('rank', rank.pid, flush=True)"
)


class OpinionatedEngine(Engine):
    name = "opinionated"
    platforms = ("cuda",)

    def __init__(self, difference: str | None = None, failure: Failure | None = None) -> None:
        self.difference = difference
        self.failure = failure
        self.logs: list[str] = []
        self.evidence: list[ExitEvidence] = []

    def suits(self, deployment: Deployment) -> Suitability:
        return Suitability(True, "")

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        raise AssertionError

    def verify(self, request: LaunchRequest, log: str) -> str | None:
        self.logs.append(log)
        return self.difference

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        self.evidence.append(evidence)
        return self.failure


class RaisingEngine(OpinionatedEngine):
    def verify(self, request: LaunchRequest, log: str) -> str | None:
        raise RuntimeError("no idea")

    def classify(self, evidence: ExitEvidence) -> Failure | None:
        raise RuntimeError("no idea")


def request() -> LaunchRequest:
    device = Device(
        uuid="GPU-a",
        index=0,
        node="n",
        kind="gpu",
        platform="cuda",
        name="g",
        memory_total_bytes=2**30,
    )
    return LaunchRequest(
        deployment=Deployment(name="chat", source="x", engine="opinionated", platforms=("cuda",)),
        replica_id="chat.0",
        epoch=1,
        devices=(device,),
        stages=(("GPU-a",),),
        python="python",
        host="127.0.0.1",
        port=1,
    )


def start(
    fleet: Fleet, engine: Engine, behaviour: dict[str, Any], name: str = "chat.0", **changes: Any
) -> LaunchSpec:
    verdicts = Verdicts(engine)
    verdicts.request = request()
    launch = fleet.launch(behaviour, **changes)
    fleet.start_prepared(name, 1, lambda: returning(launch), verdicts)
    return launch


async def test_a_start_that_is_not_as_planned_is_a_failed_start(fleet: Fleet) -> None:
    engine = OpinionatedEngine("world size 1, planned are 2")
    start(fleet, engine, {})
    failed = await fleet.failure()
    assert failed.cause == "it did not start as planned: world size 1, planned are 2"
    assert failed.failure is not None
    assert failed.failure.kind == "not_as_planned"
    assert engine.logs[0].startswith("engine up")


@pytest.mark.parametrize("engine", [OpinionatedEngine(), RaisingEngine()])
async def test_no_verdict_lets_it_serve(fleet: Fleet, engine: Engine) -> None:
    start(fleet, engine, {})
    await fleet.event(ev.ReplicaReady)


async def test_an_engine_knows_its_failures_best(fleet: Fleet) -> None:
    known = Failure(kind="collectives", reason="a ring broke", advice="mend it")
    engine = OpinionatedEngine(failure=known)
    start(fleet, engine, {"run": "raise OSError('Address already in use')"})
    failed = await fleet.failure()
    assert failed.failure == known
    assert engine.evidence[0].status == 1
    assert "Address already in use" in engine.evidence[0].log_tail


@pytest.mark.parametrize("engine", [OpinionatedEngine(), RaisingEngine()])
async def test_the_general_rules_know_the_rest(fleet: Fleet, engine: Engine) -> None:
    start(fleet, engine, {"run": "raise OSError('Address already in use')"})
    failure = (await fleet.failure()).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == ("port_taken", "OSError: Address already in use")
    assert failure.advice


async def test_a_killed_rank_takes_the_whole_replica_down(fleet: Fleet) -> None:
    launch = start(fleet, OpinionatedEngine(), {"run": RANK}, rank_processes="a-rank")
    assert launch.rank_processes
    await fleet.event(ev.ReplicaReady)
    rank = fleet.pid_in_log("rank")
    leader = fleet.events_spawned("chat.0", 1)[0].pid
    os.kill(rank, signal.SIGKILL)
    ended = await fleet.event(ev.ReplicaExited)
    assert f"rank process {rank}" in ended.cause
    assert ended.failure is not None
    assert ended.failure.kind == "rank_died"
    await until(lambda: not is_alive(leader))
    await fleet.is_gone()


@pytest.mark.parametrize("victim", ["leader", "rank"])
async def test_a_stopped_process_is_told_by_name_and_ends_the_replica(
    fleet: Fleet, victim: str
) -> None:
    start(fleet, OpinionatedEngine(), {"run": RANK})
    await fleet.event(ev.ReplicaReady)
    leader = fleet.events_spawned("chat.0", 1)[0].pid
    rank = fleet.pid_in_log("rank")
    stopped = rank if victim == "rank" else leader
    os.kill(stopped, signal.SIGSTOP)
    ended = await fleet.event(ev.ReplicaExited)
    assert f"process {stopped}" in ended.cause
    assert "SIGSTOP" in ended.cause
    assert ended.failure is not None
    assert ended.failure.kind == "stalled"
    await fleet.is_gone()
    assert not is_alive(rank)


async def test_a_process_that_goes_on_in_time_is_left_alone(fleet: Fleet) -> None:
    start(fleet, OpinionatedEngine(), {})
    await fleet.event(ev.ReplicaReady)
    leader = fleet.events_spawned("chat.0", 1)[0].pid
    os.kill(leader, signal.SIGSTOP)
    os.kill(leader, signal.SIGCONT)
    fleet.supervisor.stop("chat.0", 1, grace_s=5)
    ended = await fleet.event(ev.ReplicaExited)
    assert ended.cause.startswith("stopped")


SHARES = """
from multiprocessing.shared_memory import SharedMemory
shared = SharedMemory(create=True, size=4096)
print("shared", shared.name, flush=True)
"""


async def test_shared_memory_of_a_killed_replica_is_removed(fleet: Fleet, tmp_path: Path) -> None:
    # The tracker that would remove it is killed, too.
    start(fleet, OpinionatedEngine(), {"run": SHARES})
    await fleet.event(ev.ReplicaReady)
    log = fleet.supervisor.log_path("chat.0", 1).read_text()
    [name] = [line.split()[1] for line in log.splitlines() if line.startswith("shared ")]
    assert (Path("/dev/shm") / name).exists()
    fleet.supervisor.stop("chat.0", 1, grace_s=0)
    await fleet.is_gone()
    assert not (Path("/dev/shm") / name).exists()


def test_shared_memory_that_somebody_uses_is_left(tmp_path: Path) -> None:
    with Path("/dev/shm/muai-test-in-use").open("w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096):
            remove_unused(["muai-test-in-use"])
            assert Path("/dev/shm/muai-test-in-use").exists()
    remove_unused(["muai-test-in-use", "../dev/null"])
    assert not Path("/dev/shm/muai-test-in-use").exists()


async def test_a_full_disk_is_named_when_no_last_words_are_left(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs("/")
    full = os.statvfs_result((*real[:4], 0, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    start(fleet, OpinionatedEngine(), {"run": "import os; os._exit(1)"})
    failed = await fleet.failure()
    assert failed.failure is not None
    assert failed.failure.kind == "disk_full"
    assert failed.failure.advice


async def test_a_rank_that_is_told_to_end_is_no_failure(fleet: Fleet) -> None:
    start(fleet, OpinionatedEngine(), {"run": RANK}, rank_processes="a-rank")
    await fleet.event(ev.ReplicaReady)
    fleet.supervisor.stop("chat.0", 1, grace_s=1.0)
    ended = await fleet.event(ev.ReplicaExited)
    assert ended.cause.startswith("stopped")
    assert ended.failure is None


async def test_the_log_tells_how_far_the_start_has_come(fleet: Fleet) -> None:
    words = (("reads the weights", r"^engine up"), ("captures graphs", r"^never"))
    start(fleet, OpinionatedEngine(), {"health": ["", "", ""] * 100}, log_stages=words)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + 60
    while loop.time() < give_up_at:
        said = [
            fact.detail for fact in fleet.of("chat.0") if isinstance(fact, ev.ReplicaProgressed)
        ]
        if "reads the weights" in said:
            break
        await asyncio.sleep(0.02)
    assert "reads the weights" in said
    assert "captures graphs" not in said


async def test_engines_that_measure_memory_load_one_after_the_other(fleet: Fleet) -> None:
    waiting = ["loading"] * 10_000
    start(fleet, OpinionatedEngine(), {"health": waiting}, "one.0", exclusive_start=True)
    await fleet.event(ev.ReplicaSpawned, "one.0")
    start(fleet, OpinionatedEngine(), {}, "two.0", exclusive_start=True)
    waits = await fleet.event(ev.ReplicaProgressed, "two.0")
    assert waits.detail == "waits until another replica has loaded on GPU-a"
    assert not fleet.events_spawned("two.0", 1)
    fleet.supervisor.stop("one.0", 1, grace_s=0)
    await fleet.event(ev.ReplicaReady, "two.0")


async def test_who_waits_for_a_device_can_be_stopped(fleet: Fleet) -> None:
    start(
        fleet, OpinionatedEngine(), {"health": ["loading"] * 10_000}, "one.0", exclusive_start=True
    )
    await fleet.event(ev.ReplicaSpawned, "one.0")
    start(fleet, OpinionatedEngine(), {}, "two.0", exclusive_start=True)
    await fleet.event(ev.ReplicaProgressed, "two.0")
    fleet.supervisor.stop("two.0", 1, grace_s=0)
    await until(lambda: bool(fleet.ends("two.0")))
    assert not fleet.events_spawned("two.0", 1)


def test_only_what_is_surely_the_engines_own_is_removed(tmp_path: Path) -> None:
    names = ("engine_buffer_1", "engine_buffer_2", "psm_1234", "other")
    for name in names:
        (tmp_path / name).touch()
    remove_named(("engine_buffer_*", "psm_*", "../*", "*"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "psm_1234"]
