"""What is remembered of a series between two exports: its attributes, and since when it counts."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_otel.mapping import (
    GPU_INFO,
    GPU_LABEL,
    IDENTITY,
    Form,
    counted_by_device,
)

Attributes = Mapping[str, str]
#: Metric and label values.
Place = tuple[str, tuple[str, ...]]

#: The identity of a series that belongs to no GPU.
NOBODY: Attributes = {}


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
        self.last: float = 0.0


class SeriesTable:
    """All series of the last batch. Used by one thread."""

    def __init__(self, opened_ns: int) -> None:
        self._before_ns = opened_ns
        self._series: dict[Place, Series] = {}
        self._seen: dict[Place, Series] = {}
        self._identities: Mapping[str, Attributes] = {}

    def begin(self, families: Sequence[MetricFamily]) -> None:
        """Before the families of a batch."""
        self._seen = {}
        before = self._identities
        # What did not change stays the same object, so that comparing costs nothing.
        self._identities = {
            gpu_id: known if (known := before.get(gpu_id)) == new else new
            for gpu_id, new in identities(families).items()
        }

    def find(
        self, family: MetricFamily, form: Form, at_ns: int
    ) -> Iterator[tuple[MetricPoint, Series]]:
        """Each point with its series.

        A series that was not there a batch ago has counted since then; one that counts less than
        before has begun again since then. What devices count began before we looked, at an unknown
        time: OpenTelemetry's data model then wants the first observation's time as the start.
        """
        name, names = family.name, family.label_names
        start_ns = at_ns if counted_by_device(name) else self._before_ns
        gpu = names.index(GPU_LABEL) if GPU_LABEL in names else None
        is_histogram = family.kind == "histogram"
        for point in family.points:
            place = (name, point.labels)
            identity = NOBODY if gpu is None else self._identity(point.labels[gpu])
            amount = point.count if is_histogram else point.value
            series = self._series.get(place)
            if series is None or series.identity is not identity:
                since_ns = start_ns if series is None else series.start_ns
                labels = dict(zip(names, point.labels, strict=True))
                series = Series(form, labels, identity, since_ns)
            elif amount < series.last:
                series.start_ns = self._before_ns
            series.last = amount
            self._seen[place] = series
            yield point, series

    def end(self, at_ns: int) -> None:
        """After the families of a batch: what was not in it has ended."""
        self._series, self._seen = self._seen, {}
        self._before_ns = at_ns

    def _identity(self, gpu_id: str) -> Attributes:
        return self._identities.get(gpu_id) or _anonymous(gpu_id)


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


@lru_cache(maxsize=4096)
def _anonymous(gpu_id: str) -> Attributes:
    return gpu_attributes(gpu_id)


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
