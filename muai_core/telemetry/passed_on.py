"""Engines' own metrics on their way to the sinks, under their own names.

Each series gets the labels `model` and `replica`; labels of the engine with these names become
`exported_model` and `exported_replica`, as Prometheus does it. Families of one name from several
replicas become one.
"""

import logging
import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint
from muai_core.telemetry.catalogue import METRICS
from muai_core.telemetry.prometheus_text import Sample, TextFamily

_log = logging.getLogger(__name__)

_OWN_LABELS = ("model", "replica")
#: Engines may invent names without end; that many are told of.
_WARNINGS_MAX = 100
_COUNT_MAX = 2.0**63

Labels = tuple[tuple[str, str], ...]


class ReplicaMetrics(Struct, frozen=True):
    """What one replica answered."""

    model: str
    replica_id: str
    families: Sequence[TextFamily]


class _Merged(Struct):
    kind: MetricKind
    help: str
    #: By labels: the first of two that are equal stays.
    points: dict[Labels, MetricPoint] = {}


class PassedOn:
    """Remembers what it warned of. Used by one thread at a time."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def families(self, answers: Iterable[ReplicaMetrics]) -> tuple[MetricFamily, ...]:
        """One family for each name, in their order; a label that a series lacks is empty."""
        merged: dict[str, _Merged] = {}
        for answer in answers:
            own = (("model", answer.model), ("replica", answer.replica_id))
            for family in answer.families:
                for name, kind, points in _converted(family):
                    self._add(merged, answer.replica_id, name, kind, family.help, own, points)
        return tuple(_family(name, merged[name]) for name in sorted(merged))

    def _add(
        self,
        merged: dict[str, _Merged],
        replica_id: str,
        name: str,
        kind: MetricKind,
        help_text: str,
        own: Labels,
        points: Iterable[tuple[Labels, MetricPoint]],
    ) -> None:
        taken = _OWN_NAMES.intersection(_exposed(name, kind))
        if taken:
            self._warn(name, f"{min(taken)} is a metric of MuAI's own")
            return
        into = merged.setdefault(name, _Merged(kind, help_text))
        if into.kind != kind:
            self._warn(f"{name} {kind}", f"{replica_id} has it as a {kind}, others as {into.kind}")
            return
        for labels, point in points:
            into.points.setdefault((*own, *_renamed(labels)), point)

    def _warn(self, what: str, why: str) -> None:
        if what not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(what)
            _log.warning("metric %s of an engine is not passed on: %s", what.split()[0], why)


def _exposed(name: str, kind: MetricKind) -> tuple[str, ...]:
    """The names that Prometheus will see."""
    if kind == "histogram":
        return (name, f"{name}_bucket", f"{name}_sum", f"{name}_count")
    return (f"{name}_total",) if kind == "counter" else (name,)


_OWN_NAMES = frozenset(name for one in METRICS for name in _exposed(one.name, one.kind))


def _renamed(labels: Labels) -> Labels:
    names = {name for name, _ in labels}
    if names.isdisjoint(_OWN_LABELS):
        return labels
    found = []
    for name, value in labels:
        new = name
        if name in _OWN_LABELS:
            new = f"exported_{name}"
            while new in names:
                new = f"exported_{new}"
        found.append((new, value))
    return tuple(found)


def _family(name: str, merged: _Merged) -> MetricFamily:
    others = sorted({label for labels in merged.points for label, _ in labels[2:]})
    names = (*_OWN_LABELS, *others)
    points = []
    for labels in sorted(merged.points):
        values, point = dict(labels), merged.points[labels]
        points.append(
            MetricPoint(
                tuple(values.get(label, "") for label in names),
                point.value,
                point.buckets,
                point.count,
                point.total,
            )
        )
    return MetricFamily(
        name=name, kind=merged.kind, help=merged.help, label_names=names, points=tuple(points)
    )


_Converted = tuple[str, MetricKind, list[tuple[Labels, MetricPoint]]]


def _converted(family: TextFamily) -> list[_Converted]:
    """The family as sinks know it. What has no type there, summaries too, is a gauge."""
    if family.kind == "histogram":
        return [(family.name, "histogram", _histograms(family))]
    if family.kind == "counter":
        points = [
            (one.labels, MetricPoint((), one.value))
            for one in family.samples
            if 0.0 <= one.value < math.inf
        ]
        return [(family.name.removesuffix("_total"), "counter", points)]
    gauges: dict[str, list[tuple[Labels, MetricPoint]]] = {}
    for one in family.samples:
        gauges.setdefault(one.name, []).append((one.labels, MetricPoint((), one.value)))
    return [(name, "gauge", points) for name, points in gauges.items()]


def _histograms(family: TextFamily) -> list[tuple[Labels, MetricPoint]]:
    """Each series whose buckets are sound: ascending, cumulative, up to +Inf."""
    by_series: dict[Labels, list[Sample]] = {}
    for one in family.samples:
        labels = tuple(label for label in one.labels if label[0] != "le")
        by_series.setdefault(labels, []).append(one)
    found = ((labels, _histogram(family.name, own)) for labels, own in by_series.items())
    return [(labels, point) for labels, point in found if point is not None]


def _histogram(name: str, samples: Sequence[Sample]) -> MetricPoint | None:
    buckets: dict[float, float] = {}
    total = 0.0
    for one in samples:
        if one.name == f"{name}_sum":
            total = one.value
        elif one.name == f"{name}_bucket":
            try:
                buckets[float(dict(one.labels)["le"])] = one.value
            except (KeyError, ValueError):
                return None
    if any(math.isnan(bound) for bound in buckets) or math.inf not in buckets:
        return None
    bounds = sorted(buckets)
    counts = [buckets[bound] for bound in bounds]
    if not all(0.0 <= count < _COUNT_MAX for count in counts) or counts != sorted(counts):
        return None
    pairs = tuple((bound, int(count)) for bound, count in zip(bounds, counts, strict=True))
    return MetricPoint((), buckets=pairs[:-1], count=pairs[-1][1], total=total)
