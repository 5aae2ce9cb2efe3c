"""Metric sinks at work: one thread per sink, so that none of them can delay the controller.

A sink takes the newest batch when it is free; a batch that was replaced before it was taken, or
whose publishing failed, is lost and counted. Metrics are cumulative, so the next one makes up.
"""

import logging
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from muai_core.model.metrics import MetricFamily
from muai_core.planning.wording import described
from muai_core.plugin.metric_sink import MetricSink, SinkError

logger = logging.getLogger(__name__)

SinkState = Literal["working", "failing", "closed"]

#: How long a sink may take to open.
OPEN_TIMEOUT_S = 10.0
#: How long all sinks together may take to publish the last batch and close.
CLOSE_TIMEOUT_S = 2.0


class SinkStatus(Struct, frozen=True, kw_only=True):
    """One sink as people may see it."""

    name: str
    state: SinkState
    batches_published: int
    batches_dropped: int
    #: What the last failure said, also after the sink recovered.
    last_failure: str | None
    #: For how long the sink has been busy with one batch; None when it is idle.
    busy_s: float | None


class SinkRunner:
    """One sink and its thread. All methods may be called from any thread."""

    def __init__(self, sink: MetricSink, options: Mapping[str, Any]) -> None:
        self.name = sink.name
        self._sink = sink
        self._options = options
        self._news = threading.Condition()
        self._pending: Sequence[MetricFamily] | None = None
        self._closing = False
        self._opened = threading.Event()
        self._open_error: BaseException | None = None
        self._published = 0
        self._dropped = 0
        self._failing = False
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

    def status(self) -> SinkStatus:
        with self._news:
            state: SinkState = "failing" if self._failing else "working"
            since_s = self._busy_since_s
            return SinkStatus(
                name=self.name,
                state=state if self._thread.is_alive() else "closed",
                batches_published=self._published,
                batches_dropped=self._dropped,
                last_failure=self._last_failure,
                busy_s=None if since_s is None else time.monotonic() - since_s,
            )

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Let the sink publish what it has and close. False: it hangs and is left behind.

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
            self._sink.open(self._options)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._open_error = error
            return
        finally:
            self._opened.set()
        while (families := self._take()) is not None:
            self._publish(families)
        try:
            self._sink.close()
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._failed("closing", error)

    def _take(self) -> Sequence[MetricFamily] | None:
        """The next batch; None when the runner closes and nothing is left."""
        with self._news:
            self._busy_since_s = None
            while self._pending is None and not self._closing:
                self._news.wait()
            families, self._pending = self._pending, None
            if families is not None:
                self._busy_since_s = time.monotonic()
            return families

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
            self._failing = False

    def _failed(self, doing: str, error: BaseException) -> None:
        """Surface a failure; log it only when none like it was logged before.

        Alike are failures of one type raised at one line: their texts may differ in every batch.
        """
        with self._news:
            self._failing = True
            self._last_failure = _in_words(error)
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

    def open(self, timeout_s: float = OPEN_TIMEOUT_S) -> None:
        """Open all; blocks. Raises the first SinkError after closing those that were open."""
        for runner in self._runners:
            try:
                runner.open(timeout_s)
            except SinkError:
                self.close()
                raise

    def offer(self, families: Sequence[MetricFamily]) -> None:
        """Leave a batch for every sink; returns at once."""
        for runner in self._runners:
            runner.offer(families)

    def statuses(self) -> list[SinkStatus]:
        return [runner.status() for runner in self._runners]

    def batches_dropped(self) -> dict[str, int]:
        """For `telemetry.collect.sink_families`."""
        return {status.name: status.batches_dropped for status in self.statuses()}

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Close all at once, within `timeout_s` for all together. False: some hang."""
        deadline_s = time.monotonic() + timeout_s
        for runner in self._runners:
            runner.stop()
        closed = [runner.close(max(0.0, deadline_s - time.monotonic())) for runner in self._runners]
        return all(closed)


def _in_words(error: BaseException) -> str:
    return described(error)
