"""The wide set of values: for dashboards, and the facts from which conditions are concluded.

Names are those of the metrics catalogue. Two tiers: `read_fast` at every visit, `read_slow` every
so often. PCIe throughput is not among them, since the driver takes 20 ms to measure it; where it
counts the bytes (fields 197 and 198), they are.
"""

from collections.abc import Iterator
from ctypes import byref
from typing import Any

from msgspec import Struct

from muai_core.model.device import Measurement
from muai_nvml.describe import Gpu
from muai_nvml.nvml import Visit
from muai_nvml.wire import Facts

#: nvml.h, nvmlClockType_t.
_CLOCKS = {0: "graphics", 1: "sm", 2: "memory", 3: "video"}
#: nvml.h, nvmlClocksEventReason*.
THROTTLE_REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}
#: nvml.h, nvmlPerfPolicyType_t; the time in such a state is counted in ns.
_VIOLATIONS = {
    0: "power",
    1: "thermal",
    2: "sync_boost",
    3: "board_limit",
    4: "low_utilization",
    5: "reliability",
}
#: nvml.h, nvmlTemperatureThresholds_t.
_TEMPERATURE_LIMITS = {0: "shutdown", 1: "slowdown", 2: "memory_max", 3: "gpu_max"}
_ERROR_TYPES = {0: "corrected", 1: "uncorrected"}
_VOLATILE, _AGGREGATE = 0, 1
#: nvml.h, nvmlMemoryLocation_t.
_ECC_LOCATIONS = {2: "dram", 7: "sram"}

# nvml.h, NVML_FI_DEV_*.
_FIELD_MEMORY_TEMPERATURE = 82
_FIELD_ENERGY_MJ = 83
_FIELD_RECOVERY_ACTION = 230
_FAST_FIELDS = [_FIELD_MEMORY_TEMPERATURE, _FIELD_ENERGY_MJ, _FIELD_RECOVERY_ACTION]
_FIELD_RETIRED_SINGLE, _FIELD_RETIRED_DOUBLE, _FIELD_RETIRED_PENDING = 29, 30, 31
_FIELD_PCIE_SENT_BYTES, _FIELD_PCIE_RECEIVED_BYTES = 197, 198
_NVLINK_ERROR_FIELDS = {
    38: "crc_flit",
    45: "crc_data",
    52: "replay",
    59: "recovery",
    160: "ecc_data",
    214: "recovery_failed",
}
_SLOW_FIELDS = [
    _FIELD_RETIRED_SINGLE,
    _FIELD_RETIRED_DOUBLE,
    _FIELD_RETIRED_PENDING,
    _FIELD_PCIE_SENT_BYTES,
    _FIELD_PCIE_RECEIVED_BYTES,
    *_NVLINK_ERROR_FIELDS,
]
#: nvml.h, nvmlNvLinkErrorCounter_t, for drivers that do not have the totals above.
_NVLINK_COUNTERS = {0: "replay", 1: "recovery", 2: "crc_flit", 3: "crc_data", 4: "ecc_data"}

#: A sum of counts of 64 bits must fit into 64 bits.
_MOST_COUNTED = 2**63 - 1


class SlowValues(Struct, frozen=True, kw_only=True):
    """What is repeated between two looks at it."""

    read_at_s: float
    measurements: tuple[Measurement, ...]
    facts: dict[str, Any]


def read_fast(visit: Visit, gpu: Gpu) -> tuple[list[Measurement], dict[str, Any]]:
    """Values that change all the time, and those parts of `Facts` that are wanted at once.

    Raises NvmlFailure when the GPU is broken.
    """
    handle = gpu.handle
    found: list[Measurement] = []
    if not gpu.in_mig_mode:
        found += _utilizations(visit, handle)
    for clock, name in _CLOCKS.items():
        _note(
            found, "gpu_clock_hertz", visit.get("nvmlDeviceGetClockInfo", handle, clock), 1e6, name
        )
    throttle_bits = visit.first(
        ("nvmlDeviceGetCurrentClocksEventReasons", handle),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
    )
    if throttle_bits is not None:
        for bit, reason in THROTTLE_REASONS.items():
            _note(found, "gpu_clock_throttle_active", bool(throttle_bits & bit), 1, reason)
    power_mw = visit.get("nvmlDeviceGetPowerUsage", handle)
    _note(found, "gpu_power_watts", power_mw, 1e-3)
    _note(found, "gpu_fan_speed_ratio", visit.get("nvmlDeviceGetFanSpeed", handle), 0.01)
    fields = visit.fields(handle, _FAST_FIELDS)
    # 0 means that the memory has no sensor.
    memory_celsius = fields.get(_FIELD_MEMORY_TEMPERATURE) or None
    _note(found, "gpu_temperature_sensor_celsius", memory_celsius, 1, "memory")
    energy_mj = fields.get(_FIELD_ENERGY_MJ)
    if energy_mj is None:
        energy_mj = visit.get("nvmlDeviceGetTotalEnergyConsumption", handle)
    _note(found, "gpu_energy_joules", energy_mj, 1e-3)
    recovery_action = fields.get(_FIELD_RECOVERY_ACTION)
    _note(found, "gpu_recovery_action", recovery_action)
    return found, {
        "recovery_action": int(recovery_action) if recovery_action is not None else None,
        "throttle_bits": int(throttle_bits) if throttle_bits is not None else None,
    }


