"""The exporter for scripts: the seed's example to the byte, honest about what is unknown."""

import contextlib
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from muai_prometheus import PrometheusExporter
from prometheus_client.parser import text_string_to_metric_families

from muai_core.api import GPUManager
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.metric_sink import SinkError
from muai_core.telemetry.device_catalogue import (
    HEALTH,
    MEMORY_AVAILABLE,
    MEMORY_USED,
    TEMPERATURE,
    UTILIZATION,
)

CONTRACT = (MEMORY_USED, MEMORY_AVAILABLE, UTILIZATION, TEMPERATURE, HEALTH)


@pytest.fixture
def exporter() -> Iterator[PrometheusExporter]:
    one = PrometheusExporter(port=0)
    one.start_server()
    yield one
    one.stop_server()


def lines(exporter: PrometheusExporter) -> list[str]:
    with urllib.request.urlopen(str(exporter.url), timeout=20) as response:
        text: str = response.read().decode()
    return [line for line in text.splitlines() if line.startswith("gpu_")]


class Manager:
    def __init__(self, metrics: Mapping[int, Mapping[str, Any]]) -> None:
        self.metrics = metrics

    def get_metrics(self) -> Mapping[int, Mapping[str, Any]]:
        return self.metrics


def told(gpu_id: int, **values: Any) -> dict[str, Any]:
    full = {
        "device_id": gpu_id,
        "memory_used_mb": 1024.0,
        "memory_available_mb": 80000.0,
        "utilization_percent": 50.0,
        "temperature_celsius": 40.0,
        "is_healthy": True,
        "health": "healthy",
    }
    return full | values


def test_the_example_gives_this_text(exporter: PrometheusExporter) -> None:
    exporter.record_per_gpu_metrics(
        gpu_id=0,
        memory_used_mb=8192,
        memory_available_mb=7808,
        utilization_percent=75.5,
        temperature_celsius=65.0,
        is_healthy=True,
    )
    assert lines(exporter) == [
        'gpu_memory_used_bytes{gpu_id="0"} 8589934592',
        'gpu_memory_available_bytes{gpu_id="0"} 8187281408',
        'gpu_utilization_percent{gpu_id="0"} 75.5',
        'gpu_temperature_celsius{gpu_id="0"} 65',
        'gpu_health_status{gpu_id="0"} 1',
    ]


def test_the_names_and_texts_are_those_of_the_controller(exporter: PrometheusExporter) -> None:
    exporter.record_per_gpu_metrics(0, 1, 1, 1, 1)
    with urllib.request.urlopen(str(exporter.url), timeout=20) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    shown = {(f.name, f.type, f.documentation) for f in families if f.name.startswith("gpu_")}
    assert shown == {(metric.name, metric.kind, metric.help) for metric in CONTRACT}


def test_each_record_replaces_the_last_one(exporter: PrometheusExporter) -> None:
    exporter.record_per_gpu_metrics(0, 1024, 1024, 10.0, 30.0)
    exporter.record_per_gpu_metrics(1, 1024, 1024, 20.0, 30.0)
    exporter.record_per_gpu_metrics(0, utilization_percent=90.0, is_healthy=False)
    assert lines(exporter) == [
        'gpu_memory_used_bytes{gpu_id="1"} 1073741824',
        'gpu_memory_available_bytes{gpu_id="1"} 1073741824',
        'gpu_utilization_percent{gpu_id="0"} 90',
        'gpu_utilization_percent{gpu_id="1"} 20',
        'gpu_temperature_celsius{gpu_id="1"} 30',
        'gpu_health_status{gpu_id="0"} 0',
        'gpu_health_status{gpu_id="1"} 1',
    ]


def test_all_gpus_of_a_manager(exporter: PrometheusExporter) -> None:
    silent = dict.fromkeys(
        (
            "memory_used_mb",
            "memory_available_mb",
            "utilization_percent",
            "temperature_celsius",
        )
    )
    manager = Manager({0: told(0), 1: told(1, is_healthy=False, health="failed", **silent)})
    exporter.record_all_gpu_metrics(manager)
    assert lines(exporter) == [
        'gpu_memory_used_bytes{gpu_id="0"} 1073741824',
        'gpu_memory_available_bytes{gpu_id="0"} 83886080000',
        'gpu_utilization_percent{gpu_id="0"} 50',
        'gpu_temperature_celsius{gpu_id="0"} 40',
        'gpu_health_status{gpu_id="0"} 1',
        'gpu_health_status{gpu_id="1"} 0',
    ]


class Box(DeviceSource):
    """Two GPUs; the second answers until it is lost."""

    name = "box"

    def __init__(self) -> None:
        self.lost = False

    def observe(self, now_s: float) -> Inventory:
        devices = [
            Device(
                uuid=f"GPU-{index}",
                node="box",
                index=index,
                kind="gpu",
                platform="cuda",
                name="G",
                memory_total_bytes=80 * 2**30,
            )
            for index in range(2)
        ]
        readings = [
            DeviceReading(
                uuid=device.uuid,
                memory_used_bytes=8 * 2**30,
                utilization_percent=75.5,
                temperature_celsius=65.0,
            )
            for device in devices
        ]
        if self.lost:
            finding = Finding(kind="gpu_lost", severity=Health.FAILED, reason="it is lost")
            readings[1] = DeviceReading(uuid="GPU-1", findings=(finding,))
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=tuple(devices),
            readings=tuple(readings),
        )


