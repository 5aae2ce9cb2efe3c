"""GPUMonitor: sampling in the background."""

import logging
import subprocess
import sys
import threading
from typing import Any

import pytest

from muai_core.api import GPUManager, GPUMonitor, create_gpu_monitor

OFTEN_S = 0.01


class Exporter:
    """Notes what it is given; fails while it is told to."""

    def __init__(self) -> None:
        self.recorded: list[dict[int, dict[str, Any]]] = []
        self.failure: BaseException | None = None

    def record_all_gpu_metrics(self, manager: GPUManager) -> None:
        if self.failure is not None:
            raise self.failure
        self.recorded.append(manager.get_metrics())


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "muai-gpu-monitor"]


def test_metrics_are_recorded_at_every_interval(manager: GPUManager, wait_until: Any) -> None:
    exporter = Exporter()
    monitor = create_gpu_monitor(exporter, OFTEN_S, manager=manager)
    wait_until(lambda: monitor.samples >= 3)
    assert monitor.running
    monitor.stop()
    assert not monitor.running
    assert threads() == []
    assert all(sorted(metrics) == [0, 1, 2, 3] for metrics in exporter.recorded)
    count = len(exporter.recorded)
    assert monitor.samples == count


def test_it_may_be_started_and_stopped_again_and_again(
    manager: GPUManager, wait_until: Any
) -> None:
    monitor = create_gpu_monitor(Exporter(), OFTEN_S, auto_start=False, manager=manager)
    assert not monitor.running
    assert monitor.samples == 0
    for _ in range(3):
        before = monitor.samples
        monitor.start()
        monitor.start()
        assert threads() == ["muai-gpu-monitor"]
        wait_until(lambda before=before: monitor.samples > before)
        monitor.stop()
        monitor.stop()
        assert threads() == []


def test_it_is_a_context_manager(manager: GPUManager, wait_until: Any) -> None:
    with GPUMonitor(manager, Exporter(), OFTEN_S) as monitor:
        wait_until(lambda: monitor.samples)
    assert not monitor.running


def test_without_an_exporter_the_last_sample_is_kept(manager: GPUManager, wait_until: Any) -> None:
    with GPUMonitor(manager, monitoring_interval=OFTEN_S) as monitor:
        wait_until(lambda: monitor.latest)
    assert sorted(monitor.latest) == [0, 1, 2, 3]


def test_trouble_is_counted_logged_once_and_outlived(
    manager: GPUManager, wait_until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = Exporter()
    exporter.failure = OSError("no room for metrics")
    with (
        caplog.at_level(logging.WARNING, "muai_core.api"),
        GPUMonitor(manager, exporter, OFTEN_S) as monitor,
    ):
        wait_until(lambda: monitor.failures >= 3)
        assert monitor.last_failure == "OSError: no room for metrics"
        assert monitor.samples == 0
        exporter.failure = None
        wait_until(lambda: monitor.samples)
        assert monitor.last_failure is None
    assert [record.message for record in caplog.records] == [
        "the GPUs could not be recorded: OSError: no room for metrics"
    ]


def test_a_source_that_raises_does_not_end_it(
    manager: GPUManager, box: Any, wait_until: Any
) -> None:
    with GPUMonitor(manager, Exporter(), OFTEN_S) as monitor:
        wait_until(lambda: monitor.samples)
        box.failure = RuntimeError("driver gone")
        before = monitor.samples
        wait_until(lambda: monitor.samples > before + 1)


def test_several_threads_may_stop_it(manager: GPUManager, wait_until: Any) -> None:
    monitor = create_gpu_monitor(Exporter(), OFTEN_S, manager=manager)
    wait_until(lambda: monitor.samples)
    stoppers = [threading.Thread(target=monitor.stop) for _ in range(4)]
    for stopper in stoppers:
        stopper.start()
    for stopper in stoppers:
        stopper.join(30)
    assert threads() == []


@pytest.mark.parametrize("interval", [0, -1.0, float("nan")])
def test_an_impossible_interval_is_refused(manager: GPUManager, interval: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        GPUMonitor(manager, Exporter(), interval)


def test_it_never_keeps_the_process_alive() -> None:
    program = (
        "from muai_core.api import create_gpu_monitor; monitor = create_gpu_monitor();"
        "\nwhile not monitor.samples: pass\nprint(monitor.running)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
