"""Metric sinks: where samples go."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.plugin.options import Configurable


class SinkError(Exception):
    """A sink cannot start; the text says what is wrong and what to do."""


class SinkUnavailable(Exception):
    """What the sink passes things on to is away, and the sink's own log line told so.

    Raised from `publish`, it shows the sink as failing, with this text, and is not logged again.
    """


class MetricSink(Configurable, ABC):
    """A driver that passes metrics on. It lives in a thread of its own, away from the controller.

    All methods may block and may raise; a slow or failing sink loses its own samples (counted in
    `muai_sink_batches_dropped_total`), never the controller's time.
    """

    #: Whether the sink runs when the config's `sinks` section does not name it.
    on_by_default: bool = False

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        """Called once before `open`, with the validated options: whether to call `trace`, for what
        share of the requests, 0.0 to 1.0. None: never.

        The gateway decides, so that engines record the same requests: a client's own sampling
        decision is kept, new traces are sampled by the largest ratio that any sink asks for, as
        OpenTelemetry's `TraceIdRatioBased` does. While no sink asks, the gateway passes trace
        headers on as they come. Must not block or raise.
        """
        return None

    @abstractmethod
    def open(self, options: Mapping[str, Any]) -> None:
        """Called once before the first `publish`, with the validated options.

        Raise SinkError when the sink cannot work (a taken port): the start of the controller fails
        with that text. A sink that listens does so on this machine only, unless an option says
        otherwise.
        """

    def location(self) -> str | None:
        """Called after `open`: where people find the metrics, e.g. a URL. None: nowhere to look.

        Must not block or raise.
        """
        return None

    @abstractmethod
    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Called every second or so with every metric; cumulative, so a missed call loses nothing.

        A series that is missing has ended and must not be exported any longer. There may be none at
        all, label values may hold any character, and values may be infinite or NaN (not known).
        """

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        """Called with the sampled requests that ended since the last call, oldest first: within
        a second or so of their end, and once more before `close`.

        Each is told once. Those of a call that raises, and the oldest while a slow sink lets over
        2,048 wait, are lost and counted in `muai_sink_requests_dropped_total`.
        """

    def close(self) -> None:
        """Called once at shutdown: no thread, process or descriptor of the sink stays.

        All sinks together have 2 s, whether or not the other side answers. Another call does
        nothing. A script may open the sink again.
        """