def test_the_manager_of_the_api_tells_the_same_as_the_controller(
    exporter: PrometheusExporter,
) -> None:
    box = Box()
    with contextlib.closing(GPUManager(sources=[box])) as manager:
        exporter.record_all_gpu_metrics(manager)
        assert [line for line in lines(exporter) if 'gpu_id="1"' in line] == [
            'gpu_memory_used_bytes{gpu_id="1"} 8589934592',
            'gpu_memory_available_bytes{gpu_id="1"} 77309411328',
            'gpu_utilization_percent{gpu_id="1"} 75.5',
            'gpu_temperature_celsius{gpu_id="1"} 65',
            'gpu_health_status{gpu_id="1"} 1',
        ]
        box.lost = True
        manager.detect_gpus()
        exporter.record_all_gpu_metrics(manager)
        assert [line for line in lines(exporter) if 'gpu_id="1"' in line] == [
            'gpu_health_status{gpu_id="1"} 0'
        ]
        assert len([line for line in lines(exporter) if 'gpu_id="0"' in line]) == 5


def test_a_gpu_that_the_manager_no_longer_lists_is_lost(exporter: PrometheusExporter) -> None:
    exporter.record_all_gpu_metrics(Manager({0: told(0), 1: told(1)}))
    exporter.record_all_gpu_metrics(Manager({0: told(0)}))
    of_one = [line for line in lines(exporter) if 'gpu_id="1"' in line]
    assert of_one == ['gpu_health_status{gpu_id="1"} 0']
    exporter.record_all_gpu_metrics(Manager({0: told(0), 1: told(1)}))
    assert len(lines(exporter)) == 10


def test_a_manager_with_nonsense_changes_nothing(exporter: PrometheusExporter) -> None:
    exporter.record_all_gpu_metrics(Manager({0: told(0)}))
    before = lines(exporter)
    with pytest.raises(ValueError, match="GPU 1: utilization_percent is 101"):
        exporter.record_all_gpu_metrics(Manager({1: told(1, utilization_percent=101), 2: told(2)}))
    assert lines(exporter) == before


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"gpu_id": -1}, ValueError, "gpu_id is -1; it must be 0 or above"),
        ({"gpu_id": "0"}, TypeError, "gpu_id is '0'; it must be a whole number, 0 or above"),
        (
            {"memory_used_mb": -1},
            ValueError,
            "GPU 0: memory_used_mb is -1; it must be a number, 0 or above, or None if unknown",
        ),
        ({"memory_available_mb": float("inf")}, ValueError, "memory_available_mb is inf"),
        (
            {"utilization_percent": 100.5},
            ValueError,
            "utilization_percent is 100.5; it must be a number, from 0 to 100, or None",
        ),
        ({"temperature_celsius": float("nan")}, ValueError, "temperature_celsius is nan"),
        ({"temperature_celsius": "warm"}, TypeError, "temperature_celsius is 'warm'; it must be"),
        ({"is_healthy": "yes"}, TypeError, "is_healthy is 'yes'; it must be True or False"),
    ],
)
def test_nonsense_is_refused_in_words(
    values: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text.replace(".", r"\.")):
        PrometheusExporter().record_per_gpu_metrics(**({"gpu_id": 0} | values))


@pytest.mark.parametrize("port", [-1, 65536, "9090", True, 1.5])
def test_ports_are_checked(port: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="from 0 to 65535"):
        PrometheusExporter(port=port)


def test_the_server_starts_and_stops_again_and_again() -> None:
    exporter = PrometheusExporter(port=0)
    assert exporter.url is None
    exporter.stop_server()
    for _ in range(2):
        exporter.start_server()
        url = exporter.url
        exporter.start_server()
        assert exporter.url == url
        exporter.record_per_gpu_metrics(gpu_id=3)
        assert lines(exporter) == ['gpu_health_status{gpu_id="3"} 1']
        exporter.stop_server()
        exporter.stop_server()
        assert exporter.url is None


def test_a_taken_port_names_its_holder_and_the_argument() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(
            SinkError, match=f"port {port} on 127.0.0.1 is in use by .*; set port to"
        ):
            PrometheusExporter(port=port).start_server()


def test_threads_may_record_while_it_is_scraped(exporter: PrometheusExporter) -> None:
    start = threading.Barrier(5)

    def record(gpu_id: int) -> None:
        start.wait(20)
        for number in range(50):
            exporter.record_per_gpu_metrics(gpu_id, utilization_percent=number)

    threads = [threading.Thread(target=record, args=(gpu_id,)) for gpu_id in range(4)]
    for thread in threads:
        thread.start()
    start.wait(20)
    for _ in range(10):
        lines(exporter)
    for thread in threads:
        thread.join(60)
    used = [line for line in lines(exporter) if line.startswith("gpu_utilization")]
    assert used == [f'gpu_utilization_percent{{gpu_id="{gpu_id}"}} 49' for gpu_id in range(4)]


def test_importing_the_package_does_not_import_the_exporter() -> None:
    program = "import sys, muai_prometheus; print('prometheus_client' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "False"
