"""What is remembered of a series between two exports: its attributes, and since when it counts."""

from collections.abc import Mapping, Sequence

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_otel.mapping import (
    COUNTED_BY_DEVICES,
    GPU_INFO,
    GPU_LABEL,
    IDENTITY,
    Form,
)

Attributes = Mapping[str, str]


class Series:
    """One series under its OpenTelemetry name."""

    __slots__ = ("attributes", "identity", "key", "last", "start_ns")

    def __init__(
        self, form: Form, labels: Mapping[str, str], identity: Attributes, start_ns: int
    ) -> None:
        self.identity = identity
        self.attributes = attributes_of(form, labels, identity)
        #: Equal for series that OpenTelemetry cannot tell apart.
        self.key = (form.name, frozenset(self.attributes.items()))
        self.start_ns = start_ns
        self.last = 0.0


class SeriesTable:
    """All series of the last batch. Used by one thread."""

    def __init__(self, opened_ns: int) -> None:
        self._before_ns = opened_ns
        self._is_first = True
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._seen: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._identities: Mapping[str, Attributes] = {}

    def begin(self, families: Sequence[MetricFamily]) -> None:
        """Before the families of a batch."""
        self._seen = {}
        self._identities = identities(families)

    def find(
        self, family: MetricFamily, form: Form, point: MetricPoint, amount: float, at_ns: int
    ) -> Series:
        """The series of a point. `amount` is what a counter or histogram has counted so far.

        A series that was not there a batch ago has counted since then; one that counts less than
        before has begun again since then. What devices count began before we looked, at an unknown
        time: OpenTelemetry's data model then wants the first observation's time as the start.
        """
        where = (family.name, point.labels)
        series = self._series.get(where)
        labels = dict(zip(family.label_names, point.labels, strict=True))
        identity = self._identity(labels)
        if series is None:
            by_device = family.name.startswith(COUNTED_BY_DEVICES)
            series = Series(form, labels, identity, at_ns if by_device else self._before_ns)
        elif series.identity != identity:
            series = Series(form, labels, identity, series.start_ns)
        elif amount < series.last:
            series.start_ns = self._before_ns
        series.last = amount
        self._seen[where] = series
        return series

    def end(self, at_ns: int) -> None:
        """After the families of a batch: what was not in it has ended."""
        self._series, self._seen = self._seen, {}
        self._before_ns = at_ns

    def _identity(self, labels: Mapping[str, str]) -> Attributes:
        gpu_id = labels.get(GPU_LABEL)
        return {} if gpu_id is None else self._identities.get(gpu_id) or gpu_attributes(gpu_id)


def identities(families: Sequence[MetricFamily]) -> dict[str, Attributes]:
    """The attributes of every GPU, by `gpu_id`."""
    known: dict[str, Attributes] = {}
    for family in families:
        if family.name == GPU_INFO:
            for point in family.points:
                labels = dict(zip(family.label_names, point.labels, strict=True))
                known[labels[GPU_LABEL]] = gpu_attributes(labels[GPU_LABEL], labels)
    return known


def gpu_attributes(gpu_id: str, info: Mapping[str, str] | None = None) -> Attributes:
    """What OpenTelemetry wants on every series of a GPU; what is unknown is left out."""
    told = {name: info[label] for label, name in IDENTITY.items() if info and info.get(label)}
    return {"hw.id": gpu_id, "hw.type": "gpu", "hw.name": f"GPU {gpu_id}", **told}


def attributes_of(form: Form, labels: Mapping[str, str], identity: Attributes) -> Attributes:
    """The attributes of one series."""
    attributes = {**identity, **form.constants}
    for label, value in labels.items():
        attribute = form.attributes.get(label)
        if attribute is not None:
            attributes[attribute.name] = attribute.value(value)
        elif label != GPU_LABEL or form.is_own:
            attributes[label] = value
    return attributes
