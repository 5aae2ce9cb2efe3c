"""The sink for OpenTelemetry keeps the contract of all metric sinks, over both protocols."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from muai_otel import OtelSink
from otlp_collectors import COLLECTORS, Collector, attributes_of

from muai_core.telemetry.prometheus_text import Sample
from muai_core.testing import MetricSinkConformance
from muai_core.testing.metric_sink import MetricSinkLimits


@pytest.fixture(scope="class")
def own_collector(request: pytest.FixtureRequest) -> Iterator[None]:
    """One for all clauses of a class."""
    request.cls.collector = COLLECTORS[request.cls.protocol]()
    yield
    request.cls.collector.stop()


@pytest.mark.usefixtures("own_collector")
class OtelConformance(MetricSinkConformance):
    """What a collector got last is what is exported."""

    protocol: str
    collector: Collector
    # `Pipeline.close` promises 1.6 s of waiting; a busy machine adds to it.
    limits = MetricSinkLimits(close_s=5.0)

    def make_sink(self) -> OtelSink:
        return OtelSink()

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        return self.aimed_at(self.collector.port)

    def aimed_at(self, port: int) -> Mapping[str, Any]:
        endpoint = f"http://127.0.0.1:{port}"
        return {"protocol": self.protocol, "endpoint": endpoint, "export_interval_s": 1}

    def make_read(self) -> Any:
        return lambda: list(exported(self.collector))


def exported(collector: Collector) -> Collection[Sample]:
    """What the last request told."""
    return [
        sample
        for request in collector.requests["metrics"][-1:]
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for sample in samples_of(metric)
    ]


def samples_of(metric: Any) -> Iterator[Sample]:
    for point in getattr(metric, metric.WhichOneof("data")).data_points:
        labels = tuple(sorted(attributes_of(point).items()))
        if metric.HasField("histogram"):
            yield Sample(f"{metric.name}_count", labels, float(point.count))
            yield Sample(f"{metric.name}_sum", labels, point.sum)
        else:
            yield Sample(metric.name, labels, float(getattr(point, point.WhichOneof("value"))))


class TestOverGrpc(OtelConformance):
    protocol = "grpc"


class TestOverHttp(OtelConformance):
    protocol = "http"
