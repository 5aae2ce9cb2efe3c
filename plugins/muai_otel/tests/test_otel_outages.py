"""Collectors that are away, come back, hang or refuse: nothing waits, people are told once."""

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from muai_otel import OtelSink
from otlp_collectors import DEADLINE_S, Collector, wait_for

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.model.requests import RequestRecord, TraceContext
from muai_core.plugin.metric_sink import SinkUnavailable

OpenSink = Callable[..., OtelSink]
#: A sink has two seconds to close; this leaves room for a busy machine and still tells a hang.
CLOSES_WITHIN_S = 4.0
REFUSED = {"grpc": 7, "http": 403}


def gauge(value: float) -> MetricFamily:
    points = (MetricPoint((), value),)
    return MetricFamily(name="muai_journal_bytes", kind="gauge", help="Help.", points=points)


def request(number: int) -> RequestRecord:
    return RequestRecord(
        trace=TraceContext("a" * 32, f"{number:016x}", None, sampled=True),
        started_unix_ns=time.time_ns(),
        duration_s=0.5,
        queue_s=0.0,
        first_token_s=None,
        operation="chat",
        path="/v1/chat/completions",
        model="chat",
        engine="simulated",
        replica_id="chat/0",
        endpoint="http://127.0.0.1:1",
        request_id=f"req-{number}",
        status=200,
        outcome="ok",
        error=None,
        streamed=False,
        events=0,
        retries=0,
        prompt_tokens=1,
        completion_tokens=1,
    )


def quickly(call: Callable[..., Any], *arguments: Any) -> None:
    """It does not wait for the collector, whose deadline is two seconds."""
    started_s = time.monotonic()
    call(*arguments)
    assert time.monotonic() - started_s < 1.0


def publish(sink: OtelSink, value: float) -> None:
    """As the controller does: a sink that tells of an outage goes on."""
    with contextlib.suppress(SinkUnavailable):
        quickly(sink.publish, [gauge(value)])


def span_numbers(collector: Collector) -> list[int]:
    return [int(span.span_id.hex(), 16) for span in collector.spans()]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Everything that people would see in the log."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def hanging(protocol: str) -> Iterator[Any]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = type("Silent", (), {})()
        silent.protocol = protocol
        silent.port = server.getsockname()[1]
        silent.endpoint = f"http://127.0.0.1:{silent.port}"
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        silent.connections = connections
        yield silent
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def test_a_killed_and_restarted_collector(
    start_collector: Callable[..., Collector],
    open_sink: OpenSink,
    told: Callable[[], list[str]],
) -> None:
    first = start_collector()
    sink = open_sink(first)
    publish(sink, 1.0)
    sink.trace([request(1)])
    wait_for("both kinds", lambda: first.points("muai.journal") and first.spans())
    first.stop()

    publish(sink, 2.0)
    quickly(sink.trace, [request(2)])
    wait_for("the line about the outage", told)
    with pytest.raises(SinkUnavailable, match=f"127.0.0.1:{first.port}"):
        sink.publish([gauge(2.0)])
    for number in range(3, 13):
        publish(sink, float(number))
        quickly(sink.trace, [request(number)])

    second = start_collector(first.port)
    wait_for("the line about its end", lambda: told()[1:])
    publish(sink, 99.0)
    wait_for("the newest batch", lambda: 99 in values(second))
    quickly(sink.publish, [gauge(100.0)])
    # A collector may take a batch and die before it says so: then the batch is sent again.
    wait_for(
        "the spans of the outage",
        lambda: {*span_numbers(first), *span_numbers(second)} >= set(range(2, 13)),
    )
    away, back = told()
    assert f"127.0.0.1:{first.port}" in away
    assert "otel cannot deliver to" in away
    assert "refused" in away or "UNAVAILABLE" in away
    assert f"127.0.0.1:{first.port}" in back
    assert "again" in back
    assert "lost" not in back


def values(collector: Collector) -> list[int]:
    return [
        point.as_int
        for metric in collector.all_metrics()
        if metric.name == "muai.journal"
        for point in metric.gauge.data_points
    ]


