"""A sink may be slow, fail, hang or lie: it loses its own batches and delays nobody."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.plugin.metric_sink import MetricSink, SinkError, SinkUnavailable
from muai_core.runtime.sinks import SinkRunner, SinkRunners

DEADLINE_S = 60.0


def batch(number: int) -> tuple[MetricFamily, ...]:
    point = MetricPoint((), float(number))
    return (MetricFamily(name="n", kind="gauge", help="A number.", points=(point,)),)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


class Recording(MetricSink):
    """Keeps what it is given; `gate` holds `publish` until it is set."""

    name = "recording"

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.options: Mapping[str, Any] = {}
        self.numbers: list[float] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def open(self, options: Mapping[str, Any]) -> None:
        self.calls.append("open")
        self.threads.add(threading.get_ident())
        self.options = options

    def publish(self, families: Sequence[MetricFamily]) -> None:
        self.threads.add(threading.get_ident())
        self.entered.set()
        self.gate.wait(DEADLINE_S)
        self.numbers.append(families[0].points[0].value)

    def close(self) -> None:
        self.calls.append("close")
        self.threads.add(threading.get_ident())


class Failing(Recording):
    """Raises `error()` from the method named `method`."""

    def __init__(self, method: str, error: Callable[[], BaseException]) -> None:
        super().__init__("failing")
        self.method = method
        self.error = error

    def open(self, options: Mapping[str, Any]) -> None:
        if self.method == "open":
            raise self.error()
        super().open(options)

    def publish(self, families: Sequence[MetricFamily]) -> None:
        if self.method == "publish":
            raise self.error()
        super().publish(families)

    def close(self) -> None:
        if self.method == "close":
            raise self.error()
        super().close()


@pytest.fixture
def opened() -> Iterator[Callable[[MetricSink], SinkRunner]]:
    runners: list[SinkRunner] = []

    def open_one(sink: MetricSink) -> SinkRunner:
        runner = SinkRunner(sink, {"port": 1})
        runners.append(runner)
        runner.open()
        return runner

    yield open_one
    for runner in runners:
        runner.close()


Opened = Callable[[MetricSink], SinkRunner]


def test_a_sink_lives_in_one_thread_that_is_not_ours(opened: Opened) -> None:
    sink = Recording()
    runner = opened(sink)
    runner.offer(batch(1))
    wait_until(lambda: sink.numbers == [1.0])
    assert runner.close()
    assert sink.options == {"port": 1}
    assert sink.calls == ["open", "close"]
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads
    assert runner.status().state == "closed"


def test_a_slow_sink_gets_the_newest_batch_and_the_others_are_counted(opened: Opened) -> None:
    sink = Recording()
    runner = opened(sink)
    sink.gate.clear()
    runner.offer(batch(0))
    assert sink.entered.wait(DEADLINE_S)
    for number in range(1, 101):
        runner.offer(batch(number))
    status = runner.status()
    assert (status.batches_published, status.batches_dropped) == (0, 99)
    assert status.busy_s is not None
    assert status.state == "working"
    sink.gate.set()
    wait_until(lambda: sink.numbers == [0.0, 100.0])
    wait_until(lambda: runner.status().busy_s is None)
    assert runner.status().batches_published == 2


def test_offering_never_waits_for_a_hanging_sink(opened: Opened) -> None:
    hanging, free = Recording("hanging"), Recording("free")
    runners = SinkRunners([(hanging, {}), (free, {})])
    runners.open()
    hanging.gate.clear()
    families = batch(1)
    runners.offer(families)
    assert hanging.entered.wait(DEADLINE_S)
    for _ in range(10_000):
        runners.offer(families)
    assert hanging.numbers == [], "offering waited for the sink"
    wait_until(lambda: free.numbers)
    assert runners.batches_dropped()["hanging"] == 9_999
    hanging.gate.set()
    assert runners.close(DEADLINE_S)


def test_a_hanging_sink_cannot_hold_up_the_end() -> None:
    hanging, free = Recording("hanging"), Recording("free")
    runners = SinkRunners([(hanging, {}), (free, {})])
    runners.open()
    hanging.gate.clear()
    runners.offer(batch(1))
    assert hanging.entered.wait(DEADLINE_S)
    wait_until(lambda: free.numbers == [1.0])
    assert runners.close(timeout_s=0.1) is False
    wait_until(lambda: free.calls == ["open", "close"])
    states = {status.name: status.state for status in runners.statuses()}
    assert states["hanging"] == "working"
    hanging.gate.set()
    wait_until(lambda: hanging.calls == ["open", "close"])


def test_the_last_batch_is_published_before_closing() -> None:
    sink = Recording()
    runner = SinkRunner(sink, {})
    runner.open()
    sink.gate.clear()
    runner.offer(batch(1))
    assert sink.entered.wait(DEADLINE_S)
    runner.offer(batch(2))
    runner.stop()
    runner.offer(batch(3))
    sink.gate.set()
    assert runner.close(DEADLINE_S)
    assert sink.numbers == [1.0, 2.0]


@pytest.mark.parametrize("error", [OSError, SystemExit, MemoryError])
def test_a_failing_sink_is_counted_and_goes_on(
    opened: Opened, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    texts = iter(range(1000))
    sink = Failing("publish", lambda: error(f"attempt {next(texts)}"))
    runner = opened(sink)
    with caplog.at_level(logging.INFO, logger="muai_core.runtime.sinks"):
        for number in range(20):
            runner.offer(batch(number))
            wait_until(lambda number=number: runner.status().batches_dropped == number + 1)
        wait_until(lambda: (runner.status().last_failure or "").endswith("attempt 19"))
    status = runner.status()
    assert (status.state, status.batches_published) == ("failing", 0)
    assert status.last_failure == f"{error.__name__}: attempt 19"
    assert len(caplog.records) == 1
    assert f"sink failing failed while publishing: {error.__name__}" in caplog.text
    sink.method = "none"
    runner.offer(batch(100))
    wait_until(lambda: sink.numbers == [100.0])
    wait_until(lambda: runner.status().state == "working")


def test_another_failure_is_logged_again(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    errors = iter([ValueError("a"), KeyError("b"), ValueError("c"), KeyError("d")])
    runner = opened(Failing("publish", lambda: next(errors)))
    with caplog.at_level(logging.INFO, logger="muai_core.runtime.sinks"):
        for number in range(4):
            runner.offer(batch(number))
            wait_until(lambda number=number: runner.status().batches_dropped == number + 1)
        runner.close(DEADLINE_S)
    assert len(caplog.records) == 2


def test_a_sink_that_told_of_its_failure_itself_is_shown_but_not_logged(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    runner = opened(Failing("publish", lambda: SinkUnavailable("http://c:4317: refused")))
    runner.offer(batch(1))
    wait_until(lambda: runner.status().batches_dropped == 1)
    status = runner.status()
    assert status.state == "failing"
    assert "http://c:4317: refused" in (status.last_failure or "")
    assert not caplog.records


def test_a_sink_that_cannot_start_says_why_in_its_own_words() -> None:
    runner = SinkRunner(Failing("open", lambda: SinkError("port 9090 is taken")), {})
    with pytest.raises(SinkError, match=r"^port 9090 is taken$"):
        runner.open()
    assert runner.close()


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_sink_that_breaks_at_its_start_is_named(error: type[BaseException]) -> None:
    runner = SinkRunner(Failing("open", lambda: error("oh")), {})
    with pytest.raises(SinkError, match=f"^sinks.failing: cannot start: {error.__name__}: oh$"):
        runner.open()


def test_a_sink_that_hangs_at_its_start_is_given_up() -> None:
    release = threading.Event()

    class Stuck(Recording):
        def open(self, options: Mapping[str, Any]) -> None:
            release.wait(DEADLINE_S)
            super().open(options)

    sink = Stuck("stuck")
    runner = SinkRunner(sink, {})
    with pytest.raises(SinkError, match=r"^sinks\.stuck: did not start within 0\.05 s"):
        runner.open(timeout_s=0.05)
    release.set()
    wait_until(lambda: sink.calls == ["open", "close"])


def test_when_one_cannot_start_those_before_it_are_closed() -> None:
    first, never = Recording("first"), Recording("never")
    bad = Failing("open", lambda: SinkError("no"))
    runners = SinkRunners([(first, {}), (bad, {}), (never, {})])
    with pytest.raises(SinkError, match=r"^no$"):
        runners.open()
    assert first.calls == ["open", "close"]
    assert never.calls == []


def test_a_failure_to_close_is_reported(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    runner = opened(Failing("close", lambda: OSError("disk full")))
    with caplog.at_level(logging.INFO, logger="muai_core.runtime.sinks"):
        assert runner.close(DEADLINE_S)
    assert "sink failing failed while closing: OSError: disk full" in caplog.text


def test_closing_twice_and_before_opening_is_harmless() -> None:
    runner = SinkRunner(Recording(), {})
    assert runner.close()
    other = SinkRunner(Recording(), {})
    other.open()
    assert other.close(DEADLINE_S)
    assert other.close(DEADLINE_S)
