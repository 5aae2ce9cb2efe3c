"""Requests on their way to the sinks that trace them: told once, bounded, counted when lost."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from msgspec import structs

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord, TraceContext
from muai_core.plugin.metric_sink import MetricSink, SinkError
from muai_core.runtime.sinks import MAX_REQUESTS, SinkRunner, SinkRunners

DEADLINE_S = 60.0
REQUEST = RequestRecord(
    trace=TraceContext("1" * 32, "2" * 16, None, True),
    started_unix_ns=0,
    duration_s=0.1,
    queue_s=0.0,
    first_token_s=None,
    operation="chat",
    path="/v1/chat/completions",
    model="m",
    engine="simulated",
    replica_id="m-0",
    endpoint="http://h:1",
    request_id="0",
    status=200,
    outcome="ok",
    error=None,
    streamed=False,
    events=0,
    retries=0,
    prompt_tokens=1,
    completion_tokens=1,
)


def request(number: int) -> RequestRecord:
    return structs.replace(REQUEST, request_id=str(number))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


class Tracer(MetricSink):
    """Keeps what it is given; `gate` holds `trace` until it is set."""

    def __init__(self, name: str = "tracer", ratio: Any = 1.0) -> None:
        self.name = name
        self.ratio = ratio
        self.calls: list[str] = []
        self.batches: list[list[int]] = []
        self.error: type[BaseException] | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        ratio: float | None = self.ratio(options) if callable(self.ratio) else self.ratio
        return ratio

    def open(self, options: Mapping[str, Any]) -> None:
        self.calls.append("open")

    def publish(self, families: Sequence[MetricFamily]) -> None:
        self.calls.append("publish")

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        self.entered.set()
        self.gate.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error("no collector")
        self.calls.append("trace")
        self.batches.append([int(one.request_id) for one in requests])

    def close(self) -> None:
        self.calls.append("close")

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]


@pytest.fixture
def opened() -> Iterator[Callable[[MetricSink], SinkRunner]]:
    runners: list[SinkRunner] = []

    def open_one(sink: MetricSink) -> SinkRunner:
        runner = SinkRunner(sink, {"share": 0.25})
        runners.append(runner)
        runner.open()
        return runner

    yield open_one
    for runner in runners:
        runner.close()


Opened = Callable[[MetricSink], SinkRunner]


def block(sink: Tracer, runner: SinkRunner) -> None:
    """Bring the sink to hang in `trace`, with request -1."""
    sink.gate.clear()
    runner.record(request(-1))
    assert sink.entered.wait(DEADLINE_S)


def test_requests_arrive_without_any_metrics(opened: Opened) -> None:
    sink = Tracer()
    runner = opened(sink)
    for number in range(10):
        runner.record(request(number))
    wait_until(lambda: sink.numbers == list(range(10)))
    wait_until(lambda: runner.status().requests_traced == 10)
    assert runner.status().requests_dropped == 0
    assert "publish" not in sink.calls


def test_requests_come_before_the_metrics_that_count_them(opened: Opened) -> None:
    sink = Tracer()
    runner = opened(sink)
    block(sink, runner)
    runner.record(request(1))
    runner.offer(())
    sink.gate.set()
    wait_until(lambda: sink.calls == ["open", "trace", "trace", "publish"])


def test_many_do_not_wait_for_the_clock(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muai_core.runtime.sinks._REQUESTS_WAIT_S", 1e6)
    sink = Tracer()
    runner = opened(sink)
    for number in range(MAX_REQUESTS // 4):
        runner.record(request(number))
    wait_until(lambda: len(sink.numbers) == MAX_REQUESTS // 4)


def test_of_too_many_the_oldest_are_dropped_and_counted(opened: Opened) -> None:
    sink = Tracer()
    runner = opened(sink)
    block(sink, runner)
    for number in range(MAX_REQUESTS + 100):
        runner.record(request(number))
    assert runner.status().requests_dropped == 100
    assert runner.status().state == "working"
    sink.gate.set()
    expected = [-1, *range(100, MAX_REQUESTS + 100)]
    wait_until(lambda: sink.numbers == expected)
    wait_until(lambda: runner.status().requests_traced == len(expected))


def test_recording_never_waits_and_nothing_is_lost_uncounted(opened: Opened) -> None:
    sink = Tracer()
    runner = opened(sink)
    writers = [
        threading.Thread(target=lambda: [runner.record(request(n)) for n in range(5000)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(DEADLINE_S)
    assert runner.close(DEADLINE_S)
    status = runner.status()
    assert status.requests_traced == len(sink.numbers)
    assert len(sink.numbers) + (status.requests_dropped or 0) == 4 * 5000


@pytest.mark.parametrize("error", [OSError, SystemExit, MemoryError])
def test_a_sink_that_fails_to_trace_still_publishes(
    opened: Opened, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    sink = Tracer()
    sink.error = error
    runner = opened(sink)
    with caplog.at_level(logging.INFO, logger="muai_core.runtime.sinks"):
        for number in range(2):
            runner.record(request(number))
            wait_until(lambda number=number: runner.status().requests_dropped == number + 1)
        runner.offer(())
        wait_until(lambda: runner.status().batches_published == 1)
    status = runner.status()
    assert (status.state, status.last_failure) == ("failing", f"{error.__name__}: no collector")
    assert (status.requests_traced, status.batches_dropped) == (0, 0)
    assert len(caplog.records) == 1
    assert f"sink tracer failed while tracing: {error.__name__}" in caplog.text
    sink.error = None
    runner.record(request(9))
    wait_until(lambda: sink.numbers == [9])
    wait_until(lambda: runner.status().state == "working")


def test_what_waits_is_told_before_closing() -> None:
    sink = Tracer()
    runner = SinkRunner(sink, {})
    runner.open()
    block(sink, runner)
    runner.record(request(1))
    runner.offer(())
    runner.stop()
    runner.record(request(2))
    sink.gate.set()
    assert runner.close(DEADLINE_S)
    assert sink.numbers == [-1, 1]
    assert sink.calls == ["open", "trace", "trace", "publish", "close"]
    assert (runner.status().requests_traced, runner.status().requests_dropped) == (2, 1)


def test_a_sink_that_hangs_while_tracing_holds_up_neither_others_nor_the_end() -> None:
    hanging, free = Tracer("hanging"), Tracer("free")
    runners = SinkRunners([(hanging, {}), (free, {})])
    runners.open()
    hanging.gate.clear()
    runners.record(request(0))
    assert hanging.entered.wait(DEADLINE_S)
    for number in range(1, 10 * MAX_REQUESTS):
        runners.record(request(number))
    assert hanging.numbers == [], "recording waited for the sink"
    assert runners.requests_dropped()["hanging"] == 9 * MAX_REQUESTS - 1
    assert {one.name: one.busy_s is None for one in runners.statuses()}["hanging"] is False
    assert runners.close(timeout_s=0.1) is False
    wait_until(lambda: free.calls[-1:] == ["close"])
    assert free.numbers[-1] == 10 * MAX_REQUESTS - 1
    hanging.gate.set()
    wait_until(lambda: hanging.calls[-1:] == ["close"])


def test_the_sink_that_wants_most_decides_for_all() -> None:
    sinks = [Tracer("none", None), Tracer("few", lambda options: options["share"]), Tracer("all")]
    runners = SinkRunners([(sink, {"share": 0.25}) for sink in sinks])
    assert runners.trace_sample_ratio is None
    runners.open()
    assert runners.trace_sample_ratio == 1.0
    runners.record(request(7))
    assert runners.close(DEADLINE_S)
    assert [sink.numbers for sink in sinks] == [[], [7], [7]]
    assert runners.requests_dropped() == {"few": 0, "all": 0}
    (silent, *_) = runners.statuses()
    assert (silent.requests_traced, silent.requests_dropped) == (None, None)


def test_while_no_sink_traces_there_is_no_ratio() -> None:
    runners = SinkRunners([(Tracer("none", None), {})])
    runners.open()
    assert runners.trace_sample_ratio is None
    runners.record(request(1))
    assert runners.close(DEADLINE_S)


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan"), "all", [1]])
def test_a_sink_that_asks_for_an_impossible_share_is_named(ratio: object) -> None:
    sink = Tracer("odd", ratio)
    with pytest.raises(SinkError, match=r"^sinks\.odd: the plugin asks to trace a share of"):
        SinkRunner(sink, {}).open()
    assert sink.calls == []


def test_a_sink_that_breaks_when_asked_for_its_share_is_named() -> None:
    sink = Tracer("odd", lambda options: 1 / 0)
    with pytest.raises(SinkError, match=r"^sinks\.odd: cannot start: ZeroDivisionError"):
        SinkRunner(sink, {}).open()
