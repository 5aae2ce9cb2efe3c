"""Metrics on their way to a collector that speaks the real protocol."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from muai_otel import OtelSink
from otlp_collectors import Collector, attributes_of, wait_for

from muai_core.model.metrics import MetricFamily, MetricPoint

CUMULATIVE = 2
OpenSink = Callable[..., OtelSink]

INFO = MetricFamily(
    name="gpu_info",
    kind="gauge",
    help="Always 1.",
    label_names=("gpu_id", "uuid", "node", "name", "vendor", "driver_version", "parent_uuid"),
    points=(MetricPoint(("0", "GPU-a", "local", "H100", "nvidia", "570.1", ""), 1.0),),
)
GPU = {
    "hw.id": "GPU-a",
    "hw.type": "gpu",
    "hw.name": "GPU 0",
    "hw.model": "H100",
    "hw.vendor": "nvidia",
    "hw.driver_version": "570.1",
    "muai.node": "local",
}


def family(name: str, kind: Any, *points: MetricPoint, labels: tuple[str, ...]) -> MetricFamily:
    return MetricFamily(name=name, kind=kind, help="Help.", label_names=labels, points=points)


def gauge(name: str, value: float, **labels: str) -> MetricFamily:
    point = MetricPoint(tuple(labels.values()), value)
    return family(name, "gauge", point, labels=tuple(labels))


def counter(name: str, value: float, **labels: str) -> MetricFamily:
    point = MetricPoint(tuple(labels.values()), value)
    return family(name, "counter", point, labels=tuple(labels))


def sent(collector: Collector, name: str) -> dict[frozenset[tuple[str, Any]], Any]:
    found: dict[frozenset[tuple[str, Any]], Any] = wait_for(name, lambda: collector.points(name))
    return found


def only(collector: Collector, name: str) -> tuple[dict[str, Any], Any]:
    ((attributes, point),) = sent(collector, name).items()
    return dict(attributes), point


def test_device_metrics_follow_the_hardware_conventions(
    collector: Collector, open_sink: OpenSink
) -> None:
    open_sink(collector).publish(
        [
            INFO,
            gauge("gpu_memory_used_bytes", 2.0**33, gpu_id="0"),
            gauge("gpu_memory_total_bytes", 2.0**36, gpu_id="0"),
            gauge("gpu_utilization_percent", 75.5, gpu_id="0"),
            gauge("gpu_temperature_celsius", 65.0, gpu_id="0"),
            gauge("gpu_temperature_limit_celsius", 87.0, gpu_id="0", limit="slowdown"),
            gauge("gpu_power_watts", 312.5, gpu_id="0"),
            counter("gpu_energy_joules", 1234.5, gpu_id="0"),
            counter("gpu_pcie_io_bytes", 42.0, gpu_id="0", direction="receive"),
            counter("gpu_ecc_errors", 2.0, gpu_id="0", error_type="uncorrected", location="dram"),
            counter("gpu_xid_errors", 1.0, gpu_id="0", xid="79"),
        ]
    )
    expected: dict[str, tuple[str, str, dict[str, str], float]] = {
        "hw.gpu.memory.usage": ("sum", "By", {}, 2**33),
        "hw.gpu.memory.limit": ("sum", "By", {}, 2**36),
        "hw.gpu.utilization": ("gauge", "1", {"hw.gpu.task": "general"}, 0.755),
        "hw.temperature": ("gauge", "Cel", {"hw.sensor_location": "gpu"}, 65.0),
        "hw.temperature.limit": ("gauge", "Cel", {"hw.limit_type": "throttled"}, 87.0),
        "hw.power": ("gauge", "W", {}, 312.5),
        "hw.energy": ("sum", "J", {}, 1234.5),
        "hw.gpu.io": ("sum", "By", {"network.io.direction": "receive"}, 42),
    }
    for name, (form, unit, attributes, value) in expected.items():
        assert only(collector, name)[0] == GPU | attributes
        metric = collector.metrics()[name]
        assert (metric.WhichOneof("data"), metric.unit) == (form, unit)
        point = only(collector, name)[1]
        assert getattr(point, point.WhichOneof("value")) == pytest.approx(value)
    assert not collector.metrics()["hw.gpu.memory.usage"].sum.is_monotonic
    assert collector.metrics()["hw.energy"].sum.is_monotonic
    errors = {dict(key)["error.type"]: point for key, point in sent(collector, "hw.errors").items()}
    assert {kind: point.as_int for kind, point in errors.items()} == {"uncorrected": 2, "xid_79": 1}


def test_health_is_a_state_set_in_the_words_of_the_conventions(
    collector: Collector, open_sink: OpenSink
) -> None:
    states = {"healthy": 0.0, "degraded": 0.0, "suspect": 1.0, "failed": 0.0, "unknown": 0.0}
    points = [MetricPoint(("0", state), value) for state, value in states.items()]
    labels = ("gpu_id", "state")
    open_sink(collector).publish(
        [INFO, family("gpu_health_state", "gauge", *points, labels=labels)]
    )
    told = {
        dict(key)["hw.state"]: point.as_int for key, point in sent(collector, "hw.status").items()
    }
    assert told == {"ok": 0, "degraded": 0, "predicted_failure": 1, "failed": 0, "unknown": 0}
    assert collector.metrics()["hw.status"].unit == "1"


def test_request_metrics_follow_the_conventions_of_generative_ai(
    collector: Collector, open_sink: OpenSink
) -> None:
    before_ns = time.time_ns()
    sink = open_sink(collector)
    after_ns = time.time_ns()
    point = MetricPoint(("chat",), buckets=((0.1, 2), (0.5, 2), (1.0, 5)), count=7, total=9.5)
    names = {
        "muai_request_duration_seconds": "gen_ai.server.request.duration",
        "muai_time_to_first_token_seconds": "gen_ai.server.time_to_first_token",
        "muai_time_per_output_token_seconds": "gen_ai.server.time_per_output_token",
    }
    sink.publish([family(name, "histogram", point, labels=("model",)) for name in names])
    for name in names.values():
        attributes, got = only(collector, name)
        assert attributes == {
            "gen_ai.request.model": "chat",
            "gen_ai.provider.name": "muai",
            "gen_ai.operation.name": "inference",
        }
        assert list(got.explicit_bounds) == [0.1, 0.5, 1.0]
        assert list(got.bucket_counts) == [2, 0, 3, 2]
        assert (got.count, got.sum) == (7, 9.5)
        assert not got.HasField("min")
        assert before_ns <= got.start_time_unix_nano <= after_ns <= got.time_unix_nano
        metric = collector.metrics()[name]
        assert metric.unit == "s"
        assert metric.histogram.aggregation_temporality == CUMULATIVE


def test_other_metrics_keep_their_names_and_labels(
    collector: Collector, open_sink: OpenSink
) -> None:
    open_sink(collector).publish(
        [
            INFO,
            gauge("muai_controller_uptime_seconds", 12.5),
            counter("muai_requests", 3.0, model="chat", outcome="ok", code="200"),
            gauge("gpu_power_limit_watts", 700.0, gpu_id="0"),
        ]
    )
    attributes, point = only(collector, "muai.controller_uptime")
    assert (attributes, point.as_double) == ({}, 12.5)
    assert collector.metrics()["muai.controller_uptime"].unit == "s"
    attributes, point = only(collector, "muai.requests")
    assert attributes == {"model": "chat", "outcome": "ok", "code": "200"}
    assert point.as_int == 3
    assert collector.metrics()["muai.requests"].sum.is_monotonic
    assert only(collector, "gpu.power_limit")[0] == GPU | {"gpu_id": "0"}


def test_who_sends_stands_in_the_resource(collector: Collector, open_sink: OpenSink) -> None:
    sink = open_sink(collector, resource_attributes={"deployment.environment.name": "test"})
    sink.publish([gauge("muai_journal_bytes", 1.0)])
    wait_for("a request", lambda: collector.requests["metrics"])
    resource = attributes_of(collector.requests["metrics"][0].resource_metrics[0].resource)
    assert resource["service.name"] == "muai"
    assert resource["deployment.environment.name"] == "test"
    assert {"service.version", "service.instance.id", "host.name"} < set(resource)


def test_a_series_that_ended_is_sent_no_more(collector: Collector, open_sink: OpenSink) -> None:
    sink = open_sink(collector)
    sink.publish([gauge("muai_journal_bytes", 1.0), gauge("gpu_power_watts", 9.0, gpu_id="0")])
    sent(collector, "hw.power")
    sink.publish([gauge("muai_journal_bytes", 2.0)])
    newest = wait_for("the second request", lambda: collector.requests["metrics"][1:])[0]
    assert "hw.power" not in str(newest)


def test_a_counter_that_begins_again_gets_a_new_start(
    collector: Collector, open_sink: OpenSink
) -> None:
    sink = open_sink(collector)

    def publish(value: float) -> Any:
        seen = len(collector.requests["metrics"])
        sink.publish([counter("muai_replica_tokens_generated", value, replica="chat/0")])
        wait_for("the next request", lambda: collector.requests["metrics"][seen:])
        return only(collector, "muai.replica_tokens_generated")[1]

    first, second, third = publish(100.0), publish(150.0), publish(7.0)
    assert second.start_time_unix_nano == first.start_time_unix_nano
    assert third.start_time_unix_nano == second.time_unix_nano
    assert third.as_int == 7


def test_what_a_device_counts_starts_when_it_is_first_seen(
    collector: Collector, open_sink: OpenSink
) -> None:
    open_sink(collector).publish([INFO, counter("gpu_energy_joules", 5e6, gpu_id="0")])
    point = only(collector, "hw.energy")[1]
    assert point.start_time_unix_nano == point.time_unix_nano


def test_a_large_batch_goes_in_several_requests(collector: Collector, open_sink: OpenSink) -> None:
    points = [MetricPoint((f"model-{number}",), 1.0) for number in range(9000)]
    sink = open_sink(collector, timeout_s=20)
    sink.publish([family("muai_model_replicas", "gauge", *points, labels=("model",))])
    wait_for("all points", lambda: len(collector.points("muai.model_replicas")) == 9000)
    assert len(collector.requests["metrics"]) == 3
    assert max(request.ByteSize() for request in collector.requests["metrics"]) < 2**22


def test_the_last_batch_is_sent_when_the_sink_closes(
    collector: Collector, open_sink: OpenSink
) -> None:
    sink = open_sink(collector, export_interval_s=3600)
    sink.publish([gauge("muai_journal_bytes", 1.0)])
    wait_for("the first batch", lambda: collector.points("muai.journal"))
    sink.publish([gauge("muai_journal_bytes", 2.0)])
    sink.close()
    assert only(collector, "muai.journal")[1].as_int == 2


def test_headers_come_from_a_file_and_batches_are_compressed(
    collector: Collector, open_sink: OpenSink, tmp_path: Path
) -> None:
    secrets = tmp_path / "headers"
    secrets.write_text("# for the collector\nX-Api-Key: s3cret\nauthorization: Bearer a b\n")
    sink = open_sink(collector, headers_file=str(secrets), compression="gzip")
    sink.publish([gauge("muai_journal_bytes", 1.0)])
    assert only(collector, "muai.journal")[1].as_int == 1
    headers = collector.headers[0]
    assert headers["x-api-key"] == "s3cret"
    assert headers["authorization"] == "Bearer a b"
    if collector.protocol == "http":
        assert headers["content-encoding"] == "gzip"
        assert headers["content-type"] == "application/x-protobuf"


def test_variables_of_opentelemetry_count_where_the_config_is_silent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = {"grpc": "grpc", "http": "http/protobuf"}[collector.protocol]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=from%20environment")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=ml")
    sink = OtelSink()
    sink.open({})
    try:
        sink.publish([gauge("muai_journal_bytes", 1.0)])
        sent(collector, "muai.journal")
    finally:
        sink.close()
    assert collector.headers[0]["x-api-key"] == "from environment"
    resource = attributes_of(collector.requests["metrics"][0].resource_metrics[0].resource)
    assert (resource["service.name"], resource["team"]) == ("from-environment", "ml")
    if collector.protocol == "http":
        assert collector.paths == ["/v1/metrics"]
