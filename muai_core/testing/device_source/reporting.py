"""Clauses on what a device source says of its devices."""

import re
from collections.abc import Iterator

from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import Happening
from muai_core.telemetry import device_catalogue
from muai_core.telemetry.devices import MOST_LABEL_CHARACTERS, MOST_SERIES
from muai_core.telemetry.metric import Metric
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.device_source.subject import DeviceSourceSubject
from muai_core.testing.part_thread import within

_WORD = re.compile(r"[a-z][a-z0-9_]*")
#: Silicon works from -55 to 125 °C (military grade), and a rack has some 100 kW at most.
_TEMPERATURES_CELSIUS = (-55.0, 125.0)
_MOST_WATTS = 100_000.0
#: Memory moves between two questions to a driver.
_SUM_TOLERANCE = 0.01
_MEASURED = {metric.name: metric for metric in device_catalogue.MEASURED}


@clause("D20", kind="device source", title="every device has a UUID of its own")
def _(subject: DeviceSourceSubject) -> None:
    uuids = [device.uuid for device in subject.devices()]
    for uuid in uuids:
        if not uuid or uuid != "".join(uuid.split()):
            raise ClauseFailure(f"the UUID {uuid!r} is not one word")
        if uuids.count(uuid) > 1:
            raise ClauseFailure(f"{uuids.count(uuid)} devices have the UUID {uuid}")


@clause("D21", kind="device source", title="every device says what it is, and where")
def _(subject: DeviceSourceSubject) -> None:
    inventory = subject.inventories()[0][1]
    ailing = {reading.uuid for reading in inventory.readings if reading.findings}
    for device in subject.devices():
        for field in ("node", "name"):
            if not _is_line(getattr(device, field)):
                raise ClauseFailure(f"{field} of {device.uuid} is {getattr(device, field)!r}")
        least = 0 if device.uuid in ailing or inventory.fault is not None else 1
        if device.memory_total_bytes < least:
            raise ClauseFailure(f"{device.uuid} has {device.memory_total_bytes} bytes of memory")
        if device.index < 0:
            raise ClauseFailure(f"{device.uuid} has the index {device.index}")
        if (device.mig_index is None) != (device.parent_uuid is None):
            raise ClauseFailure(
                f"{device.uuid} has mig_index {device.mig_index} and parent_uuid "
                f"{device.parent_uuid}; a MIG instance has both"
            )


@clause("D22", kind="device source", title="people can tell the devices of a node apart")
def _(subject: DeviceSourceSubject) -> None:
    seen: dict[tuple[str, str, str], Device] = {}
    for device in subject.devices():
        place = (device.node, device.kind, device.label)
        if (other := seen.setdefault(place, device)) is not device:
            raise ClauseFailure(
                f"{other.uuid} and {device.uuid} are both {device.kind} {device.label} of "
                f"{device.node}"
            )


@clause("D23", kind="device source", title="readings are about its devices, one for each at most")
def _(subject: DeviceSourceSubject) -> None:
    for _, inventory in subject.inventories():
        listed, seen = _listed(inventory), set()
        for reading in inventory.readings:
            if reading.uuid not in listed:
                raise ClauseFailure(f"there is a reading of {reading.uuid}, which is not listed")
            if reading.uuid in seen:
                raise ClauseFailure(f"there are two readings of {reading.uuid}")
            seen.add(reading.uuid)


@clause("D24", kind="device source", title="readings are possible")
def _(subject: DeviceSourceSubject) -> None:
    for device, reading in _readings(subject):
        for complaint in _impossible(device.memory_total_bytes, reading):
            raise ClauseFailure(f"{complaint} (of {device.uuid})")


