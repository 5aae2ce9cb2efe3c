"""What a crashed controller leaves behind is found by proof and killed, and nothing else is."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from replica_programs import DEADLINE_S, Programs, is_alive, until, until_asleep

from muai_core.runtime import orphans as orphans_module
from muai_core.runtime.instance import Instance, InstanceInUse
from muai_core.runtime.orphans import Marker, SpawnRecord, SpawnRecords, reclaim_orphans
from muai_core.runtime.process_table import read_boot_id, read_process

#: A controller whose replica starts a grandchild, which outlives both when the controller is
#: killed. Arguments: state directory, log, environment of the grandchild ("kept" or "dropped").
CONTROLLER = """
import asyncio, sys
from pathlib import Path
from muai_core.runtime.instance import Instance
from muai_core.runtime.orphans import Marker, SpawnRecord, SpawnRecords
from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.process_table import read_boot_id

REPLICA = '''
import subprocess, sys, time
environment = None if sys.argv[1] == "kept" else {}
code = "import time; print('ready', flush=True); time.sleep(600)"
child = subprocess.Popen(
    [sys.executable, "-c", code], env=environment, start_new_session=len(sys.argv) > 2)
print("child", child.pid, flush=True)
time.sleep(600)
'''

async def main(state_dir, log, *options):
    instance = Instance(state_dir)
    marker = Marker(instance.id, "org/chat-0", 3)
    process = ReplicaProcess.spawn(
        [sys.executable, "-c", REPLICA, *options], env={}, cwd=None, log_path=log,
        marker=marker.text,
    )
    while "ready" not in log.read_text() or "child" not in log.read_text():
        await asyncio.sleep(0.01)
    SpawnRecords(state_dir).write(SpawnRecord(
        replica_id="org/chat-0", epoch=3, instance_id=instance.id, boot_id=read_boot_id(),
        pid=process.pid, start_ticks=process.start_ticks, program="python",
        devices=("GPU-a", "GPU-b"), members=tuple(await process.observe_members()),
    ))
    print(process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def crash_a_controller(programs: Programs, state_dir: Path, *options: str) -> tuple[int, int]:
    """Kills a controller; returns its replica's pids: the leader's and the grandchild's."""
    argv = programs.write(CONTROLLER, "controller.py")
    argv += [str(state_dir), str(programs.log), *options]
    programs.log.parent.mkdir(parents=True, exist_ok=True)
    programs.log.touch()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        leader = int(controller.stdout.readline())
        controller.kill()
    asyncio.run(until(lambda: not is_alive(leader)))
    [grandchild] = programs.pids_in_log("child")
    assert is_alive(grandchild)
    return leader, grandchild


@pytest.mark.parametrize(
    "options",
    [("kept",), ("kept", "own session"), ("dropped", "own session")],
    ids=["in the session", "escaped with the marker", "escaped without any mark"],
)
def test_a_grandchild_of_a_killed_controller_is_reclaimed(
    programs: Programs, state_dir: Path, options: tuple[str, ...]
) -> None:
    leader, grandchild = crash_a_controller(programs, state_dir, *options)
    with Instance(state_dir) as instance:
        [orphan] = reclaim_orphans(state_dir, instance.id)
        assert reclaim_orphans(state_dir, instance.id) == ()
    assert not is_alive(grandchild)
    assert orphan.words == (
        f"replica org/chat-0 (epoch 3) was left by a controller that died: killed pid {grandchild}"
    )
    assert orphan.devices == ("GPU-a", "GPU-b")
    assert leader not in orphan.killed_pids
    assert list((state_dir / "replicas").iterdir()) == []


def test_the_marker_suffices_without_a_record(programs: Programs, state_dir: Path) -> None:
    _, grandchild = crash_a_controller(programs, state_dir, "kept", "own session")
    for record in (state_dir / "replicas").iterdir():
        record.write_text("{damaged")
    with Instance(state_dir) as instance:
        [orphan] = reclaim_orphans(state_dir, instance.id)
    assert orphan.killed_pids == (grandchild,)
    assert not is_alive(grandchild)


def bystander(marker: str = "") -> "subprocess.Popen[str]":
    environment = {"PATH": os.environ["PATH"], **({"MUAI_REPLICA": marker} if marker else {})}
    code = "import time; print('up', flush=True); time.sleep(600)"
    stranger = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "up\n"
    return stranger


def record_of(pid: int, **changes: object) -> SpawnRecord:
    process = read_process(pid)
    assert process is not None
    record = SpawnRecord(
        replica_id="chat-0",
        epoch=1,
        instance_id="box",
        boot_id=read_boot_id(),
        pid=pid,
        start_ticks=process.start_ticks,
        program="python",
    )
    return msgspec.structs.replace(record, **changes)


def reclaim_with(state_dir: Path, record: SpawnRecord) -> int:
    SpawnRecords(state_dir).write(record)
    return len(reclaim_orphans(state_dir, "box"))


def test_a_reused_pid_is_not_killed(state_dir: Path) -> None:
    with bystander() as stranger:
        started = read_process(stranger.pid)
        assert started is not None
        assert reclaim_with(state_dir, record_of(stranger.pid, start_ticks=1)) == 0
        assert reclaim_with(state_dir, record_of(stranger.pid, boot_id="another")) == 0
        assert stranger.poll() is None
        assert list((state_dir / "replicas").iterdir()) == []
        # The same process with its true start time is one of ours.
        assert reclaim_with(state_dir, record_of(stranger.pid)) == 1
        assert stranger.wait(DEADLINE_S) == -9


def test_another_instances_replicas_are_left_alone(state_dir: Path) -> None:
    with bystander("other/chat-0/1") as stranger:
        assert reclaim_orphans(state_dir, "box") == ()
        assert stranger.poll() is None
        stranger.kill()


def test_an_orphan_that_does_not_die_keeps_its_devices_and_its_record(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bystander() as stranger:
        asyncio.run(until_asleep(stranger.pid))
        SpawnRecords(state_dir).write(record_of(stranger.pid, devices=("GPU-a",)))
        with monkeypatch.context() as patch:
            patch.setattr(orphans_module, "kill_exactly", lambda identity: True)
            [orphan] = reclaim_orphans(state_dir, "box", kill_wait_s=0.1)
        assert orphan.words == (
            "replica chat-0 (epoch 1) was left by a controller that died and does not die: "
            f"pid {stranger.pid} (sleeping); it may hold GPU-a"
        )
        [orphan] = reclaim_orphans(state_dir, "box")
        assert orphan.killed_pids == (stranger.pid,)
        stranger.wait(DEADLINE_S)


def test_a_stranger_that_is_stuck_in_the_kernel_does_not_stop_the_controller(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unstuck = threading.Event()
    monkeypatch.setattr(
        orphans_module, "read_marker", lambda pid: unstuck.wait(DEADLINE_S) and None
    )
    monkeypatch.setattr(orphans_module, "_LAST_LOOK_S", 0.1)
    assert reclaim_orphans(state_dir, "box", kill_wait_s=0) == ()
    unstuck.set()
    assert "looking for orphans takes too long" in caplog.text


def test_one_controller_per_state_directory(state_dir: Path) -> None:
    with Instance(state_dir) as first, pytest.raises(InstanceInUse, match=f"pid {os.getpid()}"):
        Instance(state_dir)
    with Instance(state_dir) as second:
        assert second.id == first.id


def test_a_full_disk_costs_a_record_and_nothing_else(
    state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dir.write_text("in the way of the directory")
    SpawnRecords(state_dir).write(record_of(os.getpid()))
    SpawnRecords(state_dir).remove("chat-0", 1)
    assert "cannot record replica chat-0" in caplog.text


@pytest.mark.parametrize("text", ["", "box", "box/chat", "box/chat/x", "/chat/1", "box//1", "a/²"])
def test_a_foreign_marker_means_nothing(text: str) -> None:
    assert Marker.parse(text) is None


def test_a_marker_survives_a_replica_id_with_slashes() -> None:
    marker = Marker("box", "org/chat-0", 12)
    assert Marker.parse(marker.text) == marker
