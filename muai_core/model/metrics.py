"""Metrics on their way to the sinks: cumulative values, ready for any exporter."""

from typing import Literal

from msgspec import Struct

MetricKind = Literal["gauge", "counter", "histogram"]


class MetricPoint(Struct, frozen=True, gc=False):
    """One series. `labels` follows the family's `label_names`.

    A histogram carries `buckets` as (upper bound, cumulative count), without the +Inf bucket,
    and `count` and `total`; its `value` is unused.
    """

    labels: tuple[str, ...]
    value: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()
    count: int = 0
    total: float = 0.0


class MetricFamily(Struct, frozen=True, kw_only=True):
    """All series of one metric at one moment. Counter names carry no `_total` suffix here."""

    name: str
    kind: MetricKind
    help: str
    label_names: tuple[str, ...] = ()
    points: tuple[MetricPoint, ...] = ()
