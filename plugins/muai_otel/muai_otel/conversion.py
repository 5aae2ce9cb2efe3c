"""From MuAI's metric families to the data model of the OpenTelemetry SDK."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_otel.mapping import Form, form_of
from muai_otel.series import Series, SeriesTable

#: A collector takes 4 MiB over gRPC unless told otherwise; a point takes 200 to 400 bytes.
POINTS_PER_REQUEST = 4000

#: A metric's form, its description and its points.
Sendable = tuple[Form, str, list[Any]]


class Converter:
    """Turns batches into requests. Used by one thread."""

    def __init__(
        self,
        resource: Resource,
        scope: InstrumentationScope,
        opened_ns: int,
        points_per_request: int = POINTS_PER_REQUEST,
    ) -> None:
        """`opened_ns`: since when cumulative values count, in nanoseconds since the epoch."""
        self._points_per_request = points_per_request
        self._resource = resource
        self._scope = scope
        self._table = SeriesTable(opened_ns)

    def convert(self, families: Sequence[MetricFamily], at_ns: int) -> list[MetricsData]:
        """The requests for one batch that was taken at `at_ns`; empty when there is nothing."""
        metrics: dict[str, Sendable] = {}
        sent: set[object] = set()
        self._table.begin(families)
        for family in families:
            form = form_of(family)
            description = form.description or family.help
            points = metrics.setdefault(form.name, (form, description, []))[2]
            for point, series in self._table.find(family, form, at_ns):
                if series.key not in sent:
                    sent.add(series.key)
                    points.append(_data_point(form, series, point, at_ns))
        self._table.end(at_ns)
        return [self._request(part) for part in self._in_parts(metrics.values())]

    def _in_parts(self, metrics: Iterable[Sendable]) -> Iterator[list[Metric]]:
        """Metrics in lists of so many points at most; a large metric is cut."""
        part: list[Metric] = []
        room = self._points_per_request
        for form, description, points in metrics:
            while points:
                taken, points = points[:room], points[room:]
                part.append(_metric(form, description, taken))
                room -= len(taken)
                if room == 0:
                    yield part
                    part, room = [], self._points_per_request
        if part:
            yield part

    def _request(self, metrics: list[Metric]) -> MetricsData:
        scope = ScopeMetrics(scope=self._scope, metrics=metrics, schema_url="")
        resource = ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")
        return MetricsData(resource_metrics=[resource])


def _metric(form: Form, description: str, points: list[Any]) -> Metric:
    data: Gauge | Sum | Histogram
    if form.instrument == "gauge":
        data = Gauge(data_points=points)
    elif form.instrument == "histogram":
        data = Histogram(points, AggregationTemporality.CUMULATIVE)
    else:
        data = Sum(
            data_points=points,
            aggregation_temporality=AggregationTemporality.CUMULATIVE,
            is_monotonic=form.instrument == "counter",
        )
    return Metric(name=form.name, description=description, unit=form.unit, data=data)


def _data_point(
    form: Form, series: Series, point: MetricPoint, at_ns: int
) -> NumberDataPoint | HistogramDataPoint:
    if form.instrument == "histogram":
        return _histogram_point(series, point, at_ns)
    value: float = point.value if form.scale == 1.0 else point.value * form.scale
    return NumberDataPoint(
        attributes=series.attributes,
        start_time_unix_nano=0 if form.instrument == "gauge" else series.start_ns,
        time_unix_nano=at_ns,
        value=int(value) if form.whole and value.is_integer() else value,
    )


def _histogram_point(series: Series, point: MetricPoint, at_ns: int) -> HistogramDataPoint:
    """Counts per bucket, where ours are cumulative; the last is the one without upper bound."""
    cumulative = [0, *(count for _, count in point.buckets), point.count]
    unknown: Any = None  # Smallest and largest are optional in OTLP, but not in the SDK's types.
    return HistogramDataPoint(
        attributes=series.attributes,
        start_time_unix_nano=series.start_ns,
        time_unix_nano=at_ns,
        count=point.count,
        sum=point.total,
        bucket_counts=[after - before for before, after in pairwise(cumulative)],
        explicit_bounds=[bound for bound, _ in point.buckets],
        min=unknown,
        max=unknown,
    )
