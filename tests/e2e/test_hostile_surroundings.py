"""An operating system, a shell or a reader that gives the controller less than it needs."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe into which nothing fits any more, and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


def test_a_reader_that_does_not_read_stops_nothing(
    run_muai: Any, simulated_config: Any, full_pipe: int, monkeypatch: Any
) -> None:
    start = subprocess.Popen

    def with_full_pipe(command: Any, **options: Any) -> Any:
        return start(command, **{**options, "stdout": full_pipe, "stderr": full_pipe})

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", with_full_pipe)
        running = run_muai(simulated_config())
    running.wait_ready("chat")
    running.signal(signal.SIGTERM)

    assert running.wait_end() == 0
    assert running.engines() == []


def test_it_serves_without_standard_streams(
    run_muai: Any, simulated_config: Any, monkeypatch: Any
) -> None:
    start = subprocess.Popen

    def without_streams(command: Any, **options: Any) -> Any:
        return start(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", without_streams)
        running = run_muai(simulated_config())
    running.wait_ready("chat")
    running.signal(signal.SIGTERM)

    assert running.wait_end() == 0
    assert running.engines() == []


def test_without_free_descriptors_a_lost_replica_waits_and_then_returns(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    running = run_muai(simulated_config())
    running.wait_ready("chat")
    victim = running.engine_of("chat.0")
    controller = psutil.Process(running.process.pid)
    before = controller.rlimit(resource.RLIMIT_NOFILE)
    # Every descriptor in use stays, no other can be opened.
    controller.rlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    os.killpg(victim.pid, signal.SIGKILL)
    eventually("the loss is told", lambda: "killed by SIGKILL" in running.text())
    assert len(running.engines()) == 0

    controller.rlimit(resource.RLIMIT_NOFILE, before)
    running.wait_ready("chat")
    running.signal(signal.SIGTERM)
    assert running.wait_end() == 0
    assert running.engines() == []


def test_sigquit_leaves_no_process(run_muai: Any, simulated_config: Any) -> None:
    running = run_muai(simulated_config(faults={"refuse_to_die": True}))
    running.wait_ready("chat")
    running.signal(signal.SIGQUIT)

    assert running.wait_end() == 128 + signal.SIGQUIT
    assert running.engines() == []


def test_commands_say_that_a_controller_is_still_starting(
    run_muai: Any, run_command: Any, simulated_config: Any, eventually: Any, tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(
        "import threading\n"
        "from muai_core import DeviceSource, hookimpl\n"
        "class Stuck(DeviceSource):\n"
        "    name = 'stuck'\n"
        "    def observe(self, now_s):\n"
        "        threading.Event().wait()\n"
        "@hookimpl\n"
        "def muai_device_sources():\n"
        "    return [Stuck()]\n"
    )
    config = simulated_config()
    config["plugins"] = ["stuck.py"]
    config["devices"] = {"sources": ["stuck"]}
    running = run_muai(config)
    eventually("it has claimed the directory", (running.state_dir / "instance").exists)

    done = run_command("stop", "--state-dir", str(running.state_dir))
    assert (done.returncode, "is still starting" in done.stderr) == (1, True), done.stderr
    running.signal(signal.SIGTERM)
    assert running.wait_end() in (-signal.SIGTERM, 128 + signal.SIGTERM)
    done = run_command("stop", "--state-dir", str(running.state_dir))
    assert done.returncode == 3, done.stderr


def test_a_deadline_that_passed_while_the_controller_was_stopped_fails_no_start(
    run_muai: Any, simulated_config: Any, eventually: Any
) -> None:
    config = simulated_config(load_s=2)
    config["recovery"]["load_deadline_s"] = 4
    running = run_muai(config)
    eventually("it loads", lambda: "chat.0: load" in running.text())
    running.signal(signal.SIGSTOP)
    time.sleep(5.5)  # the deadline and the time that counts as late
    running.signal(signal.SIGCONT)

    running.wait_ready("chat")
    assert running.status()["models"]["chat"]["replicas"][0]["restarts"] == 0, running.text()
