"""Collectors to send to, and sinks that send."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from muai_otel import OtelSink

sys.path.insert(0, str(Path(__file__).parent))
from otlp_collectors import COLLECTORS, Collector, Tls


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start_collector(protocol: str) -> Iterator[Callable[..., Collector]]:
    """Starts collectors of the protocol under test, at a port of its own or at a given one."""
    started: list[Collector] = []

    def start(port: int = 0, tls: Tls | None = None) -> Collector:
        started.append(COLLECTORS[protocol](port, tls))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def collector(start_collector: Callable[..., Collector]) -> Collector:
    return start_collector()


@pytest.fixture
def open_sink() -> Iterator[Callable[..., OtelSink]]:
    """Opens sinks that send every second to the collector that is given."""
    sinks: list[OtelSink] = []

    def open_one(to: Collector, **options: Any) -> OtelSink:
        sink = OtelSink()
        target = {"protocol": to.protocol, "endpoint": to.endpoint}
        sink.open(target | {"export_interval_s": 1, "timeout_s": 2} | options)
        sinks.append(sink)
        return sink

    yield open_one
    for sink in sinks:
        sink.close()
