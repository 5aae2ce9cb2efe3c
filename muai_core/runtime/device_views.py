"""What is known of the devices: pure views from the control plane's state to plain data.

This is the stable JSON of `muai devices`, documented in docs/cli.md: keys are added, never renamed.
What is unknown is None. Moments are given as seconds from now.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from muai_core.control.state import DeviceRecord, OpenFinding, SelfTestRecord, State
from muai_core.model.device import Device, DeviceMeasurements, DeviceReading, HostFault
from muai_core.model.placement import Refusal
from muai_core.telemetry.device_catalogue import POWER_LIMIT, TEMPERATURE_LIMIT

View = dict[str, Any]

#: What happens at a temperature, the mildest first: the first that a device tells is its limit.
_TEMPERATURE_LIMITS = ("gpu_max", "slowdown", "shutdown")


def devices_report(
    state: State,
    now_s: float,
    measurements: Mapping[str, DeviceMeasurements],
    absences: Sequence[str],
) -> View:
    """All that `muai devices` shows.

    `measurements` goes by device UUID; `absences` are the lines of sources that found nothing.
    """
    return {
        "devices": devices_view(state, now_s, measurements),
        "links": links_view(state),
        "device_sources": sources_view(state, now_s),
        "absences": list(absences),
    }


def devices_view(
    state: State, now_s: float, measurements: Mapping[str, DeviceMeasurements] | None = None
) -> list[View]:
    """All devices, sorted by node, kind (GPUs first) and index."""
    records = sorted(state.devices.values(), key=_device_order)
    measured = measurements or {}
    return [
        device_view(record, state, now_s, measured.get(record.device.uuid)) for record in records
    ]


def device_view(
    record: DeviceRecord,
    state: State,
    now_s: float,
    measured: DeviceMeasurements | None = None,
) -> View:
    """One device; `memory_free_bytes` is what nobody uses, claimed or not."""
    device, reading = record.device, record.reading
    return {
        **identity(device),
        **_facts(device),
        "source": record.source,
        "present": record.present,
        **_health(record, now_s),
        **_memory(device, reading),
        "memory_claimed_bytes": state.ledger.claimed_bytes(device.uuid),
        "utilization_percent": reading.utilization_percent,
        "temperature_celsius": reading.temperature_celsius,
        "temperature_limit_celsius": _temperature_limit(measured),
        "power_watts": reading.power_watts,
        "power_limit_watts": _measured_values(measured, POWER_LIMIT.name).get(()),
        "replicas": [claim.replica_id for claim in state.ledger.on(device.uuid)],
        "processes": to_builtins(list(reading.processes)),
        "sampled_ago_s": ago_s(record.sampled_at_s, now_s),
        "measurements": None if measured is None else to_builtins(list(measured.values)),
    }


def identity(device: Device) -> View:
    """What names a device, for scripts and for people."""
    return {
        "uuid": device.uuid,
        "index": device.index,
        "label": device.label,
        "node": device.node,
        "kind": device.kind,
        "platform": device.platform,
        "name": device.name,
    }


def health_view(state: State) -> list[View]:
    """Who the devices are and how they are: what the gateway's `/health` tells."""
    return [
        {
            **identity(record.device),
            "health": record.health.value,
            "health_reason": record.health_reason,
            "advice": record.condition.advice or None,
            "recovery": record.condition.recovery,
        }
        for record in sorted(state.devices.values(), key=_device_order)
    ]


def sources_view(state: State, now_s: float) -> list[View]:
    """The device sources: when each was last heard of, and what it complained about since."""
    return [
        {
            "name": name,
            "observed_ago_s": ago_s(source.observed_at_s, now_s),
            "failure": source.failure,
            "fault": None if source.fault is None else _fault(source.fault),
        }
        for name, source in state.sources.items()
    ]


def links_view(state: State) -> list[View]:
    """What lies between the devices, each pair once, in the order of their sources."""
    return [
        {"source": name, **to_builtins(link)}
        for name, source in state.sources.items()
        for link in source.links
    ]


