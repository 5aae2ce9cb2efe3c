"""Metric sinks at work: one thread per sink, so that none of them can delay the controller.

A sink takes the newest batch when it is free; a batch that was replaced before it was taken, or
whose publishing failed, is lost and counted. Metrics are cumulative, so the next one makes up.
Requests to trace wait in a queue of their own, of which the oldest are lost and counted.
"""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.planning.wording import described
from muai_core.plugin.metric_sink import MetricSink, SinkError, SinkUnavailable

logger = logging.getLogger(__name__)

SinkState = Literal["working", "failing", "closed"]

#: How long a sink may take to open.
OPEN_TIMEOUT_S = 10.0
#: How long all sinks together may take to publish the last batch and close.
CLOSE_TIMEOUT_S = 2.0
#: Requests that may wait for a sink.
MAX_REQUESTS = 2048
#: So many wake the sink at once; fewer wait for this long at most, to be told together.
_WAKING_REQUESTS = MAX_REQUESTS // 4
_REQUESTS_WAIT_S = 0.5


class SinkStatus(Struct, frozen=True, kw_only=True):
    """One sink as people may see it."""

    name: str
    state: SinkState
    batches_published: int
    batches_dropped: int
    #: None when the sink does not trace requests.
    requests_traced: int | None = None
    requests_dropped: int | None = None
    #: What the last failure said, also after the sink recovered.
    last_failure: str | None
    #: For how long the sink has been busy with what it took last; None when it is idle.
    busy_s: float | None


