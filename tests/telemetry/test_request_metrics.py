"""Time per token, time in the queue and tokens: what counts, and what is not known."""

import pytest
from msgspec import structs

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.model.requests import UNTRACED, RequestRecord
from muai_core.model.routing import ModelStatus, RoutingTable
from muai_core.telemetry.meters import GatewayMeter
from muai_core.telemetry.registry import Registry
from muai_core.telemetry.request_series import time_per_output_token_s

STREAM = RequestRecord(
    trace=UNTRACED,
    started_unix_ns=0,
    duration_s=1.1,
    queue_s=0.002,
    first_token_s=0.1,
    operation="chat",
    path="/v1/chat/completions",
    model="chat",
    engine="simulated",
    replica_id="chat-1",
    endpoint="http://h:1",
    request_id="r",
    status=200,
    outcome="ok",
    error=None,
    streamed=True,
    events=11,
    retries=0,
    prompt_tokens=None,
    completion_tokens=None,
)


class Metered:
    """A meter that serves the model `chat`, and what it counted."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.meter = GatewayMeter(self.registry)
        self.serve("chat")

    def serve(self, *models: str) -> None:
        statuses = tuple(ModelStatus(name=m, desired=1, ready=1, state="ready") for m in models)
        self.meter.routes_published(RoutingTable(1, statuses))

    def finished(self, **values: object) -> None:
        self.meter.request_finished(structs.replace(STREAM, **values))

    def points(self, name: str) -> dict[tuple[str, ...], MetricPoint]:
        families: dict[str, MetricFamily] = {f.name: f for f in self.registry.collect()}
        return {point.labels: point for point in families[name].points}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 0.1),
        ({"completion_tokens": 5}, 0.25),
        ({"completion_tokens": 2, "events": 0}, 1.0),
        ({"events": 2}, 1.0),
        ({"events": 1}, None),
        ({"completion_tokens": 1}, None),
        ({"completion_tokens": 0}, None),
        ({"outcome": "failed"}, None),
        ({"outcome": "cancelled"}, None),
        ({"first_token_s": None, "streamed": False, "completion_tokens": 9}, None),
    ],
)
def test_time_per_output_token(values: dict[str, object], expected: float | None) -> None:
    assert time_per_output_token_s(structs.replace(STREAM, **values)) == pytest.approx(expected)


def test_streams_that_succeed_are_measured_per_token() -> None:
    metered = Metered()
    metered.finished()
    metered.finished(outcome="cancelled")
    (point,) = metered.points("muai_time_per_output_token_seconds").values()
    assert (point.labels, point.count, point.total) == (("chat",), 1, pytest.approx(0.1))


def test_time_in_the_queue_counts_for_every_request_that_left_it() -> None:
    metered = Metered()
    metered.finished()
    metered.finished(outcome="failed", status=502, queue_s=0.5)
    metered.finished(outcome="refused", status=503, queue_s=None)
    (point,) = metered.points("muai_request_queue_seconds").values()
    assert (point.count, point.total) == (2, pytest.approx(0.502))


def test_tokens_are_counted_where_the_engine_tells() -> None:
    metered = Metered()
    metered.finished()
    assert metered.points("muai_request_tokens") == {}
    metered.finished(prompt_tokens=5, completion_tokens=6)
    metered.finished(prompt_tokens=7)
    values = {labels: p.value for labels, p in metered.points("muai_request_tokens").items()}
    assert values == {("chat", "prompt"): 12.0, ("chat", "completion"): 6.0}


def test_a_model_that_goes_and_comes_back_starts_at_zero() -> None:
    metered = Metered()
    metered.finished(prompt_tokens=5)
    metered.serve("other")
    assert metered.points("muai_requests") == {}
    metered.finished(prompt_tokens=5)
    assert set(metered.points("muai_requests")) == {("", "ok", "200", "true")}
    assert metered.points("muai_request_tokens") == {}
    metered.serve("chat")
    metered.finished(prompt_tokens=3)
    assert metered.points("muai_request_tokens")["chat", "prompt"].value == 3.0
    assert metered.points("muai_requests")["chat", "ok", "200", "true"].value == 1.0