def refusal_words(state: State, refusal: Refusal) -> str:
    """Why a device was refused; when it is for its health, also what to do about it now."""
    record = None if refusal.device is None else state.devices.get(refusal.device)
    if record is None or refusal.filter != "health" or not record.condition.advice:
        return refusal.message
    return f"{refusal.message}; {record.condition.advice}"


def ago_s(moment_s: float | None, now_s: float) -> float | None:
    """How long ago it was; a moment that is yet to come is now."""
    return None if moment_s is None else round(max(0.0, now_s - moment_s), 3)


def _facts(device: Device) -> View:
    return {
        "cuda_index": device.cuda_index,
        "mig_index": device.mig_index,
        "parent_uuid": device.parent_uuid,
        "serial_number": device.serial_number,
        "vendor": device.vendor,
        "architecture": device.architecture,
        "pci_bus_id": device.pci_bus_id,
        "compute_capability": device.compute_capability,
        "driver_version": device.driver_version,
        "cuda_version": device.cuda_version,
        "numa_node": device.numa_node,
        "cpu_affinity": device.cpu_affinity,
        "core_count": device.core_count,
        "island": device.island,
    }


def _health(record: DeviceRecord, now_s: float) -> View:
    condition = record.condition
    return {
        "health": record.health.value,
        "health_reason": record.health_reason,
        "health_for_s": ago_s(condition.since_s, now_s),
        "advice": condition.advice or None,
        "recovery": condition.recovery,
        "findings": [_finding(one, now_s) for one in condition.open],
        "self_test": None if condition.self_test is None else _test(condition.self_test, now_s),
    }


def _finding(one: OpenFinding, now_s: float) -> View:
    finding = one.finding
    return {
        "kind": finding.kind,
        "code": finding.code,
        "severity": finding.severity.value,
        "recovery": finding.recovery,
        "reason": finding.reason,
        "advice": finding.advice or None,
        "clears": finding.clears,
        "count": one.count,
        "present": one.present,
        "first_ago_s": ago_s(one.first_at_s, now_s),
        "last_ago_s": ago_s(one.last_at_s, now_s),
    }


def _test(test: SelfTestRecord, now_s: float) -> View:
    return {
        "verdict": test.verdict,
        "asked_ago_s": ago_s(test.asked_at_s, now_s),
        "ended_ago_s": ago_s(test.ended_at_s, now_s),
        "detail": test.detail or None,
    }


def _memory(device: Device, reading: DeviceReading) -> View:
    used, foreign = reading.memory_used_bytes, reading.memory_foreign_bytes
    reserved, free = reading.memory_reserved_bytes, reading.memory_free_bytes
    if free is None and used is not None:
        free = max(0, device.memory_total_bytes - used - (reserved or 0))
    return {
        # A device that could never be asked has told nothing.
        "memory_total_bytes": device.memory_total_bytes or None,
        "memory_used_bytes": used,
        "memory_reserved_bytes": reserved,
        "memory_free_bytes": free,
        "memory_foreign_bytes": foreign,
        "memory_own_bytes": None if used is None or foreign is None else max(0, used - foreign),
    }


def _measured_values(
    measured: DeviceMeasurements | None, metric: str
) -> dict[tuple[str, ...], float]:
    values = () if measured is None else measured.values
    return {one.labels: one.value for one in values if one.metric == metric}


def _temperature_limit(measured: DeviceMeasurements | None) -> float | None:
    limits = _measured_values(measured, TEMPERATURE_LIMIT.name)
    return next((limits[(name,)] for name in _TEMPERATURE_LIMITS if (name,) in limits), None)


def _fault(fault: HostFault) -> View:
    return {"kind": fault.kind, "reason": fault.reason, "advice": fault.advice or None}


def _device_order(record: DeviceRecord) -> tuple[str, bool, int, int, str]:
    device = record.device
    return device.node, device.kind == "cpu", device.index, device.mig_index or 0, device.uuid
