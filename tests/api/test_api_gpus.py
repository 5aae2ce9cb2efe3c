"""GPUManager: what it sees."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from muai_core.api import GPUInfo, GPUManager, UnknownGPU, gpu_manager
from muai_core.config import ConfigError
from muai_core.model.device import HostFault
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import Happening
from muai_core.runtime.cpu_source import CpuSource

GIB = 1024**3
LOST = Finding(
    kind="xid",
    code=79,
    severity=Health.FAILED,
    recovery="reboot",
    reason="XID 79: fell off the bus",
    advice="reboot the node",
    clears="repaired",
)


def test_gpus_are_detected_with_what_they_tell(manager: GPUManager, box: Any) -> None:
    box.reads(
        1,
        memory_used_bytes=8 * GIB,
        memory_reserved_bytes=1 * GIB,
        utilization_percent=75.5,
        temperature_celsius=65.0,
    )
    gpus = manager.detect_gpus()
    assert [gpu.device_id for gpu in gpus] == [0, 1, 2, 3]
    gpu = gpus[1]
    assert isinstance(gpu, GPUInfo)
    assert (gpu.uuid, gpu.name, gpu.node, gpu.index) == ("GPU-1", "G", "box", 1)
    assert (gpu.memory_total_bytes, gpu.memory_total_mb) == (80 * GIB, 80 * 1024)
    assert (gpu.memory_used_bytes, gpu.memory_used_mb) == (8 * GIB, 8 * 1024)
    assert (gpu.memory_available_bytes, gpu.memory_available_mb) == (71 * GIB, 71 * 1024)
    assert (gpu.utilization, gpu.temperature) == (75.5, 65.0)
    assert (gpu.health, gpu.is_healthy, gpu.health_reason) == (Health.HEALTHY, True, None)


def test_what_a_gpu_does_not_tell_is_none(manager: GPUManager) -> None:
    gpu = manager.detect_gpus()[0]
    assert gpu.memory_used_bytes is gpu.memory_used_mb is gpu.memory_available_mb is None
    assert gpu.utilization is gpu.temperature is gpu.power_watts is None


def test_the_cpu_is_no_gpu() -> None:
    with GPUManager(sources=[CpuSource()]) as manager:
        assert manager.detect_gpus() == []
        assert manager.get_metrics() == {}


def test_without_a_gpu_errors_are_friendly(make_box: Any) -> None:
    box = make_box(0)
    box.absence = "no NVIDIA driver is installed"
    with GPUManager(sources=[box]) as manager:
        assert manager.detect_gpus() == []
        with pytest.raises(UnknownGPU, match="no GPU was found; no NVIDIA driver is installed"):
            manager.check_health(0)


def test_a_source_that_fails_is_told(manager: GPUManager, box: Any) -> None:
    box.failure = OSError("driver/library version mismatch")
    assert manager.detect_gpus() == []
    with pytest.raises(UnknownGPU, match="box: OSError: driver/library version mismatch"):
        manager.check_health(0)


def test_an_unknown_id_is_told_which_there_are(manager: GPUManager) -> None:
    with pytest.raises(UnknownGPU, match="there is no GPU 7; there are: 0, 1, 2, 3"):
        manager.check_health(7)


def test_metrics_are_those_that_exporters_record(manager: GPUManager, box: Any) -> None:
    box.reads(2, memory_used_bytes=20 * GIB, memory_free_bytes=59 * GIB, utilization_percent=50.0)
    metrics = manager.get_metrics()
    assert list(metrics) == [0, 1, 2, 3]
    assert metrics[2] == {
        "device_id": 2,
        "memory_used_mb": 20 * 1024,
        "memory_available_mb": 59 * 1024,
        "utilization_percent": 50.0,
        "temperature_celsius": None,
        "is_healthy": True,
        "health": "healthy",
    }


def test_a_gpu_that_vanishes_keeps_its_health_and_loses_its_readings(
    manager: GPUManager, box: Any
) -> None:
    box.reads(3, memory_used_bytes=1 * GIB, temperature_celsius=40.0)
    assert manager.get_metrics()[3]["temperature_celsius"] == 40.0
    del box.devices[3]
    assert [gpu.device_id for gpu in manager.detect_gpus()] == [0, 1, 2]
    lost = manager.get_metrics()[3]
    assert (lost["is_healthy"], lost["health"]) == (False, "failed")
    assert lost["memory_used_mb"] is lost["temperature_celsius"] is None
    assert not manager.check_health(3).healthy


def test_readings_of_a_source_that_fails_are_not_told_as_new(manager: GPUManager, box: Any) -> None:
    box.reads(0, utilization_percent=30.0)
    assert manager.get_metrics()[0]["utilization_percent"] == 30.0
    box.failure = RuntimeError("gone")
    assert manager.get_metrics()[0]["utilization_percent"] is None


def test_what_was_read_before_a_fault_of_the_host_is_not_told_as_new(
    manager: GPUManager, box: Any
) -> None:
    box.reads(0, utilization_percent=30.0)
    manager.detect_gpus()
    box.fault = HostFault(kind="probe_failed", reason="NVML crashes", advice="look")
    gpu = manager.detect_gpus()[0]
    assert (gpu.health, gpu.utilization_percent) == (Health.UNKNOWN, None)


def test_health_has_reason_advice_and_findings(manager: GPUManager, box: Any) -> None:
    assert manager.check_health(3).healthy
    box.reads(3, findings=(LOST,))
    report = manager.check_health(3)
    assert (report.device_id, report.healthy, report.health) == (3, False, Health.FAILED)
    assert "fell off the bus" in (report.reason or "")
    assert report.advice == "reboot the node"
    assert report.findings == (LOST,)
    assert manager.check_health(2).healthy


def test_a_failure_is_remembered_when_the_reading_is_clean_again(
    manager: GPUManager, box: Any
) -> None:
    box.reads(3, findings=(LOST,))
    manager.detect_gpus()
    box.reads(3, findings=())
    for _ in range(10):
        assert manager.check_health(3).health is Health.FAILED


def test_what_changes_is_logged_once_with_what_to_do(
    manager: GPUManager, box: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manager.detect_gpus()
    box.reads(3, findings=(LOST,))
    with caplog.at_level(logging.WARNING, "muai_core.api"):
        manager.detect_gpus()
        manager.detect_gpus()
    (record,) = caplog.records
    assert "XID 79: fell off the bus" in record.getMessage()
    assert "reboot the node" in record.getMessage()


def test_what_happens_between_two_looks_counts(manager: GPUManager, box: Any) -> None:
    manager.detect_gpus()
    box.tell(Happening(uuid="GPU-1", finding=LOST))
    assert manager.check_health(1).health is Health.FAILED


def test_ids_stay_when_gpus_come_and_go(manager: GPUManager, box: Any) -> None:
    first = box.devices.pop(0)
    assert [gpu.device_id for gpu in manager.detect_gpus()] == [1, 2, 3]
    box.devices = {0: first, **box.devices}
    back = manager.detect_gpus()[0]
    assert (back.device_id, back.uuid) == (0, "GPU-0")


def test_gpus_that_share_an_index_have_ids_of_their_own(make_box: Any) -> None:
    here, there = make_box(2), make_box(2, node="other")
    there.name = "there"
    for number, device in there.devices.items():
        there.devices[number] = structs.replace(device, uuid=f"GPU-there-{number}")
        there.reads(number, uuid=f"GPU-there-{number}")
    with GPUManager(sources=[here, there]) as manager:
        found = [(gpu.device_id, gpu.node, gpu.index) for gpu in manager.detect_gpus()]
    assert found == [(0, "box", 0), (1, "box", 1), (2, "other", 0), (3, "other", 1)]


def test_sources_stay_open_until_the_manager_closes(make_box: Any) -> None:
    box = make_box(1)
    manager = GPUManager(sources=[box])
    assert box.observed == 0
    for _ in range(3):
        manager.detect_gpus()
    assert (box.opened, box.observed, box.closed) == (1, 3, 0)
    manager.close()
    manager.close()
    assert (box.closed, manager.closed) == (1, True)
    with pytest.raises(RuntimeError, match="closed"):
        manager.detect_gpus()


def test_a_manager_that_nobody_has_any_more_closes_its_sources(
    make_box: Any, wait_until: Any
) -> None:
    box = make_box(1)
    GPUManager(sources=[box]).detect_gpus()
    wait_until(lambda: box.closed)


def test_several_threads_may_ask_at_once(manager: GPUManager) -> None:
    answers: list[int] = []

    def ask() -> None:
        for _ in range(5):
            answers.append(len(manager.get_metrics()))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [4] * 40


def test_a_config_names_the_sources(simulated_config: Path) -> None:
    with GPUManager(config=simulated_config) as manager:
        gpus = manager.detect_gpus()
    assert [gpu.name for gpu in gpus] == ["NVIDIA A100-SXM4-80GB"] * 4


def test_a_wrong_config_says_where(tmp_path: Path) -> None:
    config = tmp_path / "muai.yaml"
    config.write_text("devices: {sources: [nothing]}\n")
    with pytest.raises(ConfigError, match=r"muai\.yaml:1"):
        GPUManager(config=config)


def test_config_and_sources_exclude_each_other(box: Any, simulated_config: Path) -> None:
    with pytest.raises(ValueError, match="exclude"):
        GPUManager(config=simulated_config, sources=[box])


@pytest.fixture
def of_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """get_gpu_manager as in a process that has not called it yet; closed in the end."""
    monkeypatch.setattr(gpu_manager, "_manager", None)
    yield gpu_manager.get_gpu_manager
    if gpu_manager._manager is not None:
        gpu_manager._manager.close()


def test_a_process_has_one_manager(of_process: Any, simulated_config: Path) -> None:
    first = of_process(config=simulated_config)
    assert of_process() is first
    assert of_process(str(simulated_config)) is first
    with pytest.raises(ValueError, match=r"has a GPUManager already, made with .*muai\.yaml"):
        of_process("other.yaml")


def test_a_closed_manager_is_replaced(of_process: Any, simulated_config: Path) -> None:
    first = of_process(config=simulated_config)
    first.close()
    second = of_process(config=simulated_config)
    assert second is not first
    assert len(second.detect_gpus()) == 4


def test_threads_that_ask_at_once_get_the_same_manager(of_process: Any) -> None:
    barrier = threading.Barrier(8)
    found: list[GPUManager] = []

    def ask() -> None:
        barrier.wait(30)
        found.append(of_process())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len({id(manager) for manager in found}) == 1


def test_a_forked_child_makes_a_manager_of_its_own(simulated_config: Path) -> None:
    program = (
        "import os, sys\n"
        "from muai_core.api import get_gpu_manager\n"
        "first = get_gpu_manager(sys.argv[1])\n"
        "assert len(first.detect_gpus()) == 4\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    own = get_gpu_manager(sys.argv[1])\n"
        "    os._exit(0 if own is not first and len(own.detect_gpus()) == 4 else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(simulated_config)],
        env=os.environ,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