class SinkRunner:
    """One sink and its thread. All methods may be called from any thread."""

    def __init__(self, sink: MetricSink, options: Mapping[str, Any]) -> None:
        self.name = sink.name
        #: The share of requests that the sink wants to trace; known once it is open.
        self.trace_sample_ratio: float | None = None
        self._sink = sink
        self._options = options
        self._news = threading.Condition()
        self._pending: Sequence[MetricFamily] | None = None
        self._requests: deque[RequestRecord] = deque()
        self._closing = False
        self._opened = threading.Event()
        self._open_error: BaseException | None = None
        self._published = 0
        self._dropped = 0
        self._requests_traced = 0
        self._requests_dropped = 0
        #: What failed when it was done last.
        self._failing: set[str] = set()
        self._last_failure: str | None = None
        self._logged: set[tuple[str, ...]] = set()
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)

    def open(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Start the thread and open the sink in it; blocks until that is done.

        Raises SinkError with the sink's own text, or saying that it raised something else or did
        not come back in `timeout_s`.
        """
        self._thread.start()
        if not self._opened.wait(timeout_s):
            self.stop()
            raise SinkError(
                f"sinks.{self.name}: did not start within {timeout_s:g} s; "
                f"check its options, or remove it from sinks"
            )
        error = self._open_error
        if isinstance(error, SinkError):
            raise error
        if error is not None:
            raise SinkError(f"sinks.{self.name}: cannot start: {_in_words(error)}") from error

    def offer(self, families: Sequence[MetricFamily]) -> None:
        """Leave a batch for the sink. Returns at once; an older one still waiting is dropped."""
        with self._news:
            if self._closing:
                return
            if self._pending is not None:
                self._dropped += 1
            self._pending = families
            self._news.notify()

    def record(self, request: RequestRecord) -> None:
        """Leave a request for the sink to trace. Returns at once; when too many wait, the oldest
        is dropped."""
        with self._news:
            if self._closing or len(self._requests) >= MAX_REQUESTS:
                self._requests_dropped += 1
                if self._closing:
                    return
                self._requests.popleft()
            self._requests.append(request)
            if len(self._requests) == _WAKING_REQUESTS:
                self._news.notify()

    def status(self) -> SinkStatus:
        with self._news:
            state: SinkState = "failing" if self._failing else "working"
            since_s = self._busy_since_s
            traces = self.trace_sample_ratio is not None
            return SinkStatus(
                name=self.name,
                state=state if self._thread.is_alive() else "closed",
                batches_published=self._published,
                batches_dropped=self._dropped,
                requests_traced=self._requests_traced if traces else None,
                requests_dropped=self._requests_dropped if traces else None,
                last_failure=self._last_failure,
                busy_s=None if since_s is None else time.monotonic() - since_s,
            )

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Let the sink trace and publish what it has and close. False: it hangs and is left behind.

        Its thread is a daemon and does not keep the process alive.
        """
        self.stop()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning(
                "sink %s did not close within %g s and is left behind", self.name, timeout_s
            )
            return False
        return True

    def stop(self) -> None:
        """Tell the sink to close and do not wait."""
        with self._news:
            self._closing = True
            self._news.notify()

    def _run(self) -> None:
        try:
            self.trace_sample_ratio = _trace_sample_ratio(self._sink, self._options)
            self._sink.open(self._options)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._open_error = error
            return
        finally:
            self._opened.set()
        while self._await_work():
            requests, families = self._take()
            if requests:
                self._trace(requests)
            if families is not None:
                self._publish(families)
        try:
            self._sink.close()
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._failed("closing", error)

    def _await_work(self) -> bool:
        """True once there is something to take; False when the runner closes without any."""
        patience_s = None if self.trace_sample_ratio is None else _REQUESTS_WAIT_S
        with self._news:
            self._busy_since_s = None
            while (
                self._pending is None
                and len(self._requests) < _WAKING_REQUESTS
                and not self._closing
            ):
                if not self._news.wait(patience_s) and self._requests:
                    break
            return self._pending is not None or bool(self._requests)

    def _take(self) -> tuple[Sequence[RequestRecord], Sequence[MetricFamily] | None]:
        with self._news:
            self._busy_since_s = time.monotonic()
            requests, families = tuple(self._requests), self._pending
            self._requests.clear()
            self._pending = None
            return requests, families

    def _trace(self, requests: Sequence[RequestRecord]) -> None:
        try:
            self._sink.trace(requests)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            with self._news:
                self._requests_dropped += len(requests)
            self._failed("tracing", error)
            return
        with self._news:
            self._requests_traced += len(requests)
            self._failing.discard("tracing")

    def _publish(self, families: Sequence[MetricFamily]) -> None:
        try:
            self._sink.publish(families)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            with self._news:
                self._dropped += 1
            self._failed("publishing", error)
            return
        with self._news:
            self._published += 1
            self._failing.discard("publishing")

    def _failed(self, doing: str, error: BaseException) -> None:
        """Surface a failure; log it only when none like it was logged before.

        Alike are failures of one type raised at one line: their texts may differ in every batch.
        """
        with self._news:
            self._failing.add(doing)
            self._last_failure = _in_words(error)
        if isinstance(error, SinkUnavailable):
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = (doing, type(error).__name__, frame.filename, str(frame.lineno))
        if kind not in self._logged:
            self._logged.add(kind)
            logger.warning(
                "sink %s failed while %s: %s (further failures like this are only counted)",
                self.name,
                doing,
                _in_words(error),
            )


class SinkRunners:
    """All sinks of a controller: open once, offer often, close once."""

    def __init__(self, sinks: Sequence[tuple[MetricSink, Mapping[str, Any]]]) -> None:
        self._runners = [SinkRunner(sink, options) for sink, options in sinks]
        self._tracing: list[SinkRunner] = []

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._runners)

    def open(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Open all; blocks. Raises the first SinkError after closing those that were open."""
        for runner in self._runners:
            try:
                runner.open(timeout_s)
            except SinkError:
                self.close()
                raise
        self._tracing = [one for one in self._runners if one.trace_sample_ratio is not None]

    @property
    def trace_sample_ratio(self) -> float | None:
        """The largest share of requests that a sink wants to trace; None: no sink does. For the
        gateway's `Tracing`, once the sinks are open."""
        wanted = [one.trace_sample_ratio for one in self._tracing]
        return max((ratio for ratio in wanted if ratio is not None), default=None)

    def record(self, request: RequestRecord) -> None:
        """Leave a request for every sink that traces; returns at once."""
        for runner in self._tracing:
            runner.record(request)

    def offer(self, families: Sequence[MetricFamily]) -> None:
        """Leave a batch for every sink; returns at once."""
        for runner in self._runners:
            runner.offer(families)

    def statuses(self) -> list[SinkStatus]:
        return [runner.status() for runner in self._runners]

    def batches_dropped(self) -> dict[str, int]:
        """For `telemetry.collect.sink_families`."""
        return {status.name: status.batches_dropped for status in self.statuses()}

    def requests_dropped(self) -> dict[str, int]:
        """For `telemetry.collect.sink_families`: of the sinks that trace."""
        return {
            status.name: status.requests_dropped
            for status in self.statuses()
            if status.requests_dropped is not None
        }

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Close all at once, within `timeout_s` for all together. False: some hang."""
        deadline_s = time.monotonic() + timeout_s
        for runner in self._runners:
            runner.stop()
        closed = [runner.close(max(0.0, deadline_s - time.monotonic())) for runner in self._runners]
        return all(closed)


def _trace_sample_ratio(sink: MetricSink, options: Mapping[str, Any]) -> float | None:
    """Raises SinkError when the sink asks for something else than a share."""
    ratio: object = sink.trace_sample_ratio(options)
    if ratio is None:
        return None
    if not isinstance(ratio, int | float) or not 0.0 <= ratio <= 1.0:
        raise SinkError(
            f"sinks.{sink.name}: the plugin asks to trace a share of {ratio!r} of the requests; "
            f"a share is from 0.0 to 1.0, or None"
        )
    return float(ratio)


def _in_words(error: BaseException) -> str:
    return described(error)
