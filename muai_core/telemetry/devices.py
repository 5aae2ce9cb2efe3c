"""Device metrics: from the control plane's records and what sources measured to families.

GPUs only. What is unknown makes no series, never a zero. A GPU that does not answer (lost, gone,
unresponsive, or its last sample too old) keeps what is known of it, its identity, health, errors
and claims; everything that a sample would have to tell ends.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from muai_core.control.health import HOST_FAULT, VANISHED
from muai_core.control.ledger import Claim
from muai_core.control.state import DeviceRecord, State
from muai_core.model.device import Device, DeviceMeasurements, DeviceReading, Measurement
from muai_core.model.health import Finding, Health
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry import device_catalogue as catalogue
from muai_core.telemetry.metric import Metric

#: Findings, by kind or key, that say that the device does not answer: samples from before are old.
#: XID 79: fell off the bus.
SILENT = frozenset({VANISHED, HOST_FAULT, "gpu_lost", "unresponsive", "xid:79"})
#: A source may make so many series of one metric on one device; more are rejected.
MOST_SERIES = 64
#: Longer label values of a measurement are rejected.
MOST_LABEL_CHARACTERS = 64
#: A step of the wall clock that is worth telling; smaller ones are jitter of reading two clocks.
_CLOCK_STEP_S = 0.05
#: XIDs are small numbers; whatever else a driver says shares one series.
_HIGHEST_XID = 999

_METRICS = catalogue.DEVICE_METRICS
_PLACE = {metric.name: place for place, metric in enumerate(_METRICS)}
_MEASURED = {metric.name: _PLACE[metric.name] for metric in catalogue.MEASURED}
_STATES = tuple(Health)

_COUNTERS = frozenset(_PLACE[metric.name] for metric in _METRICS if metric.kind == "counter")

#: The points of one device, each with the place of its metric in the catalogue.
Points = list[tuple[int, MetricPoint]]


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """All that device metrics are made of, at one moment. Immutable: build families anywhere."""

    #: In the order of their nodes and indices.
    records: tuple[DeviceRecord, ...]
    #: By UUID, the latest of each device.
    measurements: Mapping[str, DeviceMeasurements]
    #: By UUID.
    claims: Mapping[str, tuple[Claim, ...]]
    #: The model of each replica that holds a claim.
    models: Mapping[str, str]
    #: On the controller's clock.
    now_s: float
    #: Unix time at zero of the controller's clock; None: unknown.
    unix_offset_s: float | None = None


def device_facts(
    state: State,
    measurements: Mapping[str, DeviceMeasurements],
    now_s: float | None = None,
    unix_offset_s: float | None = None,
) -> DeviceFacts:
    """What the state tells of devices. Cheap: it copies references. `now_s` defaults to the time
    of the last step."""
    records = [record for record in state.devices.values() if record.device.kind == "gpu"]
    records.sort(key=lambda record: (record.device.node, record.device.index, record.device.label))
    claims = {uuid: tuple(held.values()) for uuid, held in state.ledger.claims.items()}
    return DeviceFacts(
        records=tuple(records),
        measurements=dict(measurements),
        claims=claims,
        models={
            claim.replica_id: state.replicas[claim.replica_id].deployment
            for held in claims.values()
            for claim in held
            if claim.replica_id in state.replicas
        },
        now_s=state.now_s if now_s is None else now_s,
        unix_offset_s=unix_offset_s,
    )


class DeviceCollector:
    """Makes families of facts, again and again; a device that did not change costs almost nothing.

    Not safe from several threads at once.
    """

    def __init__(self, stale_after_s: float | None = None) -> None:
        """`stale_after_s`: the age at which a sample is no longer shown. None: any age is."""
        self._stale_after_s = stale_after_s
        self._offset_s: float | None = None
        #: What each device's points were made of, and the points, by UUID.
        self._known: dict[str, tuple[_Basis, Points]] = {}
        self._families: tuple[MetricFamily, ...] = ()
        #: By source. A value counts once for each time that it was measured.
        self._rejected: dict[str, int] = {}

    def collect(self, facts: DeviceFacts) -> tuple[MetricFamily, ...]:
        """The families of the devices in `facts`, without those that have no series."""
        self._follow_clock(facts.unix_offset_s)
        ids = gpu_ids([record.device for record in facts.records])
        known: dict[str, tuple[_Basis, Points]] = {}
        changed = len(facts.records) != len(self._known)
        for record in facts.records:
            uuid = record.device.uuid
            basis = self._basis(record, facts, ids[uuid])
            before = self._known.get(uuid)
            if before is not None and before[0].same_as(basis):
                known[uuid] = before
                continue
            changed = True
            known[uuid] = (basis, self._points(basis, before))
        self._known = known
        if changed:
            self._families = _joined(points for _, points in known.values())
        return (*self._families, *self._rejections())

    def _rejections(self) -> Iterator[MetricFamily]:
        if self._rejected:
            points = [MetricPoint((name,), float(n)) for name, n in self._rejected.items()]
            yield catalogue.MEASUREMENTS_REJECTED.family(tuple(points))

    def _follow_clock(self, offset_s: float | None) -> None:
        before = self._offset_s
        if offset_s is None or before is None or abs(offset_s - before) > _CLOCK_STEP_S:
            self._offset_s = offset_s

    def _basis(self, record: DeviceRecord, facts: DeviceFacts, gpu_id: str) -> "_Basis":
        uuid = record.device.uuid
        held = facts.claims.get(uuid, ())
        return _Basis(
            gpu_id=gpu_id,
            record=record,
            measurements=facts.measurements.get(uuid),
            claims=tuple((facts.models.get(one.replica_id, ""), one) for one in held),
            answers=self._answers(record, facts.now_s),
            sampled_at_unix_s=_sum(self._offset_s, record.sampled_at_s),
        )

    def _answers(self, record: DeviceRecord, now_s: float) -> bool:
        at_s = record.sampled_at_s
        if at_s is None or not record.present:
            return False
        if any(one.last_at_s >= at_s and _is_silence(one.finding) for one in record.condition.open):
            return False
        return self._stale_after_s is None or now_s - at_s <= self._stale_after_s

    def _points(self, basis: "_Basis", before: "tuple[_Basis, Points] | None") -> Points:
        points: Points = []
        _add_record(points, basis)
        if not basis.answers:
            return points
        _add_reading(points, basis.gpu_id, basis.record.device, basis.record.reading)
        measured = basis.measurements
        if measured is not None:
            rejected = _add_measured(points, basis.gpu_id, basis.record.reading, measured.values)
            if rejected and (before is None or before[0].measurements is not measured):
                source = basis.record.source
                self._rejected[source] = self._rejected.get(source, 0) + rejected
        return points


def _is_silence(finding: Finding) -> bool:
    return finding.kind in SILENT or finding.key in SILENT


class _Basis(Struct, frozen=True, kw_only=True):
    """All that decides about the points of one device."""

    gpu_id: str
    record: DeviceRecord
    measurements: DeviceMeasurements | None
    #: Each with its model.
    claims: tuple[tuple[str, Claim], ...]
    answers: bool
    sampled_at_unix_s: float | None

    def same_as(self, other: "_Basis") -> bool:
        """Records and measurements are immutable: the same object says the same."""
        return (
            self.record is other.record
            and self.measurements is other.measurements
            and self.answers is other.answers
            and self.sampled_at_unix_s == other.sampled_at_unix_s
            and self.gpu_id == other.gpu_id
            and self.claims == other.claims
        )


def gpu_ids(gpus: Sequence[Device]) -> dict[str, str]:
    """The label `gpu_id` by UUID: `Device.label`, as in `gpu_id="0"` or, for MIG, `gpu_id="0:1"`.

    Where nodes share a label, every GPU of the fleet is `node/label` instead, and its UUID if even
    that is taken: two devices must never share a series, or Prometheus refuses the whole scrape.
    """
    ids = {gpu.uuid: gpu.label for gpu in gpus}
    if len(set(ids.values())) == len(ids):
        return ids
    ids = {gpu.uuid: f"{gpu.node}/{gpu.label}" for gpu in gpus}
    if len(set(ids.values())) == len(ids):
        return ids
    return {gpu.uuid: gpu.uuid for gpu in gpus}


def _add_record(points: Points, basis: _Basis) -> None:
    gpu_id, record = basis.gpu_id, basis.record
    device, health = record.device, record.health
    info = (
        device.uuid,
        device.node,
        device.name,
        device.vendor or "",
        device.pci_bus_id or "",
        device.driver_version or "",
        device.cuda_version or "",
        device.compute_capability or "",
        device.parent_uuid or "",
    )
    _add(points, catalogue.INFO, (gpu_id, *info), 1.0)
    _add(points, catalogue.HEALTH, (gpu_id,), health.placeable)
    for state in _STATES:
        _add(points, catalogue.HEALTH_STATE, (gpu_id, state.value), state is health)
    _add(points, catalogue.LAST_SUCCESS, (gpu_id,), basis.sampled_at_unix_s)
    _add_findings(points, gpu_id, record)
    _add(points, catalogue.CLAIMED, (gpu_id,), sum(one.memory_bytes for _, one in basis.claims))
    for model, claim in basis.claims:
        _add(points, catalogue.ALLOCATION, (model, claim.replica_id, gpu_id), claim.memory_bytes)


def _add_findings(points: Points, gpu_id: str, record: DeviceRecord) -> None:
    found: dict[str, int] = {}
    xids: dict[str, int] = {}
    for key, count in record.condition.counts.items():
        kind, _, code = key.partition(":")
        found[kind] = found.get(kind, 0) + count
        if kind == "xid":
            known = code.isdecimal() and len(code) <= 9 and int(code) <= _HIGHEST_XID
            xid = code if known else "other"
            xids[xid] = xids.get(xid, 0) + count
    still: dict[str, int] = {}
    for one in record.condition.open:
        still[one.finding.kind] = still.get(one.finding.kind, 0) + 1
    for metric, counts in (
        (catalogue.FINDINGS, found),
        (catalogue.XID_ERRORS, xids),
        (catalogue.FINDINGS_OPEN, still),
    ):
        for label, count in counts.items():
            _add(points, metric, (gpu_id, label), count)


def _add_reading(points: Points, gpu_id: str, device: Device, reading: DeviceReading) -> None:
    labels = (gpu_id,)
    percent = reading.utilization_percent
    for metric, value in (
        (catalogue.MEMORY_TOTAL, device.memory_total_bytes),
        (catalogue.MEMORY_USED, reading.memory_used_bytes),
        (catalogue.MEMORY_AVAILABLE, available_bytes(device, reading)),
        (catalogue.MEMORY_RESERVED, reading.memory_reserved_bytes),
        (catalogue.MEMORY_FOREIGN, reading.memory_foreign_bytes),
        (catalogue.UTILIZATION, percent),
        (catalogue.TEMPERATURE, reading.temperature_celsius),
        (catalogue.POWER, reading.power_watts),
    ):
        _add(points, metric, labels, value)
    ratio = None if percent is None else percent / 100
    _add(points, catalogue.UTILIZATION_RATIO, (gpu_id, "general"), ratio)


def available_bytes(device: Device, reading: DeviceReading) -> int | None:
    """What the device says is free; else the total less what is used and reserved; else None."""
    if reading.memory_free_bytes is not None:
        return reading.memory_free_bytes
    if reading.memory_used_bytes is None:
        return None
    taken = reading.memory_used_bytes + (reading.memory_reserved_bytes or 0)
    return max(0, device.memory_total_bytes - taken)


def _add(points: Points, metric: Metric, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None and math.isfinite(value):
        points.append((_PLACE[metric.name], MetricPoint(labels, float(value))))


def _add_measured(
    points: Points, gpu_id: str, reading: DeviceReading, values: Iterable[Measurement]
) -> int:
    """Add what is fit to be shown; returns how many were not."""
    rejected = 0
    made = [0] * len(_METRICS)
    seen: set[tuple[str, tuple[str, ...]]] = set()
    # A source may repeat what its reading tells; then the reading counts.
    told: set[tuple[str, tuple[str, ...]]] = set()
    if reading.power_watts is not None:
        told.add((catalogue.POWER.name, ()))
    if reading.utilization_percent is not None:
        told.add((catalogue.UTILIZATION_RATIO.name, ("general",)))
    for one in values:
        key, value = (one.metric, one.labels), one.value
        if key in told:
            continue
        place = None if key in seen or not math.isfinite(value) else _place_of(*key)
        if place is None or made[place] >= MOST_SERIES or (value < 0 and place in _COUNTERS):
            rejected += 1
            continue
        seen.add(key)
        made[place] += 1
        points.append((place, MetricPoint((gpu_id, *one.labels), float(value))))
    return rejected


@lru_cache(maxsize=4096)
def _place_of(name: str, labels: tuple[str, ...]) -> int | None:
    """Where in the catalogue a measurement belongs; None: nowhere."""
    place = _MEASURED.get(name)
    if place is None or len(labels) != len(_METRICS[place].labels) - 1:
        return None
    return place if all(_is_label(label) for label in labels) else None


def _is_label(text: str) -> bool:
    return 0 < len(text) <= MOST_LABEL_CHARACTERS and text.isascii() and text.isprintable()


def _joined(devices: Iterable[Points]) -> tuple[MetricFamily, ...]:
    by_metric: list[list[MetricPoint]] = [[] for _ in _METRICS]
    for points in devices:
        for place, point in points:
            by_metric[place].append(point)
    return tuple(
        metric.family(tuple(points))
        for metric, points in zip(_METRICS, by_metric, strict=True)
        if points
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
