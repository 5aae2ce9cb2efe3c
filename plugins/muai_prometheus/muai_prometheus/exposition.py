"""What a scrape gets: the last batch, and the controller's own process."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from muai_core.model.metrics import MetricFamily
from muai_prometheus.text import render


class Exposition:
    """The text of one scrape. A series that the last batch does not have has ended."""

    def __init__(self) -> None:
        self._families: Sequence[MetricFamily] = ()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        #: The batch that was rendered last, in which format, and its text.
        self._rendered: tuple[Sequence[MetricFamily], bool, bytes] | None = None

    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Replace the batch. Safe while another thread renders: that one keeps the old batch."""
        self._families = families

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, in the best format that the `Accept` header names."""
        encode, content_type = choose_encoder(accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        # The client library's text comes last: in OpenMetrics it brings the end mark.
        return self._batch(openmetrics=openmetrics) + encode(self._process), content_type

    def _batch(self, *, openmetrics: bool) -> bytes:
        """Rendered once for all scrapers of one batch."""
        families, rendered = self._families, self._rendered
        if rendered is None or rendered[0] is not families or rendered[1] is not openmetrics:
            rendered = (families, openmetrics, render(families, openmetrics=openmetrics).encode())
            self._rendered = rendered
        return rendered[2]
