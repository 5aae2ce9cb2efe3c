"""From MuAI's metric families to Prometheus text, by way of the official client library."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from muai_core.model.metrics import MetricFamily


class LastPublished(Collector):
    """Exposes the families of the last batch and nothing else: a series that is gone has ended."""

    def __init__(self) -> None:
        self.families: Sequence[MetricFamily] = ()

    def collect(self) -> Iterator[Metric]:
        for family in self.families:
            yield to_prometheus(family)


class Exposition:
    """The text of one scrape: the last batch, and the controller's own process."""

    def __init__(self) -> None:
        self._published = LastPublished()
        self._registry = CollectorRegistry()
        self._registry.register(self._published)
        ProcessCollector(registry=self._registry)

    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Replace the batch. Safe while another thread renders: that one keeps the old batch."""
        self._published.families = families

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type, in the best format that the `Accept` header names."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def to_prometheus(family: MetricFamily) -> Metric:
    """The client library's form of one family: no timestamps, no `_created` series."""
    if family.kind == "histogram":
        return _histogram(family)
    form = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = form(family.name, family.help, labels=family.label_names)
    for point in family.points:
        metric.add_metric(point.labels, point.value)
    return metric


def _histogram(family: MetricFamily) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.label_names)
    for point in family.points:
        buckets = [(repr(float(bound)), float(count)) for bound, count in point.buckets]
        metric.add_metric(point.labels, [*buckets, ("+Inf", float(point.count))], point.total)
    return metric
