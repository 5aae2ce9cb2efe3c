"""Sampling the GPUs in the background."""

import logging
import threading
import time
from typing import Any, Protocol

from muai_core.api.gpu_manager import GPUManager, get_gpu_manager
from muai_core.planning.wording import described

_log = logging.getLogger(__name__)

#: Longer than a look at the GPUs can take.
_STOP_TIMEOUT_S = 15.0


class GPUExporter(Protocol):
    """What gets the samples; `muai_prometheus.PrometheusExporter` is one."""

    def record_all_gpu_metrics(self, manager: Any) -> object:
        """Called once per interval, on the monitor's thread, with the manager; may raise."""


class GPUMonitor:
    """Records the metrics of all GPUs at every interval, on a thread of its own.

    Whatever the exporter or a driver raises is counted and logged, the same trouble once; the next
    interval tries again. The thread never keeps the process alive. Safe to use from several
    threads; as a context manager it runs inside the `with`.
    """

    def __init__(
        self,
        manager: GPUManager | None = None,
        prometheus_exporter: GPUExporter | None = None,
        monitoring_interval: float = 5.0,
    ) -> None:
        """`monitoring_interval` is in seconds; without a manager it is that of the process.

        Without an exporter the GPUs' health is followed and `latest` is kept. Raises ValueError.
        """
        if not monitoring_interval > 0:
            raise ValueError(f"monitoring_interval is {monitoring_interval}; it must be above 0")
        self.manager = get_gpu_manager() if manager is None else manager
        self.monitoring_interval = monitoring_interval
        #: Intervals that were recorded, and those that failed.
        self.samples = 0
        self.failures = 0
        #: In words; None after a sample that was recorded.
        self.last_failure: str | None = None
        #: `GPUManager.get_metrics` of the last sample; only without an exporter.
        self.latest: dict[int, dict[str, Any]] = {}
        self._exporter = prometheus_exporter
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive() and not self._stop.is_set()

    def start(self) -> None:
        """Sample at once, then at every interval. Does nothing while it runs."""
        with self._lock:
            if self.running:
                return
            # An event of its own: a thread that a stop could not wait for must not come back.
            self._stop = threading.Event()
            self._thread = threading.Thread(
                target=self._run, args=(self._stop,), name="muai-gpu-monitor", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the sampling and wait for the thread. Does nothing when it does not run."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT_S)

    def __enter__(self) -> "GPUMonitor":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, stop: threading.Event) -> None:
        due_s = time.monotonic()
        while not stop.is_set():
            self._sample()
            # A sample that took too long delays the next; none is made up for.
            due_s = max(due_s + self.monitoring_interval, time.monotonic())
            stop.wait(due_s - time.monotonic())

    def _sample(self) -> None:
        try:
            if self._exporter is None:
                self.latest = self.manager.get_metrics()
            else:
                self._exporter.record_all_gpu_metrics(self.manager)
        except Exception as error:  # noqa: BLE001 - the next interval must come
            self.failures += 1
            words = described(error)
            if words != self.last_failure:
                _log.warning("the GPUs could not be recorded: %s", words)
            self.last_failure = words
        else:
            self.samples += 1
            self.last_failure = None


def create_gpu_monitor(
    prometheus_exporter: GPUExporter | None = None,
    monitoring_interval: float = 5.0,
    auto_start: bool = True,
    manager: GPUManager | None = None,
) -> GPUMonitor:
    """A monitor of the process's GPUs, or of another manager's; it runs already with `auto_start`.

    `monitoring_interval` is in seconds. Raises what GPUMonitor raises.
    """
    monitor = GPUMonitor(manager, prometheus_exporter, monitoring_interval)
    if auto_start:
        monitor.start()
    return monitor