def read_slow(visit: Visit, gpu: Gpu) -> SlowValues:
    """Values that change rarely or cost much. Raises NvmlFailure when the GPU is broken."""
    found: list[Measurement] = []
    fields = visit.fields(gpu.handle, _SLOW_FIELDS)
    facts = _memory_repairs(visit, gpu.handle, fields, found)
    facts["ecc_uncorrected"] = _ecc(visit, gpu.handle, found)
    facts["sram_threshold_exceeded"] = _sram_threshold_exceeded(visit, gpu.handle)
    facts |= _nvlinks(visit, gpu, fields, found)
    found += _limits(visit, gpu.handle)
    found += _pcie(visit, gpu.handle, fields)
    for policy, reason in _VIOLATIONS.items():
        violation = visit.get("nvmlDeviceGetViolationStatus", gpu.handle, policy)
        if violation is not None:
            _note(found, "gpu_clock_throttle_seconds", violation.violationTime, 1e-9, reason)
    return SlowValues(read_at_s=visit.began_at_s, measurements=tuple(found), facts=facts)


def facts_of(fast: dict[str, Any], slow: SlowValues) -> Facts:
    """Both tiers together."""
    return Facts(**fast, **slow.facts)


def _note(
    found: list[Measurement], metric: str, value: Any, factor: float = 1.0, *labels: str
) -> None:
    """Adds the value, unless it is absent."""
    if value is not None:
        found.append(Measurement(metric, float(value) * factor, labels))


def _utilizations(visit: Visit, handle: Any) -> list[Measurement]:
    found: list[Measurement] = []
    rates = visit.get("nvmlDeviceGetUtilizationRates", handle)
    if rates is not None:
        _note(found, "gpu_utilization_ratio", rates.gpu, 0.01, "general")
        _note(found, "gpu_utilization_ratio", rates.memory, 0.01, "memory")
    for name, task in (("Encoder", "encoder"), ("Decoder", "decoder")):
        # A pair: percent, and the sampling period.
        answer = visit.get(f"nvmlDeviceGet{name}Utilization", handle)
        _note(found, "gpu_utilization_ratio", answer and answer[0], 0.01, task)
    return found


def _limits(visit: Visit, handle: Any) -> list[Measurement]:
    found: list[Measurement] = []
    limit_mw = visit.get("nvmlDeviceGetEnforcedPowerLimit", handle)
    _note(found, "gpu_power_limit_watts", limit_mw, 1e-3)
    for number, limit in _TEMPERATURE_LIMITS.items():
        celsius = visit.get("nvmlDeviceGetTemperatureThreshold", handle, number)
        _note(found, "gpu_temperature_limit_celsius", celsius, 1, limit)
    for clock, name in _CLOCKS.items():
        most_mhz = visit.get("nvmlDeviceGetMaxClockInfo", handle, clock)
        _note(found, "gpu_clock_limit_hertz", most_mhz, 1e6, name)
    return found


def _pcie(visit: Visit, handle: Any, fields: dict[int, float]) -> list[Measurement]:
    found: list[Measurement] = []
    for name, metric in (
        ("nvmlDeviceGetPcieReplayCounter", "gpu_pcie_replays"),
        ("nvmlDeviceGetCurrPcieLinkGeneration", "gpu_pcie_link_generation"),
        ("nvmlDeviceGetCurrPcieLinkWidth", "gpu_pcie_link_width"),
    ):
        _note(found, metric, visit.get(name, handle))
    _note(found, "gpu_pcie_io_bytes", fields.get(_FIELD_PCIE_SENT_BYTES), 1, "transmit")
    _note(found, "gpu_pcie_io_bytes", fields.get(_FIELD_PCIE_RECEIVED_BYTES), 1, "receive")
    return found