def test_a_collector_that_was_never_there(
    start_collector: Callable[..., Collector], open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    gone = start_collector()
    gone.stop()
    sink = open_sink(gone, max_queued_spans=20)
    threads = threading.active_count()
    wait_for("the line about the outage", lambda: publish(sink, 1.0) or told())
    for number in range(1, 101):
        quickly(sink.trace, [request(number)])
        publish(sink, 1.0)
    assert threading.active_count() <= threads
    back = start_collector(gone.port)
    wait_for("the newest spans", lambda: span_numbers(back))
    assert span_numbers(back) == list(range(81, 101))
    wait_for("metrics", lambda: publish(sink, 1.0) or back.points("muai.journal"))
    lines = wait_for("the line about the end", lambda: len(told()) >= 2 and told())
    assert len(lines) == 2
    assert "80 spans were lost meanwhile" in lines[1]
    lost = wait_for(
        "the loss as a metric",
        lambda: (
            [
                point.as_int
                for point in back.points("muai.otel_spans_dropped").values()
                if point.as_int
            ]
            or publish(sink, 1.0)
        ),
    )
    assert lost == [80]


def test_a_hanging_collector_holds_nobody_up(
    hanging: Any, open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    sink = open_sink(hanging)
    publish(sink, 1.0)
    quickly(sink.trace, [request(1)])
    wait_for("a connection", lambda: hanging.connections)
    publish(sink, 2.0)
    quickly(sink.trace, [request(2)])
    lines = wait_for("the line about the outage", told)
    assert hanging.endpoint in lines[0]
    publish(sink, 3.0)
    assert len(told()) == 1


def test_closing_waits_for_no_collector(hanging: Any, open_sink: OpenSink) -> None:
    sink = open_sink(hanging, timeout_s=60)
    publish(sink, 1.0)
    sink.trace([request(1)])
    wait_for("a connection", lambda: hanging.connections)
    started_s = time.monotonic()
    sink.close()
    assert time.monotonic() - started_s < CLOSES_WITHIN_S


def test_closing_while_the_collector_is_away(
    start_collector: Callable[..., Collector], open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    gone = start_collector()
    gone.stop()
    sink = open_sink(gone, timeout_s=60)
    publish(sink, 1.0)
    sink.trace([request(number) for number in range(5)])
    started_s = time.monotonic()
    sink.close()
    assert time.monotonic() - started_s < CLOSES_WITHIN_S
    assert any("5 spans" in line for line in told())


def asked_for_traces(collector: Collector) -> int:
    return sum(path.endswith("traces") for path in collector.paths)


def test_a_refused_signal_is_told_and_the_other_goes_on(
    collector: Collector, open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    refusal = REFUSED[collector.protocol]
    collector.answer = lambda signal: refusal if signal == "traces" else None
    sink = open_sink(collector)
    for number in range(3):
        sink.trace([request(number + 1)])
        publish(sink, float(number))
        wait_for("the refusal", lambda count=number: asked_for_traces(collector) > count)
    wait_for("metrics", lambda: collector.points("muai.journal"))
    (line,) = told()
    assert "refuses traces" in line
    assert ("403" if collector.protocol == "http" else "PERMISSION_DENIED") in line
    collector.answer = lambda signal: None
    sink.trace([request(9)])
    wait_for("the span", lambda: span_numbers(collector) == [9])
    back = wait_for("the line about the end", lambda: told()[1:])
    assert "3 spans were lost meanwhile" in back[0]


@pytest.mark.parametrize("protocol", ["http"])
def test_a_redirection_is_no_success(
    collector: Collector, open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    collector.answer = lambda signal: 301
    publish(open_sink(collector), 1.0)
    lines = wait_for("the line", told)
    assert "/v1/metrics refuses metrics: HTTP status 301" in lines[0]


def test_spans_that_come_too_fast_are_dropped_and_told_once(
    collector: Collector, open_sink: OpenSink, told: Callable[[], list[str]]
) -> None:
    sink = open_sink(collector, max_queued_spans=10)
    sink.trace([request(number) for number in range(1, 31)])
    sink.trace([request(number) for number in range(31, 61)])
    sink.close()
    assert span_numbers(collector) == list(range(51, 61))
    (line,) = told()
    assert "max_queued_spans" in line


SENDER = """
import contextlib, sys
from muai_core.plugin.metric_sink import SinkUnavailable
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_otel import OtelSink
sink = OtelSink()
options = {"protocol": sys.argv[1], "endpoint": sys.argv[2]}
sink.open(options | {"export_interval_s": 1, "timeout_s": 2})
family = MetricFamily(name="muai_x", kind="gauge", help="", points=(MetricPoint((), 1.0),))
for line in sys.stdin:
    with contextlib.suppress(SinkUnavailable):
        sink.publish([family])
sink.close()
"""


def test_people_see_one_line_for_each_change_and_nothing_else(
    start_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    """In a process of its own: gRPC's core writes to standard error past Python's logging."""
    first = start_collector()
    release = threading.Event()
    # Broken off in the middle of a call, which is when gRPC is most talkative.
    first.answer = lambda signal: release.wait(DEADLINE_S) and None
    seen = tmp_path / "stderr"
    with seen.open("w") as stderr:
        sender = subprocess.Popen(
            [sys.executable, "-c", SENDER, first.protocol, first.endpoint],
            stdin=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert sender.stdin is not None

    def publish() -> None:
        assert sender.stdin is not None
        sender.stdin.write("\n")
        sender.stdin.flush()

    try:
        publish()
        wait_for("a call", lambda: first.paths)
        first.stop()
        release.set()
        wait_for("the line about the outage", lambda: publish() or seen.read_text())
        second = start_collector(first.port)
        wait_for("metrics", lambda: publish() or second.metrics())
        wait_for("the line about the end", lambda: seen.read_text().count("\n") > 1)
        sender.stdin.close()
        assert sender.wait(DEADLINE_S) == 0
    finally:
        sender.kill()
    away, back = seen.read_text().splitlines()
    assert "otel cannot deliver to" in away
    assert "otel delivers to" in back
