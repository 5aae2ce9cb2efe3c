"""Threads that bring metrics and spans to the collector, so that nobody else waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_otel.exporters import Exporter, ExportFailed
from muai_otel.outages import Outages

#: Families of one moment, and the moment in nanoseconds since the epoch.
Batch = tuple[Sequence[MetricFamily], int]

SPANS_PER_REQUEST = 512
#: How long the first span waits for others to travel with.
GATHER_S = 0.5
#: Longest pause between two tries while the collector does not take spans.
LONGEST_PAUSE_S = 10.0


class MetricDelivery:
    """Exports the newest batch, at most once per interval. Cumulative, so skipping loses nothing.

    `offer`, `stop` and `join` may be called from any thread.
    """

    def __init__(
        self,
        exporter: Exporter,
        convert: Callable[[Sequence[MetricFamily], int], Sequence[Any]],
        interval_s: float,
        outages: Outages,
    ) -> None:
        self._exporter = exporter
        self._convert = convert
        self._interval_s = interval_s
        self._outages = outages
        self._changed = threading.Condition()
        self._newest: Batch | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="otel-metrics", daemon=True)
        self._thread.start()

    def offer(self, families: Sequence[MetricFamily], at_ns: int) -> None:
        """Leave a batch in place of the one that waits. Returns at once."""
        with self._changed:
            self._newest = families, at_ns
            self._changed.notify()

    def stop(self) -> None:
        """Export what waits and end. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """False: still busy after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due_s = time.monotonic()
        while (batch := self._take(due_s)) is not None:
            due_s = time.monotonic() + self._interval_s
            try:
                for request in _converted(self._convert, *batch):
                    self._exporter.send(request)
            except ExportFailed as failure:
                self._outages.failed("metrics", failure)
            else:
                self._outages.worked("metrics")

    def _take(self, due_s: float) -> Batch | None:
        """The newest batch once it is due; None when stopping and nothing waits."""
        with self._changed:
            while not self._stopping:
                remaining_s = due_s - time.monotonic()
                if self._newest is not None and remaining_s <= 0:
                    break
                self._changed.wait(None if self._newest is None else remaining_s)
            batch, self._newest = self._newest, None
            return batch


class SpanDelivery:
    """Exports spans in order from a bounded queue; the oldest are dropped when it is full.

    Spans that a collector cannot take at present wait for it; spans that it does not want are
    dropped. `offer`, `stop` and `join` may be called from any thread.
    """

    def __init__(
        self,
        exporter: Exporter,
        convert: Callable[[RequestRecord], Any],
        max_queued: int,
        outages: Outages,
    ) -> None:
        self._exporter = exporter
        self._convert = convert
        self._max_queued = max_queued
        self._outages = outages
        self._changed = threading.Condition()
        self._queue: deque[RequestRecord] = deque()
        self._in_flight = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="otel-spans", daemon=True)
        self._thread.start()

    def offer(self, records: Sequence[RequestRecord]) -> None:
        """Leave requests to be told. Returns at once."""
        with self._changed:
            self._queue.extend(records)
            self._shrink()
            self._changed.notify()

    def stop(self) -> None:
        """Try once more to export what waits and end. Returns at once."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """False: still busy after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def waiting(self) -> int:
        """Spans that the collector has not taken so far."""
        with self._changed:
            return len(self._queue) + self._in_flight

    def _run(self) -> None:
        pause_s = 0.0
        while batch := self._take(pause_s):
            failure = self._send(batch)
            if failure is None or not failure.transient:
                pause_s = 0.0
                continue
            self._put_back(batch)
            if self._stopping:
                return
            pause_s = min(max(1.0, 2 * pause_s), LONGEST_PAUSE_S)

    def _send(self, batch: Sequence[RequestRecord]) -> ExportFailed | None:
        try:
            self._exporter.send([_converted(self._convert, record) for record in batch])
        except ExportFailed as failure:
            self._outages.failed("traces", failure)
            if not failure.transient:
                self._outages.lost_spans(len(batch))
            return failure
        self._outages.worked("traces")
        return None

    def _take(self, pause_s: float) -> list[RequestRecord]:
        """The oldest records, after a pause and some gathering; empty: stopping, none wait."""
        with self._changed:
            self._in_flight = 0
            self._changed.wait_for(lambda: self._stopping, pause_s)
            self._changed.wait_for(lambda: self._stopping or self._queue)
            self._changed.wait_for(
                lambda: self._stopping or len(self._queue) >= SPANS_PER_REQUEST, GATHER_S
            )
            count = min(len(self._queue), SPANS_PER_REQUEST)
            self._in_flight = count
            return [self._queue.popleft() for _ in range(count)]

    def _put_back(self, batch: Sequence[RequestRecord]) -> None:
        with self._changed:
            self._queue.extendleft(reversed(batch))
            self._in_flight = 0
            self._shrink()

    def _shrink(self) -> None:
        excess = len(self._queue) - self._max_queued
        for _ in range(excess):
            self._queue.popleft()
        if excess > 0:
            self._outages.lost_spans(excess)


def _converted(convert: Callable[..., Any], *subject: Any) -> Any:
    try:
        return convert(*subject)
    except Exception as error:
        reason = f"it has no form in OpenTelemetry ({type(error).__name__}: {error})"
        raise ExportFailed(reason, transient=False) from error
