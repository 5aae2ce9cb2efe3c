"""Replicas' processes: whatever they did, nothing of them is left after a stop."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from replica_programs import (
    DEADLINE_S,
    ENV,
    FAMILY,
    IGNORE_SIGTERM,
    SLEEP,
    Programs,
    is_alive,
    until,
    until_asleep,
)

from muai_core.runtime import process as process_module
from muai_core.runtime.log_tail import log_tail
from muai_core.runtime.process import Exit, ReplicaProcess
from muai_core.runtime.process_table import Process, read_processes
from muai_core.runtime.spawning import SpawnError


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def our_zombies() -> list[str]:
    own = str(os.getpid())
    rows = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [row[row.rfind(")") + 2 :].split() for row in rows]
    return [row for row, field in zip(rows, fields, strict=True) if field[:2] == ["Z", own]]


async def test_a_graceful_stop_lets_the_engine_finish(programs: Programs) -> None:
    process = programs.start(
        """
        import signal, sys, time
        def leave(number, frame):
            print("drained", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print("up", flush=True)
        time.sleep(600)
        """
    )
    await programs.log_says("up")
    assert (await process.stop(grace_s=DEADLINE_S)).proven
    assert process.exit == Exit(status=0)
    assert "drained" in programs.log.read_text()


async def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(programs: Programs) -> None:
    process = programs.start(IGNORE_SIGTERM)
    await programs.log_says("up")
    assert (await process.stop(grace_s=0.3)).proven
    assert process.exit == Exit(signal=signal.SIGKILL)


async def test_a_stopped_engine_is_killed(programs: Programs) -> None:
    process = programs.start(SLEEP)
    await programs.log_says("up")
    os.kill(process.pid, signal.SIGSTOP)
    assert (await process.stop(grace_s=0.2)).proven


async def test_stopping_is_idempotent_also_at_the_same_time(programs: Programs) -> None:
    process = programs.start(IGNORE_SIGTERM)
    await programs.log_says("up")
    slow = asyncio.create_task(process.stop(grace_s=100))
    await asyncio.sleep(0)
    assert (await process.stop(grace_s=0)).proven
    assert (await asyncio.wait_for(slow, DEADLINE_S)).proven
    assert (await process.stop(grace_s=100)).proven


@pytest.mark.parametrize(
    "options",
    ["", "start_new_session=True, env={}", "start_new_session=True, env=None"],
    ids=["in the group", "own session without marker", "own session with marker"],
)
async def test_grandchildren_are_killed_with_their_parent(programs: Programs, options: str) -> None:
    process = programs.start(FAMILY.format(options=options, then="time.sleep(600)"))
    child = await programs.child()
    assert (await process.stop(grace_s=0.2)).proven
    assert not is_alive(child)
    assert not is_alive(process.pid)


@pytest.mark.parametrize(
    "options",
    ["", "start_new_session=True"],
    ids=["in the group", "in a session of its own"],
)
async def test_when_the_leader_dies_the_rest_is_killed(programs: Programs, options: str) -> None:
    then = "sys.stdin = None\nwhile 'ready' not in open(sys.argv[1]).read(): time.sleep(0.01)"
    argv = [*programs.write(FAMILY.format(options=options, then=then)), str(programs.log)]
    process = programs.spawn(argv)
    assert await process.wait_exit(DEADLINE_S) == Exit(status=0)
    child = await programs.child()
    assert is_alive(child)
    assert (await process.stop(grace_s=DEADLINE_S)).proven
    assert not is_alive(child)


async def test_a_daemon_that_was_seen_once_is_found_without_any_mark(programs: Programs) -> None:
    then = "sys.stdin.read() or open(sys.argv[1], 'x').close() or time.sleep(600)"
    source = FAMILY.format(options="start_new_session=True, env={}", then=then)
    process = programs.spawn([*programs.write(source), str(programs.directory / "flag")])
    child = await programs.child()
    members = await process.observe_members()
    assert {pid for pid, _ in members} == {process.pid, child}
    os.kill(process.pid, signal.SIGKILL)
    await process.wait_exit(DEADLINE_S)
    assert (await process.stop(grace_s=0)).proven
    assert not is_alive(child)


async def test_helpers_of_a_dead_leader_may_finish_their_work(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_LINGER_S", DEADLINE_S)
    process = programs.start(
        """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.1); print('cleaned')"])
        """
    )
    await process.wait_exit(DEADLINE_S)
    assert (await process.stop(grace_s=0, kill_wait_s=DEADLINE_S)).proven
    assert "cleaned" in programs.log.read_text()


async def test_a_process_that_does_not_die_is_reported_and_can_be_stopped_later(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = programs.start(SLEEP)
    await programs.log_says("up")
    await until_asleep(process.pid)
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "kill_exactly", lambda identity: True)
        patch.setattr(os, "killpg", lambda group, number: None)
        release = await process.stop(grace_s=0, kill_wait_s=0.2)
    assert not release.proven
    assert release.survivors == (f"pid {process.pid} (sleeping)",)
    assert (await process.stop(grace_s=0)).proven


async def test_a_process_table_that_does_not_answer_proves_nothing(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = programs.start(SLEEP)
    release_reader = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(
            process_module, "read_processes", lambda: release_reader.wait(DEADLINE_S) and []
        )
        patch.setattr(process_module, "_SCAN_WAIT_S", 0.05)
        release = await process.stop(grace_s=0, kill_wait_s=0.2)
    release_reader.set()
    assert not release.proven
    assert "process table" in release.survivors[0]
    assert (await process.stop(grace_s=0)).proven


async def test_orphans_that_become_our_children_are_reaped(programs: Programs) -> None:
    # As in a container where the controller is pid 1 and inherits every orphan.
    set_child_subreaper = partial(ctypes.CDLL(None).prctl, 36)
    set_child_subreaper(1)
    try:
        process = programs.start(FAMILY.format(options="", then="time.sleep(600)"))
        await programs.child()
        await process.observe_members()
        os.kill(process.pid, signal.SIGKILL)
        await process.wait_exit(DEADLINE_S)
        assert (await process.stop(grace_s=0)).proven
    finally:
        set_child_subreaper(0)
    assert our_zombies() == []


async def test_a_full_disk_is_the_engines_trouble_alone(programs: Programs) -> None:
    source = "import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.01)"
    process = programs.start(source, log_path=Path("/dev/full"))
    assert await process.wait_exit(DEADLINE_S) == Exit(status=1)
    assert log_tail(process.log_path) == ""
    assert (await process.stop(grace_s=0)).proven


async def test_a_process_that_one_look_missed_is_still_found(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILY.format(options="start_new_session=True", then="time.sleep(600)")
    process = programs.start(family)
    child = await programs.child()
    os.kill(process.pid, signal.SIGKILL)
    await process.wait_exit(DEADLINE_S)
    looks = []

    def miss_at_first() -> list[Process]:
        looks.append(1)
        return read_processes() if len(looks) > 1 else []

    monkeypatch.setattr(process_module, "read_processes", miss_at_first)
    assert (await process.stop(grace_s=0)).proven
    assert not is_alive(child)


async def test_no_zombie_and_no_file_is_left(programs: Programs) -> None:
    async def one_life() -> None:
        process = programs.start(SLEEP)
        await process.executed()
        assert (await process.stop(grace_s=0)).proven

    await one_life()
    before = open_fds()
    for _ in range(5):
        await one_life()
        with pytest.raises(SpawnError):
            await programs.spawn(["/nowhere"]).executed()
        assert (await programs.started[-1].stop(grace_s=0)).proven
    await until(lambda: open_fds() <= before)
    assert our_zombies() == []


CONTROLLER = """
import asyncio, sys
from pathlib import Path
from muai_core.runtime.process import ReplicaProcess

