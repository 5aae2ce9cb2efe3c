"""Metrics of what replicas were predicted to hold of their devices, and what they hold."""

from collections.abc import Iterable

from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry.catalogue import MEMORY_MEASURED, MEMORY_PREDICTED


class MemoryRow(Struct, frozen=True):
    """One number of one rank; the point's labels are model, replica, uuid and kind."""

    measured: bool
    point: MetricPoint


def memory_families(rows: Iterable[MemoryRow]) -> tuple[MetricFamily, ...]:
    """Predicted beside measured; what is not known has no series."""
    points: tuple[list[MetricPoint], list[MetricPoint]] = ([], [])
    for row in rows:
        points[row.measured].append(row.point)
    return tuple(
        metric.family(tuple(found))
        for metric, found in zip((MEMORY_PREDICTED, MEMORY_MEASURED), points, strict=True)
        if found
    )
