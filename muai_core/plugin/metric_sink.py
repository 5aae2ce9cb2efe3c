"""Metric sinks: where samples go."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.plugin.options import Configurable


class SinkError(Exception):
    """A sink cannot start; the text says what is wrong and what to do."""


class MetricSink(Configurable, ABC):
    """A driver that passes metrics on. It lives in a thread of its own, away from the controller.

    All methods may block and may raise; a slow or failing sink loses its own samples (counted in
    `muai_sink_batches_dropped_total`), never the controller's time.
    """

    #: Whether the sink runs when the config's `sinks` section does not name it.
    on_by_default: bool = False

    def wants_requests(self, options: Mapping[str, Any]) -> bool:
        """Called once before `open`, with the validated options: whether to call `trace`.

        While no sink does, the gateway passes trace headers on as they come and records nothing.
        Must not block or raise.
        """
        return False

    @abstractmethod
    def open(self, options: Mapping[str, Any]) -> None:
        """Called once before the first `publish`, with the validated options.

        Raise SinkError when the sink cannot work (a taken port): the start of the controller fails
        with that text.
        """

    def location(self) -> str | None:
        """Called after `open`: where people find the metrics, e.g. a URL. None: nowhere to look.

        Must not block or raise.
        """
        return None

    @abstractmethod
    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Called every second or so with every metric; cumulative, so a missed call loses nothing.

        A series that is missing has ended and must not be exported any longer.
        """

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        """Called before `publish` with the requests that ended since the last call, oldest first.

        Each is told once; those of a batch that is lost are counted in
        `muai_sink_requests_dropped_total`.
        """

    def close(self) -> None:
        """Called once at shutdown."""