async def main():
    process = ReplicaProcess.spawn(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={}, cwd=None, log_path=Path(sys.argv[1]), marker="box/chat-0/1",
    )
    await process.executed()
    print(process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_replica_dies_with_a_killed_controller(programs: Programs) -> None:
    argv = [*programs.write(CONTROLLER, "controller.py"), str(programs.log)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        replica = int(controller.stdout.readline())
        assert is_alive(replica)
        controller.kill()
    asyncio.run(until(lambda: not is_alive(replica)))


def test_the_shim_refuses_to_start_for_a_parent_that_is_gone(programs: Programs) -> None:
    shim = Path(process_module.__file__).with_name("exec_shim.py")
    read_end, write_end = os.pipe()
    argv = [sys.executable, "-I", "-S", str(shim), "1", str(write_end), "0", "--", "/bin/true"]
    done = subprocess.run(argv, pass_fds=(write_end,), env=ENV, timeout=DEADLINE_S, check=False)
    os.close(write_end)
    assert done.returncode == 127
    assert b"the controller, pid 1, is gone" in os.read(read_end, 1000)
    os.close(read_end)


async def test_a_cancelled_stop_can_be_repeated(programs: Programs) -> None:
    process: ReplicaProcess = programs.start(IGNORE_SIGTERM)
    await programs.log_says("up")
    stopping = asyncio.create_task(process.stop(grace_s=100))
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await process.stop(grace_s=0)).proven
