"""Requests as spans, at a collector that speaks the real protocol."""

from collections.abc import Callable
from typing import Any

import pytest
from muai_otel import OtelSink
from muai_otel.sampling import is_sampled
from otlp_collectors import Collector, attributes_of, wait_for

from muai_core.model.requests import RequestRecord, TraceContext

OpenSink = Callable[..., OtelSink]
SERVER = 2
ERROR = 2
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
STARTED_NS = 1_800_000_000_000_000_000


def request(span_id: str = "00f067aa0ba902b7", /, **changes: Any) -> RequestRecord:
    parent = changes.pop("parent", "b7ad6b7169203331")
    trace = TraceContext(TRACE, span_id, parent, sampled=True, state="vendor=opaque")
    told: dict[str, Any] = {
        "trace": trace,
        "started_unix_ns": STARTED_NS,
        "duration_s": 2.5,
        "queue_s": 0.125,
        "first_token_s": 0.5,
        "operation": "chat",
        "path": "/v1/chat/completions",
        "model": "smollm2",
        "engine": "transformers",
        "replica_id": "smollm2/0",
        "endpoint": "http://127.0.0.1:9999",
        "request_id": "req-1",
        "status": 200,
        "outcome": "ok",
        "error": None,
        "streamed": True,
        "events": 7,
        "retries": 1,
        "prompt_tokens": 11,
        "completion_tokens": 7,
    }
    return RequestRecord(**(told | changes))


def span_of(collector: Collector, sink: OtelSink, record: RequestRecord) -> Any:
    sink.trace([record])
    (span,) = wait_for("a span", collector.spans)
    return span


def test_a_request_becomes_a_span_in_its_clients_trace(
    collector: Collector, open_sink: OpenSink
) -> None:
    span = span_of(collector, open_sink(collector), request())
    assert (span.name, span.kind) == ("chat smollm2", SERVER)
    assert span.trace_id.hex() == TRACE
    assert span.span_id.hex() == "00f067aa0ba902b7"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.trace_state == "vendor=opaque"
    assert span.start_time_unix_nano == STARTED_NS
    assert span.end_time_unix_nano == STARTED_NS + 2_500_000_000
    assert attributes_of(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "muai",
        "gen_ai.request.model": "smollm2",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.time_to_first_chunk": 0.5,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "muai.request_id": "req-1",
        "muai.outcome": "ok",
        "muai.queue_s": 0.125,
        "muai.first_token_s": 0.5,
        "muai.streamed": True,
        "muai.retries": 1,
        "muai.engine": "transformers",
        "muai.replica": "smollm2/0",
        "muai.endpoint": "http://127.0.0.1:9999",
    }
    (event,) = span.events
    assert (event.name, event.time_unix_nano) == ("first_token", STARTED_NS + 500_000_000)
    assert span.status.code == 0
    (sender,) = collector.requests["traces"][0].resource_spans
    assert attributes_of(sender.resource)["service.name"] == "muai"


def test_what_is_unknown_is_left_out(collector: Collector, open_sink: OpenSink) -> None:
    unknown = {"model", "engine", "replica_id", "endpoint", "queue_s", "first_token_s"}
    unknown |= {"prompt_tokens", "completion_tokens"}
    record = request(
        parent=None,
        status=404,
        outcome="refused",
        error="model_not_found",
        **dict.fromkeys(unknown),
    )
    span = span_of(collector, open_sink(collector), record)
    assert span.name == "chat"
    assert span.parent_span_id == b""
    assert not span.events
    attributes = attributes_of(span)
    assert "muai.engine" not in attributes
    assert "gen_ai.usage.input_tokens" not in attributes
    assert attributes["error.type"] == "model_not_found"
    assert span.status.code == 0, "a client's mistake is no error of the server"


