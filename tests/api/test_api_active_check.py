"""GPUManager.check_health(active=True): a self-test in a process of its own."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from muai_core.api import GPUManager
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import SelfTest

GIB = 1024**3
DOUBTFUL = Finding(kind="xid", code=48, severity=Health.FAILED, reason="XID 48", clears="checked")
WRONG = {"kind": "computation", "severity": "failed", "reason": "2 + 2 is 5", "clears": "checked"}


def says(result: dict[str, Any]) -> tuple[str, ...]:
    return (sys.executable, "-c", f"print({json.dumps(json.dumps(result))})")


@pytest.fixture
def tested(box: Any) -> Any:
    """Lets a test write what the self-tests of the box do."""

    def set_test(argv: tuple[str, ...], **fields: Any) -> None:
        fields = {"timeout_s": 30.0, "memory_bytes": 1 * GIB, **fields}
        box.self_test = lambda device: SelfTest(argv=argv, **fields)

    return set_test


def test_a_self_test_that_passes_is_told(manager: GPUManager, tested: Any) -> None:
    tested(says({"detail": "computed as expected"}))
    report = manager.check_health(0, active=True)
    assert (report.healthy, report.self_test) == (True, "passed: computed as expected")
    assert manager.check_health(0).self_test is None


def test_what_a_self_test_finds_counts(manager: GPUManager, tested: Any) -> None:
    tested(says({"finding": WRONG}))
    report = manager.check_health(1, active=True)
    assert report.self_test == "failed: 2 + 2 is 5"
    assert (report.healthy, report.health) == (False, Health.FAILED)
    assert manager.check_health(1).reason == "2 + 2 is 5"
    assert manager.check_health(0).healthy


def test_a_self_test_that_passes_clears_what_only_it_can_clear(
    manager: GPUManager, box: Any, tested: Any
) -> None:
    box.reads(2, findings=(DOUBTFUL,))
    assert not manager.check_health(2).healthy
    box.reads(2, findings=())
    assert not manager.check_health(2).healthy
    tested(says({}))
    report = manager.check_health(2, active=True)
    assert (report.self_test, report.healthy, report.findings) == ("passed", True, ())


def test_a_gpu_that_failed_a_self_test_may_pass_a_later_one(
    manager: GPUManager, tested: Any
) -> None:
    tested(says({"finding": WRONG}))
    assert not manager.check_health(0, active=True).healthy
    tested(says({}))
    assert manager.check_health(0, active=True).healthy


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/nowhere/at-all",), "it cannot be started"),
        ((sys.executable, "-c", "import sys; sys.exit('no driver')"), "no driver"),
        ((sys.executable, "-c", "print('fine')"), "its last line is not a result"),
        (says({"inconclusive": "no memory left"}), "no memory left"),
    ],
)
def test_what_proves_nothing_counts_nothing(
    manager: GPUManager, tested: Any, argv: tuple[str, ...], words: str
) -> None:
    tested(argv)
    report = manager.check_health(0, active=True)
    assert report.healthy
    assert (report.self_test or "").startswith("proved nothing: ")
    assert words in (report.self_test or "")


def test_a_source_without_self_tests_says_so(manager: GPUManager) -> None:
    report = manager.check_health(0, active=True)
    assert report.self_test == "proved nothing: device source box has no self-test for this device"


def test_a_self_test_that_hangs_is_killed_with_its_children(
    manager: GPUManager, tested: Any, tmp_path: Path, wait_until: Any
) -> None:
    pid_file = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    tested((sys.executable, "-c", program), timeout_s=2.0)
    report = manager.check_health(0, active=True)
    assert report.self_test == "proved nothing: it was not done after 2 s and was killed"
    child = int(pid_file.read_text())
    wait_until(lambda: _is_gone(child))


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_gpu_without_room_is_left_alone(manager: GPUManager, tested: Any) -> None:
    tested(says({}))
    with manager.allocate_gpus(tensor_parallel=4):
        report = manager.check_health(0, active=True)
    assert report.self_test == (
        "proved nothing: it takes 1.00 GiB of the device's memory, 0 MiB are free"
    )


def test_others_may_ask_while_a_self_test_runs(
    manager: GPUManager, tested: Any, tmp_path: Path, wait_until: Any
) -> None:
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    program = (
        "import pathlib, time\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)\n"
        "print('{}')\n"
    )
    tested((sys.executable, "-c", program))
    reports: list[Any] = []
    checker = threading.Thread(
        target=lambda: reports.append(manager.check_health(0, active=True)), daemon=True
    )
    checker.start()
    wait_until(started.exists)
    assert len(manager.get_metrics()) == 4
    assert reports == []
    go_on.touch()
    checker.join(30)
    assert [report.self_test for report in reports] == ["passed"]


def test_an_operator_may_reinstate_a_gpu(manager: GPUManager, box: Any) -> None:
    broken = Finding(kind="xid", code=79, severity=Health.FAILED, reason="x", clears="repaired")
    box.reads(0, findings=(broken,))
    manager.detect_gpus()
    box.reads(0, findings=())
    assert not manager.check_health(0).healthy
    manager.reinstate(0)
    assert manager.check_health(0).healthy


def test_the_self_test_of_a_simulated_gpu_runs(simulated_config: Path) -> None:
    state = simulated_config.with_name("gpus.yaml")
    with GPUManager(config=simulated_config) as manager:
        assert manager.check_health(0, active=True).self_test == (
            "passed: computed as expected, by the state file"
        )
        state.write_text("devices: {0: {self_test: fail}}\n")
        report = manager.check_health(0, active=True)
    assert (report.health, report.self_test) == (
        Health.FAILED,
        "failed: self-test: a computation had a wrong result, by the state file",
    )
