"""Which processes there are, whose the memory is, and what is left at the end: nothing."""

import contextlib
import os
import signal
from collections.abc import Callable

import psutil
import pytest
from running_on_fake import ON_GPUS, Running, wait_until

GIB = 2**30
Start = Callable[..., Running]


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


@pytest.mark.parametrize("hanging", [False, True], ids=["healthy", "with a GPU that hangs"])
def test_a_stop_leaves_no_process(start_muai: Start, hanging: bool) -> None:
    running = start_muai(nvml={"deadline_s": 0.5})
    (probe,) = wait_until("the probe", running.probes)
    if hanging:
        running.fake.hang(2)
        wait_until("GPU 2 suspect", lambda: running.healths()[2]["health"] != "healthy")
        # The main probe was replaced: one of its threads will never return.
        wait_until("the first probe gone", lambda: gone(probe))
        wait_until("another", running.probes)
    assert running.stop() == 0
    assert running.processes() == []


@pytest.mark.parametrize("hanging", [False, True], ids=["healthy", "with a GPU that hangs"])
def test_a_killed_controller_leaves_no_probe(start_muai: Start, hanging: bool) -> None:
    running = start_muai(nvml={"deadline_s": 0.5})
    if hanging:
        running.fake.hang(2)
        wait_until("GPU 2 suspect", lambda: running.healths()[2]["health"] != "healthy")
    wait_until("a probe", running.probes)
    running.process.kill()
    running.process.wait()
    wait_until("no process", lambda: not running.processes())


def test_a_killed_probe_is_replaced_and_no_gpu_is_blamed(start_muai: Start) -> None:
    running = start_muai()
    (probe,) = wait_until("the probe", running.probes)
    os.kill(probe, signal.SIGKILL)
    (other,) = wait_until("another", lambda: [pid for pid in running.probes() if pid != probe])
    assert other != probe
    running.fake.set(4, temperature_celsius=77)
    wait_until("a new reading", lambda: running.gpus()[4]["temperature_celsius"] == 77)
    assert {one["health"] for one in running.healths().values()} == {"healthy"}
    assert running.ask() == 200


def placed_on(running: Running) -> int:
    """The index of the one GPU that the replica is on."""
    ((device,),) = running.replica()["devices"]
    return int(device["index"])


def test_a_replicas_memory_is_ours_and_anothers_is_foreign(start_muai: Start) -> None:
    running = start_muai(engine=ON_GPUS)
    gpu, pid = placed_on(running), running.replica()["pid"]
    with running.fake.changes():
        running.fake.set(gpu, memory_used_bytes=15 * GIB)
        # The test itself is the stranger.
        running.fake.processes(gpu, (pid, 10 * GIB), (os.getpid(), 5 * GIB))
    seen = wait_until(
        "both processes",
        lambda: len((found := running.gpus()[gpu])["processes"]) == 2 and found,
    )
    assert seen["memory_own_bytes"] == 10 * GIB
    assert seen["memory_foreign_bytes"] == 5 * GIB
    assert {one["pid"]: one["own"] for one in seen["processes"]} == {pid: True, os.getpid(): False}
    # A scrape shows the sample before, for as long as the next one is not published.
    series = f'gpu_id="{gpu}"'
    wait_until(
        "the metric",
        lambda: running.scrape()["gpu_memory_foreign_bytes"].get(series) == 5 * GIB,
    )


def test_a_gpu_is_free_again_only_when_its_memory_is_back(start_muai: Start) -> None:
    running = start_muai(gpus=1, engine=ON_GPUS)
    pid = running.replica()["pid"]
    with running.fake.changes():
        running.fake.set(0, memory_used_bytes=10 * GIB)
        running.fake.processes(0, (pid, 10 * GIB))
    wait_until("its process", lambda: running.gpus()[0]["memory_own_bytes"] == 10 * GIB)

    # The process ends, and the driver keeps its memory.
    os.kill(pid, signal.SIGKILL)
    running.fake.processes(0)
    wait_until("the end", lambda: running.replica()["state"] == "releasing")
    told = wait_until("the reason", lambda: running.lines("no process owns"))
    assert "10.0 GiB" in told[0]
    sampled = running.gpus()[0]
    assert sampled["memory_used_bytes"] == 10 * GIB
    assert sampled["memory_claimed_bytes"] == 10 * GIB
    assert running.replica()["state"] == "releasing"

    running.fake.set(0, memory_used_bytes=0)
    wait_until("a new process", lambda: running.replica()["state"] == "ready")
    assert running.replica()["epoch"] == 2
    assert running.replica()["pid"] != pid