@pytest.mark.parametrize(
    ("ended", "error_type", "code"),
    [
        ({"status": 200, "outcome": "failed", "error": "replica_failed"}, "replica_failed", ERROR),
        ({"status": 200, "outcome": "failed"}, "failed", ERROR),
        (
            {"status": 503, "outcome": "refused", "error": "model_not_ready"},
            "model_not_ready",
            ERROR,
        ),
        ({"status": 500, "outcome": "ok"}, "500", ERROR),
        ({"status": 400, "outcome": "ok"}, "400", 0),
        ({"status": 499, "outcome": "cancelled"}, "cancelled", 0),
    ],
)
@pytest.mark.parametrize("protocol", ["grpc"])
def test_failures_have_an_error_type(
    ended: dict[str, Any], error_type: str, code: int, collector: Collector, open_sink: OpenSink
) -> None:
    span = span_of(collector, open_sink(collector), request(**ended))
    assert attributes_of(span)["error.type"] == error_type
    assert span.status.code == code


def test_many_spans_travel_together(collector: Collector, open_sink: OpenSink) -> None:
    sink = open_sink(collector)
    for first in range(0, 1200, 100):
        sink.trace([request(f"{number + 1:016x}") for number in range(first, first + 100)])
    wait_for("all spans", lambda: len(collector.spans()) == 1200)
    ids = [int(span.span_id.hex(), 16) for span in collector.spans()]
    assert ids == list(range(1, 1201))
    assert len(collector.requests["traces"]) <= 12


def test_spans_that_wait_are_sent_when_the_sink_closes(
    collector: Collector, open_sink: OpenSink
) -> None:
    sink = open_sink(collector)
    sink.trace([request()])
    sink.close()
    assert len(collector.spans()) == 1


@pytest.mark.parametrize("protocol", ["http"])
def test_each_kind_can_be_sent_alone(collector: Collector, open_sink: OpenSink) -> None:
    traces = open_sink(collector, metrics=False)
    traces.publish([])
    traces.trace([request()])
    wait_for("the span", collector.spans)
    metrics = open_sink(collector, traces=False)
    metrics.trace([request("1" * 16)])
    metrics.publish([])
    wait_for("metrics", lambda: collector.requests["metrics"])
    metrics.close()
    traces.close()
    assert set(collector.paths) == {"/v1/traces", "/v1/metrics"}
    assert len(collector.spans()) == 1
    options = {"traces": False, "sample_ratio": 0.5}
    assert OtelSink().trace_sample_ratio(options) is None
    assert OtelSink().trace_sample_ratio(options | {"traces": True}) == 0.5


def test_sampling_keeps_the_clients_decision_and_takes_a_share_of_the_others() -> None:
    def trace(number: int, parent: str | None, *, sampled: bool = True) -> TraceContext:
        return TraceContext(f"{number:032x}", "1" * 16, parent, sampled=sampled)

    spread = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(1, 10_001)]
    assert all(is_sampled(trace(number, "2" * 16), 0.0) for number in spread)
    assert not any(is_sampled(trace(number, "2" * 16, sampled=False), 1.0) for number in spread)
    assert all(is_sampled(trace(number, None), 1.0) for number in spread)
    assert not any(is_sampled(trace(number, None), 0.0) for number in spread)
    quarter = {number for number in spread if is_sampled(trace(number, None), 0.25)}
    half = {number for number in spread if is_sampled(trace(number, None), 0.5)}
    assert quarter < half
    assert len(quarter) == pytest.approx(2500, rel=0.05)
    # The bits above the lowest 64 do not count, as in OpenTelemetry's TraceIdRatioBased.
    assert is_sampled(trace(2**127 + min(half), None), 0.5)


def test_the_sampler_agrees_with_the_sdk() -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    for ratio in (0.0, 0.1, 0.5, 0.999, 1.0):
        theirs = TraceIdRatioBased(ratio)
        for number in (0, 1, 2**63, 2**64 - 1, 0x1999999999999999, 0x199999999999999A):
            trace = TraceContext(f"{number:032x}", "1" * 16, None, sampled=True)
            decision = theirs.should_sample(None, number, "name").decision.is_sampled()
            assert is_sampled(trace, ratio) == decision, (ratio, number)