def _impossible(total: int, reading: DeviceReading) -> Iterator[str]:
    used, reserved = reading.memory_used_bytes, reading.memory_reserved_bytes
    free, foreign = reading.memory_free_bytes, reading.memory_foreign_bytes
    for name in ("used", "reserved", "free", "foreign"):
        value = getattr(reading, f"memory_{name}_bytes")
        if value is not None and not 0 <= value <= total:
            yield f"memory_{name}_bytes is {value}, and the device has {total}"
    if used is not None and foreign is not None and foreign > used:
        yield f"memory_foreign_bytes is {foreign}, more than the {used} that are used"
    if used is not None and reserved is not None and free is not None:
        summed = used + reserved + free
        if abs(summed - total) > _SUM_TOLERANCE * total:
            yield f"used + reserved + free is {summed} bytes, and the device has {total}"
    for name, (least, most) in (
        ("utilization_percent", (0.0, 100.0)),
        ("temperature_celsius", _TEMPERATURES_CELSIUS),
        ("power_watts", (0.0, _MOST_WATTS)),
    ):
        value = getattr(reading, name)
        if value is not None and not least <= value <= most:
            yield f"{name} is {value}, not from {least:g} to {most:g}"
    for process in reading.processes:
        if process.pid <= 0:
            yield f"a process has the pid {process.pid}"
        if process.memory_bytes is not None and not 0 <= process.memory_bytes <= total:
            yield f"process {process.pid} holds {process.memory_bytes} bytes, of {total}"


@clause("D25", kind="device source", title="what a device does not tell is None, never zero")
def _(subject: DeviceSourceSubject) -> None:
    for device, reading in _readings(subject):
        for name in ("temperature_celsius", "power_watts"):
            if getattr(reading, name) == 0:
                raise ClauseFailure(
                    f"{name} of {device.uuid} is exactly 0; if it is not known, it must be None"
                )
        if (
            device.memory_total_bytes
            and reading.memory_used_bytes == reading.memory_free_bytes == 0
        ):
            raise ClauseFailure(
                f"{device.uuid} has memory that is neither used nor free; if that is not known, "
                "it must be None"
            )


@clause("D26", kind="device source", title="findings and faults say in words what is wrong")
def _(subject: DeviceSourceSubject) -> None:
    for _, inventory in subject.inventories():
        for reading in inventory.readings:
            for finding in reading.findings:
                _check_finding(finding, reading.uuid)
        fault = inventory.fault
        if fault is not None:
            _check_words(fault.kind, fault.reason, fault.advice, "the host's fault")


def _check_finding(finding: Finding, whose: str) -> None:
    where = f"the finding {finding.key} of {whose}"
    _check_words(finding.kind, finding.reason, finding.advice, where)
    if finding.recovery is not None and finding.severity is not Health.FAILED:
        raise ClauseFailure(f"{where} has a recovery and is {finding.severity}, not failed")
    if finding.repeat_limit < 0:
        raise ClauseFailure(f"{where} has the repeat_limit {finding.repeat_limit}")


def _check_words(kind: str, reason: str, advice: str, where: str) -> None:
    if _WORD.fullmatch(kind) is None:
        raise ClauseFailure(f"kind of {where} is {kind!r}, not a short word in lower case")
    if not _is_line(reason):
        raise ClauseFailure(f"reason of {where} is {reason!r}, not a line of words")
    if advice and not _is_line(advice):
        raise ClauseFailure(f"advice of {where} is {advice!r}, not a line of words")


@clause("D27", kind="device source", title="links are between its devices, each pair once")
def _(subject: DeviceSourceSubject) -> None:
    for _, inventory in subject.inventories():
        listed = _listed(inventory)
        seen: set[frozenset[str]] = set()
        for link in inventory.links:
            pair = frozenset((link.a, link.b))
            where = f"the link of {link.a} and {link.b}"
            if len(pair) < 2 or not pair <= listed:
                raise ClauseFailure(f"{where} is not between two devices that are listed")
            if pair in seen:
                raise ClauseFailure(f"{where} is listed twice")
            if link.nvlinks < 0 or (link.nvlinks > 0 and link.kind != "NVL"):
                raise ClauseFailure(f"{where} is {link.kind} and has {link.nvlinks} NVLinks")
            seen.add(pair)


