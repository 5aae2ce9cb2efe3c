"""What holds for the data of any batches: OTLP's rules for cumulative series."""

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from muai_otel.conversion import Converter
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from muai_core.model.metrics import MetricFamily, MetricPoint

OPENED_NS = 1_000
POINTS_PER_REQUEST = 7

#: One batch: which replicas there are, and what each has counted.
counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 50), max_size=3)


def converter() -> Converter:
    scope = InstrumentationScope("muai")
    return Converter(Resource({}), scope, OPENED_NS, points_per_request=POINTS_PER_REQUEST)


def points(requests: Sequence[MetricsData]) -> Iterator[Any]:
    for request in requests:
        (scope,) = request.resource_metrics[0].scope_metrics
        for metric in scope.metrics:
            yield from metric.data.data_points


def family(kind: Any, batch: dict[str, int]) -> MetricFamily:
    made = tuple(
        MetricPoint(
            (replica,),
            float(count),
            buckets=((1.0, count // 2), (2.0, count // 2)),
            count=count,
            total=1.5 * count,
        )
        for replica, count in batch.items()
    )
    return MetricFamily(
        name="muai_things", kind=kind, help="Help.", label_names=("replica",), points=made
    )


@given(kind=st.sampled_from(["counter", "histogram"]), batches=st.lists(counts, max_size=8))
@settings(max_examples=200)
def test_cumulative_series_never_fall_and_their_times_never_overlap(
    kind: str, batches: list[dict[str, int]]
) -> None:
    convert = converter().convert
    before: dict[str, tuple[int, int, float]] = {}
    for number, batch in enumerate(batches, start=1):
        at_ns = OPENED_NS + 10 * number
        now: dict[str, tuple[int, int, float]] = {}
        for point in points(convert([family(kind, batch)], at_ns)):
            replica = point.attributes["replica"]
            value = point.count if kind == "histogram" else point.value
            start_ns = point.start_time_unix_nano
            now[replica] = (start_ns, at_ns, value)
            assert value == batch[replica]
            assert OPENED_NS <= start_ns < point.time_unix_nano == at_ns
            if kind == "histogram":
                assert sum(point.bucket_counts) == point.count
                assert min(point.bucket_counts) >= 0
                assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            if replica in before:
                old_start_ns, old_at_ns, old_value = before[replica]
                if start_ns == old_start_ns:
                    assert value >= old_value
                else:
                    assert start_ns >= old_at_ns
        assert set(now) == set(batch)
        before = now


@given(sizes=st.lists(st.integers(0, 2 * POINTS_PER_REQUEST + 1), max_size=4))
@settings(max_examples=100)
def test_nothing_is_lost_or_doubled_when_batches_are_cut(sizes: list[int]) -> None:
    families = [
        MetricFamily(
            name=f"muai_{number}",
            kind="gauge",
            help="Help.",
            label_names=("model",),
            points=tuple(MetricPoint((str(point),), float(point)) for point in range(size)),
        )
        for number, size in enumerate(sizes)
    ]
    requests = converter().convert(families, 2_000)
    assert all(len(list(points([one]))) == POINTS_PER_REQUEST for one in requests[:-1])
    sent: list[tuple[str, float]] = []
    for request in requests:
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            assert metric.data.data_points
            sent += [(metric.name, point.value) for point in metric.data.data_points]
    assert sent == [
        (f"muai.{number}", float(point))
        for number, size in enumerate(sizes)
        for point in range(size)
    ]
