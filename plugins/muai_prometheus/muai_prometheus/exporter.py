"""GPU metrics for Prometheus from any Python program, without a controller."""

import math
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_prometheus.exposition import Exposition
from muai_prometheus.server import MetricsServer

_MIB = 2**20
#: Nothing is colder.
_ABSOLUTE_ZERO_CELSIUS = -273.15

#: The contract, in the order of the arguments: name and help, as in the controller's metrics.
_GAUGES = (
    (
        "gpu_memory_used_bytes",
        "Memory that processes hold on the GPU, whoever they belong to.",
    ),
    ("gpu_memory_available_bytes", "Memory of the GPU that nobody uses."),
    ("gpu_utilization_percent", "Share of time in which the GPU was busy, 0 to 100."),
    ("gpu_temperature_celsius", "Temperature of the GPU."),
    (
        "gpu_health_status",
        "1 while the GPU may get new work (healthy or degraded), else 0.",
    ),
)


class GpuMetrics(Protocol):
    """What the exporter needs of a GPU manager, such as `muai_core.api.GPUManager`."""

    def get_metrics(self) -> Mapping[int, Mapping[str, Any]]:
        """By device id: `memory_used_mb`, `memory_available_mb`, `utilization_percent`,
        `temperature_celsius`, each None when unknown, and `is_healthy`."""


class PrometheusExporter:
    """Serves the five GPU gauges at `/metrics`. Safe from several threads.

    The controller of `muai run` has a sink of its own; this is for scripts and notebooks.
    """

    def __init__(self, port: int = 9090, host: str = "127.0.0.1") -> None:
        """Does not listen yet. Port 0 lets the system choose a free one.

        Raises TypeError or ValueError when no port or address can be meant.
        """
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port is {port!r}; it must be a whole number from 0 to 65535")
        if not 0 <= port <= 65535:
            raise ValueError(f"port is {port}; it must be from 0 to 65535")
        if not isinstance(host, str) or not host:
            raise TypeError(f"host is {host!r}; it must be an address, such as 127.0.0.1")
        self._address = (host, port)
        self._lock = threading.Lock()
        self._exposition = Exposition()
        self._server: MetricsServer | None = None
        #: One value for each of the gauges, by GPU; None: no series.
        self._values: dict[int, tuple[float | None, ...]] = {}

    @property
    def url(self) -> str | None:
        """Where the metrics are; None while the server is not started."""
        with self._lock:
            return None if self._server is None else self._server.url

    def start_server(self) -> None:
        """Listen, in a thread of its own; returns at once. A started server stays as it is.

        Raises muai_core.plugin.metric_sink.SinkError when the port is taken or the address is no
        address of this machine.
        """
        with self._lock:
            if self._server is not None:
                return
            host, port = self._address
            server = MetricsServer(host, port, "/metrics", self._exposition.render, settings="")
            server.start()
            self._server = server

    def stop_server(self) -> None:
        """Free the port. What was recorded stays for the next start. May be repeated."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stop()

    def record_per_gpu_metrics(
        self,
        gpu_id: int,
        memory_used_mb: float | None = None,
        memory_available_mb: float | None = None,
        utilization_percent: float | None = None,
        temperature_celsius: float | None = None,
        is_healthy: bool = True,
    ) -> None:
        """Replace all that is told of one GPU. None means unknown: that series ends.

        Memory is in MiB, 2**20 bytes each. Raises TypeError for what is no number, ValueError for
        numbers that cannot be.
        """
        values = _checked(
            gpu_id,
            memory_used_mb,
            memory_available_mb,
            utilization_percent,
            temperature_celsius,
            is_healthy,
        )
        with self._lock:
            self._values[gpu_id] = values
            self._publish()

    def record_all_gpu_metrics(self, manager: GpuMetrics) -> None:
        """Replace all that is told of every GPU with what the manager knows now.

        A GPU that the manager no longer lists is lost: it keeps `gpu_health_status`, at 0. Raises
        like `record_per_gpu_metrics`, or what the manager raises; nothing is changed then.
        """
        found = {
            gpu_id: _checked(
                gpu_id,
                told.get("memory_used_mb"),
                told.get("memory_available_mb"),
                told.get("utilization_percent"),
                told.get("temperature_celsius"),
                told["is_healthy"],
            )
            for gpu_id, told in manager.get_metrics().items()
        }
        with self._lock:
            lost = (None, None, None, None, 0.0)
            self._values = dict.fromkeys(self._values, lost) | found
            self._publish()

    def _publish(self) -> None:
        gpus = sorted(self._values.items())
        families = []
        for place, (name, text) in enumerate(_GAUGES):
            points = [
                MetricPoint((str(gpu_id),), value)
                for gpu_id, values in gpus
                if (value := values[place]) is not None
            ]
            if points:
                families.append(
                    MetricFamily(
                        name=name,
                        kind="gauge",
                        help=text,
                        label_names=("gpu_id",),
                        points=tuple(points),
                    )
                )
        self._exposition.publish(families)


def _checked(
    gpu_id: int,
    memory_used_mb: float | None,
    memory_available_mb: float | None,
    utilization_percent: float | None,
    temperature_celsius: float | None,
    is_healthy: bool,
) -> tuple[float | None, ...]:
    """The values of the five gauges."""
    if isinstance(gpu_id, bool) or not isinstance(gpu_id, int):
        raise TypeError(f"gpu_id is {gpu_id!r}; it must be a whole number, 0 or above")
    if gpu_id < 0:
        raise ValueError(f"gpu_id is {gpu_id}; it must be 0 or above")
    if not isinstance(is_healthy, bool):
        raise TypeError(f"GPU {gpu_id}: is_healthy is {is_healthy!r}; it must be True or False")
    used = _number(gpu_id, "memory_used_mb", memory_used_mb, 0.0)
    available = _number(gpu_id, "memory_available_mb", memory_available_mb, 0.0)
    return (
        None if used is None else round(used * _MIB),
        None if available is None else round(available * _MIB),
        _number(gpu_id, "utilization_percent", utilization_percent, 0.0, 100.0),
        _number(gpu_id, "temperature_celsius", temperature_celsius, _ABSOLUTE_ZERO_CELSIUS),
        float(is_healthy),
    )


def _number(
    gpu_id: int, name: str, value: float | None, lowest: float, highest: float = math.inf
) -> float | None:
    if value is None:
        return None
    allowed = f"{lowest:g} or above" if highest == math.inf else f"from {lowest:g} to {highest:g}"
    what = f"GPU {gpu_id}: {name} is {value!r}; it must be a number, {allowed}, or None if unknown"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(what)
    if not (lowest <= value <= highest and math.isfinite(value)):
        raise ValueError(what)
    return float(value)
