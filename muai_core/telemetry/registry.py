"""What happened so far: cumulative counters, gauges and histograms over the catalogue.

Safe from several threads. A recorded value costs one dict lookup and one uncontended lock.

Clients choose model names, so the label `model` is guarded: only names given to `serve_models`
make series, every other name is recorded under the empty one.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from threading import Lock

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry.catalogue import MODEL_LABEL, RECORDED
from muai_core.telemetry.metric import Metric

#: Stands for every model that is not served, so that clients cannot create series.
NO_MODEL = ""


class Value:
    """One series of a counter or gauge. Stays usable, unseen, after its model has gone."""

    __slots__ = ("_is_counter", "_lock", "_value")

    def __init__(self, lock: Lock, *, is_counter: bool) -> None:
        self._lock = lock
        self._is_counter = is_counter
        self._value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Raises ValueError when a counter would go down or `amount` is not a number."""
        if math.isnan(amount) or (amount < 0 and self._is_counter):
            raise ValueError(f"a counter cannot take {amount}; it only goes up")
        with self._lock:
            self._value += amount

    def point(self, labels: tuple[str, ...]) -> MetricPoint:
        """The series as it stands; call with the lock held."""
        return MetricPoint(labels, self._value)


class Histogram:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_lock", "_total")

    def __init__(self, lock: Lock, bounds: tuple[float, ...]) -> None:
        self._lock = lock
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose upper bound is not below it.

        Raises ValueError for NaN, which belongs in no bucket.
        """
        if math.isnan(value):
            raise ValueError("a histogram cannot take NaN")
        index = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._total += value

    def point(self, labels: tuple[str, ...]) -> MetricPoint:
        """The series as it stands; call with the lock held."""
        running, buckets = 0, []
        for bound, count in zip(self._bounds, self._counts, strict=False):
            running += count
            buckets.append((bound, running))
        count = running + self._counts[-1]
        return MetricPoint(labels, buckets=tuple(buckets), count=count, total=self._total)


class Registry:
    """All series of the given metrics. A metric without labels has its series from the start."""

    def __init__(self, metrics: Iterable[Metric] = RECORDED) -> None:
        self._lock = Lock()
        self._metrics = {metric.name: metric for metric in metrics}
        self._series: dict[str, dict[tuple[str, ...], Value | Histogram]] = {
            name: {} for name in self._metrics
        }
        self._models: frozenset[str] = frozenset()
        self._create_known()

    def serve_models(self, names: Iterable[str]) -> None:
        """Admit exactly these models: series of others end, new ones start at zero."""
        with self._lock:
            self._models = frozenset(names)
            for name, metric in self._metrics.items():
                if MODEL_LABEL in metric.labels:
                    place = metric.labels.index(MODEL_LABEL)
                    admitted = self._models | {NO_MODEL}
                    kept = {k: v for k, v in self._series[name].items() if k[place] in admitted}
                    self._series[name] = kept
        self._create_known()

    def value(self, metric: Metric, *labels: str) -> Value:
        """The series of a counter or gauge with these label values, created on first use.

        Raises TypeError for a histogram, KeyError for a metric that is not registered here and
        ValueError for the wrong number of labels.
        """
        series = self._find(metric, labels)
        if not isinstance(series, Value):
            raise TypeError(f"{metric.name} is a histogram; use Registry.histogram")
        return series

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The series of a histogram; raises like `value`."""
        series = self._find(metric, labels)
        if not isinstance(series, Histogram):
            raise TypeError(f"{metric.name} is a {metric.kind}; use Registry.value")
        return series

    def collect(self) -> tuple[MetricFamily, ...]:
        """All families at one moment, in the order of the catalogue, series in order of labels."""
        with self._lock:
            return tuple(
                metric.family(
                    tuple(series.point(labels) for labels, series in sorted(self._rows(name)))
                )
                for name, metric in self._metrics.items()
            )

    def _rows(self, name: str) -> list[tuple[tuple[str, ...], Value | Histogram]]:
        return list(self._series[name].items())

    def _create_known(self) -> None:
        for metric in self._metrics.values():
            if not metric.labels:
                self._find(metric, ())
            elif metric.labels == (MODEL_LABEL,):
                for model in sorted(self._models):
                    self._find(metric, (model,))

    def _find(self, metric: Metric, labels: tuple[str, ...]) -> Value | Histogram:
        with self._lock:
            family = self._series[metric.name]
            series = family.get(labels)
            if series is not None:
                return series
            key = self._guarded(metric, labels)
            series = family.get(key)
            if series is None:
                series = family[key] = self._new(metric)
            return series

    def _guarded(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, got {labels}")
        return tuple(
            NO_MODEL if name == MODEL_LABEL and label not in self._models else label
            for name, label in zip(metric.labels, labels, strict=True)
        )

    def _new(self, metric: Metric) -> Value | Histogram:
        if metric.kind == "histogram":
            return Histogram(self._lock, metric.buckets)
        return Value(self._lock, is_counter=metric.kind == "counter")
