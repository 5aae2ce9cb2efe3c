"""Tells people when the collector stops taking what we send, and when it takes it again."""

import logging
import threading
from collections.abc import Iterable

from muai_otel.exporters import ExportFailed
from muai_otel.settings import Collector, Signal

logger = logging.getLogger(__name__)


class Outages:
    """One line when an outage begins and one when it ends. May be called from any thread.

    A collector that cannot be reached is one outage, whichever signals it concerns; one that
    refuses a signal is an outage of that signal.
    """

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = {one.signal: one for one in collectors}
        self._lock = threading.Lock()
        #: Signal → what is out: the address of the collector, and the signal if only that one.
        self._out: dict[Signal, tuple[str, ...]] = {}
        self._reason = ""
        self._spans_lost = 0
        self._lost_before = 0
        self._told_of_loss = False
        self._closed = False

    @property
    def reason(self) -> str | None:
        """Why something is not delivered at present; None when everything is."""
        with self._lock:
            return self._reason if self._out else None

    @property
    def spans_lost(self) -> int:
        """Spans that were dropped since the start."""
        with self._lock:
            return self._spans_lost

    def failed(self, signal: Signal, failure: ExportFailed) -> None:
        """A batch was not taken."""
        collector = self._collectors[signal]
        out = (collector.address,) if failure.transient else (collector.address, signal)
        with self._lock:
            known = signal in self._out or out in self._out.values()
            news = not known and not self._closed
            if not self._out:
                self._lost_before = self._spans_lost
            self._out.setdefault(signal, out)
            self._reason = f"{collector.endpoint}: {failure}"
        if news and failure.transient:
            logger.warning(
                "otel cannot deliver to %s: %s; it keeps trying, and spans wait meanwhile",
                collector.address,
                failure,
            )
        elif news:
            logger.warning("otel: %s refuses %s: %s", collector.endpoint, signal, failure)

    def worked(self, signal: Signal) -> None:
        """A batch was taken."""
        with self._lock:
            out = self._out.pop(signal, None)
            over = out is not None and out not in self._out.values()
            lost = self._spans_lost - self._lost_before
            if over:
                self._lost_before = self._spans_lost
        if over:
            loss = f"; {lost} spans were lost meanwhile" if lost else ""
            logger.warning("otel delivers to %s again%s", self._collectors[signal].address, loss)

    def lost_spans(self, count: int) -> None:
        """Spans were dropped: the queue was full, or the collector did not want them."""
        with self._lock:
            self._spans_lost += count
            news = not self._out and not self._told_of_loss
            self._told_of_loss = self._told_of_loss or news
        if news:
            logger.warning(
                "otel drops spans: requests end faster than %s takes them; "
                "raise max_queued_spans or lower sample_ratio (further losses are only counted)",
                self._collectors["traces"].address,
            )

    def close(self, spans_left: int) -> None:
        """The end: tells what stays behind, and nothing more after that."""
        with self._lock:
            self._closed = True
        if spans_left:
            logger.warning("otel: %d spans could not be delivered before the end", spans_left)