@clause("D28", kind="device source", title="measurements are of the metrics in the catalogue")
def _(subject: DeviceSourceSubject) -> None:
    for _, inventory in subject.inventories():
        listed = _listed(inventory)
        for measured in inventory.measurements:
            if measured.uuid not in listed:
                raise ClauseFailure(f"{measured.uuid} is measured and not listed")
            seen: set[tuple[str, tuple[str, ...]]] = set()
            for one in measured.values:
                what = f"{one.metric}{list(one.labels)} of {measured.uuid}"
                metric = _MEASURED.get(one.metric)
                if metric is None:
                    raise ClauseFailure(f"no metric in the catalogue is called {one.metric}")
                _check_labels(metric, one.labels, what)
                if (one.metric, one.labels) in seen:
                    raise ClauseFailure(f"{what} is there twice")
                seen.add((one.metric, one.labels))
                if not abs(one.value) < float("inf"):
                    raise ClauseFailure(f"{what} is {one.value}; leave out what is not known")
            for name in _MEASURED:
                if sum(metric == name for metric, _ in seen) > MOST_SERIES:
                    raise ClauseFailure(f"{name} has more than {MOST_SERIES} series on a device")


def _check_labels(metric: Metric, labels: tuple[str, ...], what: str) -> None:
    names = metric.labels[1:]
    if len(labels) != len(names):
        raise ClauseFailure(f"{what} has {len(labels)} labels; it takes {', '.join(names) or '0'}")
    for label in labels:
        printable = label.isascii() and label.isprintable()
        if not (printable and 0 < len(label) <= MOST_LABEL_CHARACTERS):
            raise ClauseFailure(f"{what} has a label that cannot be shown: {label[:100]!r}")


@clause("D29", kind="device source", title="counters do not fall")
def _(subject: DeviceSourceSubject) -> None:
    before: dict[tuple[str, str, tuple[str, ...]], float] = {}
    for _, inventory in subject.inventories():
        for measured in inventory.measurements:
            for one in measured.values:
                metric = _MEASURED.get(one.metric)
                if metric is None or metric.kind != "counter":
                    continue
                key = (measured.uuid, one.metric, one.labels)
                least = before.setdefault(key, 0.0)
                if one.value < least:
                    raise ClauseFailure(
                        f"{one.metric} of {measured.uuid} fell from {least:g} to {one.value:g}"
                    )
                before[key] = one.value


@clause("D30", kind="device source", title="what it tells between two looks is about its devices")
def _(subject: DeviceSourceSubject) -> None:
    told = [what for _, what in subject.first().told]
    listed = _listed(subject.inventories()[-1][1])
    for happening in told:
        if not isinstance(happening, Happening):
            raise ClauseFailure(f"it tells {happening!r}, no Happening")
        if happening.uuid is not None and happening.uuid not in listed:
            raise ClauseFailure(f"it tells of {happening.uuid}, which is not listed")
        _check_finding(happening.finding, happening.uuid or "some device")


@clause("D31", kind="device source", title="it says at once, in one line, why it found nothing")
def _(subject: DeviceSourceSubject) -> None:
    subject.opened()
    limit_s = subject.limits.explain_s
    attempt = subject.part.call("explain_absence()", subject.source.explain_absence, limit_s)
    line: object = attempt.value
    if line is not None and not _is_line(line):
        raise ClauseFailure(f"explain_absence() returns {line!r}, not a line of words and not None")
    within(attempt, "explain_absence()", limit_s)


def _is_line(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.isprintable()


def _listed(inventory: Inventory) -> set[str]:
    return {device.uuid for device in inventory.devices}


def _readings(subject: DeviceSourceSubject) -> list[tuple[Device, DeviceReading]]:
    """All that were made of devices that are listed. Raises ClauseSkipped when there are none."""
    found = []
    for _, inventory in subject.inventories():
        devices = {device.uuid: device for device in inventory.devices}
        for reading in inventory.readings:
            if reading.uuid in devices:
                found.append((devices[reading.uuid], reading))
    if not found:
        raise ClauseSkipped("it read nothing here")
    return found
