"""A sink on a free port, and the families to publish."""

import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from muai_prometheus import PrometheusSink

from muai_core.control.state import DeviceHealth, DeviceRecord
from muai_core.model.device import Device, DeviceReading
from muai_core.model.health import Finding, Health
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry.catalogue import METRICS
from muai_core.telemetry.devices import DeviceCollector, DeviceFacts

GIB = 2**30


@pytest.fixture
def open_sink() -> Iterator[Callable[..., PrometheusSink]]:
    sinks: list[PrometheusSink] = []

    def open_one(**options: Any) -> PrometheusSink:
        sink = PrometheusSink()
        sink.open({"port": 0} | options)
        sinks.append(sink)
        return sink

    yield open_one
    for sink in sinks:
        sink.close()


@pytest.fixture
def sink(open_sink: Callable[..., PrometheusSink]) -> PrometheusSink:
    return open_sink()


@pytest.fixture
def scrape(sink: PrometheusSink) -> Callable[..., str]:
    """The text of `/metrics`, without the series of the process unless asked for."""

    def get(headers: Mapping[str, str] | None = None, *, process: bool = False) -> str:
        assert sink.location() is not None
        request = urllib.request.Request(sink.location(), headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=20) as response:
            text: str = response.read().decode()
        lines = text.splitlines(keepends=True)
        return "".join(line for line in lines if process or "process_" not in line)

    return get


@pytest.fixture
def whole_catalogue() -> tuple[MetricFamily, ...]:
    """Every metric of MuAI with one series."""
    return tuple(
        metric.family(
            (
                MetricPoint(
                    tuple(f"some-{label}" for label in metric.labels),
                    1.5,
                    buckets=tuple((bound, 2) for bound in metric.buckets),
                    count=3,
                    total=4.5,
                ),
            )
        )
        for metric in METRICS
    )


def a_gpu(index: int) -> DeviceRecord:
    device = Device(
        uuid=f"GPU-{index}",
        node="sim",
        index=index,
        kind="gpu",
        platform="simulated",
        name="H100-80GB",
        memory_total_bytes=80 * GIB,
    )
    health = Health.FAILED if index == 7 else Health.HEALTHY
    broken = Finding(kind="row_remap_failure", severity=Health.FAILED, reason="no spare rows left")
    reading = DeviceReading(
        uuid=device.uuid,
        findings=(broken,) if index == 7 else (),
        memory_used_bytes=(index + 1) * GIB + 1,
        utilization_percent=index * 12.5,
        temperature_celsius=40.25 + index,
    )
    condition = DeviceHealth(state=health)
    return DeviceRecord(
        device=device, source="simulated", reading=reading, sampled_at_s=0.0, condition=condition
    )


@pytest.fixture
def eight_gpus() -> tuple[MetricFamily, ...]:
    """The device metrics of eight simulated H100s, the last one failed."""
    facts = DeviceFacts(
        records=tuple(a_gpu(index) for index in range(8)),
        measurements={},
        claims={},
        models={},
        now_s=0.0,
    )
    return DeviceCollector().collect(facts)