def _memory_repairs(
    visit: Visit, handle: Any, fields: dict[int, float], found: list[Measurement]
) -> dict[str, Any]:
    """Remapped rows, of Ampere and later; retired pages, of those before."""
    facts: dict[str, Any] = {}
    rows = visit.get("nvmlDeviceGetRemappedRows", handle)
    if rows is not None:
        correctable, uncorrectable, pending, failure = rows
        _note(found, "gpu_remapped_rows", correctable, 1, "correctable")
        _note(found, "gpu_remapped_rows", uncorrectable, 1, "uncorrectable")
        _note(found, "gpu_row_remap_pending", bool(pending))
        _note(found, "gpu_row_remap_failure", bool(failure))
        facts |= {
            "rows_remapped_correctable": correctable,
            "rows_remapped_uncorrectable": uncorrectable,
            "row_remap_pending": bool(pending),
            "row_remap_failure": bool(failure),
        }
    single = fields.get(_FIELD_RETIRED_SINGLE)
    double = fields.get(_FIELD_RETIRED_DOUBLE)
    _note(found, "gpu_retired_pages", single, 1, "multiple_single_bit_errors")
    _note(found, "gpu_retired_pages", double, 1, "double_bit_error")
    if single is not None and double is not None:
        facts["pages_retired"] = min(int(single + double), _MOST_COUNTED)
    if (pending_pages := fields.get(_FIELD_RETIRED_PENDING)) is not None:
        facts["pages_pending"] = bool(pending_pages)
    return facts


def _ecc(visit: Visit, handle: Any, found: list[Measurement]) -> int | None:
    """Notes the lifetime counts; returns the uncorrected errors since the driver was loaded."""
    uncorrected: int | None = None
    for kind, error_type in _ERROR_TYPES.items():
        for location, name in _ECC_LOCATIONS.items():
            arguments = (handle, kind, _AGGREGATE, location)
            count = visit.get("nvmlDeviceGetMemoryErrorCounter", *arguments)
            _note(found, "gpu_ecc_errors", count, 1, error_type, name)
    for location in _ECC_LOCATIONS:
        count = visit.get("nvmlDeviceGetMemoryErrorCounter", handle, 1, _VOLATILE, location)
        if count is not None:
            uncorrected = (uncorrected or 0) + int(count)
    total = visit.get("nvmlDeviceGetTotalEccErrors", handle, 1, _VOLATILE)
    if total is not None:
        uncorrected = max(uncorrected or 0, int(total))
    return None if uncorrected is None else min(uncorrected, _MOST_COUNTED)


def _sram_threshold_exceeded(visit: Visit, handle: Any) -> bool | None:
    build = getattr(visit.nvml.module, "c_nvmlEccSramErrorStatus_v1_t", None)
    if build is None:
        return None
    status = build()
    if visit.get("nvmlDeviceGetSramEccErrorStatus", handle, byref(status)) is None:
        return None
    return bool(status.bThresholdExceeded)


def _nvlinks(
    visit: Visit, gpu: Gpu, fields: dict[int, float], found: list[Measurement]
) -> dict[str, Any]:
    if not gpu.nvlinks:
        return {}
    active = 0
    for link in gpu.nvlinks:
        active += bool(visit.get("nvmlDeviceGetNvLinkState", gpu.handle, link.number))
    _note(found, "gpu_nvlink_links_active", active)
    totals = {
        kind: fields[number] for number, kind in _NVLINK_ERROR_FIELDS.items() if number in fields
    }
    for kind, count in totals.items() if totals else _count_link_errors(visit, gpu):
        _note(found, "gpu_nvlink_errors", count, 1, kind)
    at_switch = any(link.at_switch for link in gpu.nvlinks)
    return {"nvlinks": len(gpu.nvlinks) if at_switch else None, "nvlinks_active": active}


def _count_link_errors(visit: Visit, gpu: Gpu) -> Iterator[tuple[str, int]]:
    for counter, kind in _NVLINK_COUNTERS.items():
        counts = [
            visit.get("nvmlDeviceGetNvLinkErrorCounter", gpu.handle, link.number, counter)
            for link in gpu.nvlinks
        ]
        known = [int(count) for count in counts if count is not None]
        if known:
            yield kind, sum(known)
