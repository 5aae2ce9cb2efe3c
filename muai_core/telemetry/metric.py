"""One metric as data, and short ways to write one down."""

from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint


class Metric(Struct, frozen=True, kw_only=True):
    """One metric: its name without `_total`, what it means, the names of its labels.

    `buckets` are the upper bounds of a histogram without +Inf, ascending, in the metric's unit.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed_name(self) -> str:
        """The name as people query it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def family(self, points: tuple[MetricPoint, ...]) -> MetricFamily:
        """The given series as a family of this metric."""
        return MetricFamily(
            name=self.name, kind=self.kind, help=self.help, label_names=self.labels, points=points
        )


def gauge(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", help=help_text, labels=labels)


def counter(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", help=help_text, labels=labels)


def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name=name, kind="histogram", help=help_text, labels=labels, buckets=buckets)
