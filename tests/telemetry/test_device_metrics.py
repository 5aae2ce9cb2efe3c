"""What becomes of device facts: unknown is absent, a lost GPU keeps its health, junk is counted."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from muai_core.control.ledger import Claim
from muai_core.control.state import DeviceHealth, DeviceRecord, OpenFinding
from muai_core.model.device import Device, DeviceMeasurements, DeviceReading, Measurement
from muai_core.model.health import Finding, Health
from muai_core.model.metrics import MetricFamily
from muai_core.telemetry.device_catalogue import FROM_READINGS, MEASURED
from muai_core.telemetry.devices import MOST_SERIES, DeviceCollector, DeviceFacts, gpu_ids

GIB = 2**30
NOTHING = (None, math.nan, math.inf)


def gpu(index: int, node: str = "n0", uuid: str | None = None, **values: Any) -> Device:
    device = Device(
        uuid=uuid or f"GPU-{node}-{index}",
        node=node,
        index=index,
        kind="gpu",
        platform="cuda",
        name="H100-80GB",
        memory_total_bytes=80 * GIB,
    )
    return structs.replace(device, **values)


def record(device: Device, *, present: bool = True, **values: Any) -> DeviceRecord:
    reading = DeviceReading(
        uuid=device.uuid,
        memory_used_bytes=8 * GIB,
        utilization_percent=75.5,
        temperature_celsius=65.0,
    )
    told = structs.replace(reading, **values)
    sampled_at_s = 100.0 if told.sampled_at_s is None else told.sampled_at_s
    return DeviceRecord(
        device=device, source="nvml", reading=told, sampled_at_s=sampled_at_s, present=present
    )


def unwell(
    device: Device, health: Health, kind: str = "row_remap_failure", **values: Any
) -> DeviceRecord:
    """With a finding that its reading at 100 s shows."""
    finding = Finding(kind=kind, severity=health, reason="it is so")
    found = OpenFinding(finding=finding, first_at_s=1.0, last_at_s=100.0, present=True)
    fine = record(device, findings=() if health is Health.HEALTHY else (finding,), **values)
    return structs.replace(fine, condition=DeviceHealth(state=health, open=(found,)))


def happened(
    device: Device, kind: str, code: int, at_s: float, sampled_at_s: float
) -> DeviceRecord:
    """With an event between two samples."""
    finding = Finding(kind=kind, code=code, severity=Health.FAILED, reason="it happened")
    found = OpenFinding(finding=finding, first_at_s=at_s, last_at_s=at_s)
    condition = DeviceHealth(state=Health.FAILED, open=(found,))
    one = record(device, sampled_at_s=sampled_at_s, findings=(finding,))
    # An event is no finding of the reading.
    return structs.replace(
        one, condition=condition, reading=structs.replace(one.reading, findings=())
    )


def facts(records: Iterable[DeviceRecord], **values: Any) -> DeviceFacts:
    bare = DeviceFacts(
        records=tuple(records),
        measurements={},
        claims={},
        models={},
        now_s=100.0,
    )
    return structs.replace(bare, **values)


def measured(device: Device, *values: Measurement) -> dict[str, DeviceMeasurements]:
    return {device.uuid: DeviceMeasurements(device.uuid, values)}


Series = dict[str, dict[tuple[str, ...], float]]


def series(families: Iterable[MetricFamily]) -> Series:
    return {
        family.name: {point.labels: point.value for point in family.points} for family in families
    }


def collected(records: Iterable[DeviceRecord], **values: Any) -> Series:
    return series(DeviceCollector().collect(facts(records, **values)))


def test_the_metrics_of_a_gpu() -> None:
    device = gpu(
        0,
        uuid="GPU-1",
        pci_bus_id="00000000:17:00.0",
        driver_version="580.95",
        cuda_version="13.0",
        compute_capability="9.0",
        vendor="NVIDIA",
    )
    found = collected(
        [record(device)],
        claims={device.uuid: (Claim("chat.1", 2, GIB), Claim("gone.1", 1, GIB))},
        models={"chat.1": "chat"},
        unix_offset_s=1e9,
    )
    identity = ("GPU-1", "n0", "H100-80GB", "NVIDIA", "00000000:17:00.0", "580.95", "13.0", "9.0")
    states = {("0", health.value): float(health is Health.HEALTHY) for health in Health}
    assert found == {
        "gpu_info": {("0", *identity, ""): 1.0},
        "gpu_memory_total_bytes": {("0",): 80.0 * GIB},
        "gpu_memory_used_bytes": {("0",): 8.0 * GIB},
        "gpu_memory_available_bytes": {("0",): 72.0 * GIB},
        "gpu_utilization_percent": {("0",): 75.5},
        "gpu_utilization_ratio": {("0", "general"): 0.755},
        "gpu_temperature_celsius": {("0",): 65.0},
        "gpu_health_status": {("0",): 1.0},
        "gpu_health_state": states,
        "muai_gpu_last_success_timestamp_seconds": {("0",): 1e9 + 100.0},
        "muai_device_claimed_bytes": {("0",): 2.0 * GIB},
        "muai_allocation_bytes": {
            ("chat", "chat.1", "0"): 1.0 * GIB,
            ("", "gone.1", "0"): 1.0 * GIB,
        },
    }


@pytest.mark.parametrize(
    ("field", "nothing", "metrics"),
    [
        ("memory_used_bytes", None, {"gpu_memory_used_bytes", "gpu_memory_available_bytes"}),
        *(("utilization_percent", value, {"gpu_utilization_percent"}) for value in NOTHING),
        *(("temperature_celsius", value, {"gpu_temperature_celsius"}) for value in NOTHING),
    ],
)
def test_what_a_device_does_not_tell_has_no_series(
    field: str, nothing: float | None, metrics: set[str]
) -> None:
    found = collected([record(gpu(0), **{field: nothing}), record(gpu(1))])
    for name in metrics:
        assert set(found[name]) == {("1",)}
    assert set(found["gpu_health_status"]) == {("0",), ("1",)}


@pytest.mark.parametrize("health", list(Health))
def test_health_is_one_state_and_1_only_where_work_may_go(health: Health) -> None:
    found = collected([unwell(gpu(0), health)])
    fit = health in (Health.HEALTHY, Health.DEGRADED)
    assert found["gpu_health_status"] == {("0",): float(fit)}
    states = found["gpu_health_state"]
    assert {labels for labels, value in states.items() if value} == {("0", health.value)}
    assert len(states) == len(Health)


def test_available_is_what_the_device_says_or_what_is_left() -> None:
    device = gpu(0)
    told = record(device, memory_reserved_bytes=GIB, memory_free_bytes=70 * GIB)
    left = record(device, memory_reserved_bytes=GIB)
    full = record(device, memory_used_bytes=81 * GIB)
    found = [collected([one])["gpu_memory_available_bytes"]["0",] for one in (told, left, full)]
    assert found == [70.0 * GIB, 71.0 * GIB, 0.0]


KEPT_ON_LOSS = {
    "gpu_info",
    "gpu_health_status",
    "gpu_health_state",
    "muai_device_claimed_bytes",
    "muai_device_findings_open",
}


@pytest.mark.parametrize(
    "loss",
    [
        structs.replace(unwell(gpu(1), Health.FAILED, "vanished"), present=False),
        unwell(gpu(1), Health.FAILED, "gpu_lost"),
        unwell(gpu(1), Health.SUSPECT, "unresponsive", sampled_at_s=95.0),
    ],
    ids=["absent", "lost", "unresponsive"],
)
def test_a_lost_gpu_keeps_its_identity_and_health_only(loss: DeviceRecord) -> None:
    values = measured(gpu(1), Measurement("gpu_clock_hertz", 1e9, ("sm",)))
    found = collected([record(gpu(0)), loss], measurements=values)
    assert found["gpu_health_status"] == {("0",): 1.0, ("1",): 0.0}
    assert {name for name, points in found.items() if any("1" in p for p in points)} <= KEPT_ON_LOSS
    assert {("1", state.value) for state in Health} < set(found["gpu_health_state"])
    assert "gpu_clock_hertz" not in found


def test_a_gpu_that_falls_off_the_bus_loses_its_series_until_it_answers_again() -> None:
    def shown(one: DeviceRecord) -> bool:
        return "gpu_temperature_celsius" in collected([one])

    assert not shown(happened(gpu(0), "xid", 79, at_s=99.0, sampled_at_s=98.0))
    assert shown(happened(gpu(0), "xid", 79, at_s=99.0, sampled_at_s=99.5))
    assert shown(happened(gpu(0), "xid", 63, at_s=99.0, sampled_at_s=98.0))


def test_a_failed_gpu_that_answers_keeps_its_series() -> None:
    found = collected([unwell(gpu(0), Health.FAILED, "row_remap_failure")])
    assert {metric.name for metric in FROM_READINGS} & set(found)
    assert found["gpu_health_status"] == {("0",): 0.0}


def test_an_old_sample_is_not_shown_as_if_it_were_new() -> None:
    old, new = record(gpu(0), sampled_at_s=84.0), record(gpu(1), sampled_at_s=86.0)
    collector = DeviceCollector(stale_after_s=15.0)
    found = series(collector.collect(facts([old, new], unix_offset_s=1000.0)))
    assert found["gpu_temperature_celsius"] == {("1",): 65.0}
    assert found["muai_gpu_last_success_timestamp_seconds"] == {("0",): 1084.0, ("1",): 1086.0}
    assert set(found["gpu_health_status"]) == {("0",), ("1",)}
    later = series(collector.collect(facts([old, new], now_s=101.5)))
    assert "gpu_temperature_celsius" not in later


def test_a_source_that_is_silent_ends_the_series_of_its_gpus() -> None:
    collector = DeviceCollector(stale_after_s=15.0)
    one = record(gpu(0))
    assert "gpu_temperature_celsius" in series(collector.collect(facts([one], now_s=115.0)))
    assert "gpu_temperature_celsius" not in series(collector.collect(facts([one], now_s=115.1)))


def test_measurements_become_series() -> None:
    device = gpu(3)
    values = [Measurement(m.name, 2.0, tuple("some" for _ in m.labels[1:])) for m in MEASURED]
    found = collected([record(device)], measurements=measured(device, *values))
    for metric in MEASURED:
        assert found[metric.name]["3", *("some" for _ in metric.labels[1:])] == 2.0


JUNK = [
    Measurement("gpu_moon_phase", 1.0),
    Measurement("gpu_memory_used_bytes", 1.0),
    Measurement("gpu_clock_hertz", 1.0),
    Measurement("gpu_clock_hertz", 1.0, ("sm", "more")),
    Measurement("gpu_clock_hertz", math.nan, ("sm",)),
    Measurement("gpu_power_limit_watts", math.inf),
    Measurement("gpu_energy_joules", -1.0),
    Measurement("gpu_clock_hertz", 1.0, ("x" * 65,)),
    Measurement("gpu_clock_hertz", 1.0, ("",)),
    Measurement("gpu_clock_hertz", 1.0, ("new\nline",)),
    Measurement("gpu_clock_hertz", 1.0, ("\ud800",)),
]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_junk_is_counted_once_and_shown_never(junk: Measurement) -> None:
    device = gpu(0)
    good = Measurement("gpu_clock_limit_hertz", 5.0, ("sm",))
    collector = DeviceCollector()
    values = measured(device, junk, good)
    found = series(collector.collect(facts([record(device)], measurements=values)))
    assert found["gpu_clock_limit_hertz"] == {("0", "sm"): 5.0}
    assert found.keys() & {m.name for m in MEASURED} == {
        "gpu_clock_limit_hertz",
        "gpu_utilization_ratio",
    }
    # The same values again, under a new record, are not measured again.
    again = collector.collect(facts([record(device)], measurements=values))
    assert series(again)["muai_device_measurements_rejected"] == {("nvml",): 1.0}
    anew = collector.collect(facts([record(device)], measurements=measured(device, junk)))
    assert series(anew)["muai_device_measurements_rejected"] == {("nvml",): 2.0}


def test_a_source_cannot_make_series_without_end() -> None:
    device = gpu(0)
    values = [Measurement("gpu_nvlink_errors", 1.0, (f"kind-{n}",)) for n in range(1000)]
    found = collected([record(device)], measurements=measured(device, *values))
    assert len(found["gpu_nvlink_errors"]) == MOST_SERIES
    rejected = {("nvml",): 1000.0 - MOST_SERIES}
    assert found["muai_device_measurements_rejected"] == rejected


def test_what_the_reading_tells_counts_and_repeating_it_is_no_fault() -> None:
    device = gpu(0)
    values = measured(
        device,
        Measurement("gpu_utilization_ratio", 0.1, ("general",)),
        Measurement("gpu_power_watts", 299.0),
    )
    found = collected([record(device, power_watts=300.0)], measurements=values)
    assert found["gpu_utilization_ratio"] == {("0", "general"): 0.755}
    assert found["gpu_power_watts"] == {("0",): 300.0}
    assert "muai_device_measurements_rejected" not in found
    silent = collected([record(device, utilization_percent=None)], measurements=values)
    assert silent["gpu_utilization_ratio"] == {("0", "general"): 0.1}
    assert silent["gpu_power_watts"] == {("0",): 299.0}


def test_a_device_that_was_never_sampled_shows_no_values() -> None:
    one = structs.replace(record(gpu(0)), sampled_at_s=None)
    assert set(collected([one], unix_offset_s=1.0)) == {
        "gpu_info",
        "gpu_health_status",
        "gpu_health_state",
        "muai_device_claimed_bytes",
    }


def test_a_series_is_measured_once() -> None:
    device = gpu(0)
    twice = [Measurement("gpu_fan_speed_ratio", value) for value in (0.25, 0.5)]
    assert collected([record(device)], measurements=measured(device, *twice))[
        "gpu_fan_speed_ratio"
    ] == {("0",): 0.25}


def test_findings_and_xids_are_counted() -> None:
    counts = {"xid:79": 2, "xid:63": 1, "xid:99999": 4, "xid": 8, "unresponsive": 3}
    findings = [
        OpenFinding(
            finding=Finding(kind=kind, code=code, severity=Health.DEGRADED, reason="so"),
            first_at_s=1.0,
            last_at_s=1.0,
        )
        for kind, code in (("xid", 79), ("xid", 63), ("row_remap_pending", None))
    ]
    condition = DeviceHealth(state=Health.DEGRADED, open=tuple(findings), counts=counts)
    found = collected([structs.replace(record(gpu(0)), condition=condition)])
    assert found["gpu_xid_errors"] == {("0", "79"): 2.0, ("0", "63"): 1.0, ("0", "other"): 12.0}
    assert found["muai_device_findings"] == {("0", "xid"): 15.0, ("0", "unresponsive"): 3.0}
    assert found["muai_device_findings_open"] == {
        ("0", "xid"): 2.0,
        ("0", "row_remap_pending"): 1.0,
    }


def test_what_did_not_change_is_not_made_again() -> None:
    records = [record(gpu(index)) for index in range(3)]
    collector = DeviceCollector()
    first = collector.collect(facts(records, unix_offset_s=1e9))
    # Two clocks, read one after the other, never agree to the microsecond.
    again = collector.collect(facts(records, now_s=101.0, unix_offset_s=1e9 + 0.001))
    assert all(one is other for one, other in zip(first, again, strict=True))
    fresh = record(gpu(1), temperature_celsius=70.0)
    second = collector.collect(facts([records[0], fresh, records[2]], unix_offset_s=1e9))
    assert series(second)["gpu_temperature_celsius"] == {("0",): 65.0, ("1",): 70.0, ("2",): 65.0}
    assert series(collector.collect(facts(records[:1])))["gpu_health_status"] == {("0",): 1.0}
    assert series(collector.collect(facts([]))) == {}


def test_a_step_of_the_wall_clock_is_followed() -> None:
    collector = DeviceCollector()
    one = [record(gpu(0))]
    collector.collect(facts(one, unix_offset_s=1e9))
    found = series(collector.collect(facts(one, unix_offset_s=1e9 + 3600)))
    assert found["muai_gpu_last_success_timestamp_seconds"] == {("0",): 1e9 + 3700}


def test_gpu_ids_are_labels_and_stay_apart_across_nodes() -> None:
    one_box = [gpu(0, "a"), gpu(1, "a"), gpu(7, "b")]
    assert list(gpu_ids(one_box).values()) == ["0", "1", "7"]
    mig = [gpu(0, "a"), *(gpu(0, "a", f"MIG-{n}", mig_index=n) for n in range(2))]
    assert list(gpu_ids(mig).values()) == ["0", "0:0", "0:1"]
    two_boxes = [gpu(0, "a"), gpu(1, "a"), gpu(0, "b")]
    assert list(gpu_ids(two_boxes).values()) == ["a/0", "a/1", "b/0"]
    two_sources = [gpu(0, "a", "u1"), gpu(0, "a", "u2"), gpu(1, "a", "u3")]
    assert list(gpu_ids(two_sources).values()) == ["u1", "u2", "u3"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), max_size=12))
def test_no_two_gpus_share_a_series(places: list[tuple[str, int]]) -> None:
    fleet = [gpu(index, node, f"GPU-{number}") for number, (node, index) in enumerate(places)]
    ids = gpu_ids(fleet)
    assert len(set(ids.values())) == len(fleet)
