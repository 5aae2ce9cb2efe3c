"""Whatever a fleet looks like: every GPU's metrics are exposed, reach Prometheus unchanged, and end
with the GPU, all but its health."""

import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from muai_core.control.state import DeviceHealth, DeviceRecord, OpenFinding
from muai_core.model.device import Device, DeviceMeasurements, DeviceReading, Measurement
from muai_core.model.health import Finding, Health
from muai_core.model.metrics import MetricFamily
from muai_core.telemetry.device_catalogue import FROM_READINGS, MEASURED, POWER
from muai_core.telemetry.devices import DeviceCollector, DeviceFacts

pytest.importorskip("muai_prometheus", reason="needs the distribution muai-prometheus")

from muai_prometheus import PrometheusSink
from prometheus_client.parser import text_string_to_metric_families

MEMORY_TOTAL_BYTES = 80 * 2**30
EXAMPLES = settings(max_examples=150, deadline=None)

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e15)
label = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)


class Gpu(Struct, frozen=True):
    """One GPU as a story has it."""

    record: DeviceRecord
    measurements: DeviceMeasurements


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    used = draw(st.none() | st.integers(0, MEMORY_TOTAL_BYTES))
    device = Device(
        uuid=f"GPU-{index}",
        node=draw(st.sampled_from(["a", "b"])),
        index=draw(st.integers(0, 7)),
        kind="gpu",
        platform="cuda",
        name=draw(label),
        memory_total_bytes=MEMORY_TOTAL_BYTES,
    )
    reading = DeviceReading(
        uuid=device.uuid,
        memory_used_bytes=used,
        utilization_percent=draw(st.none() | st.floats(0, 100)),
        temperature_celsius=draw(st.none() | st.floats(-50, 150)),
        power_watts=draw(st.none() | finite),
    )
    health = DeviceHealth(state=draw(st.sampled_from(list(Health))))
    record = DeviceRecord(
        device=device, source="nvml", reading=reading, sampled_at_s=10.0, condition=health
    )
    return Gpu(record, DeviceMeasurements(device.uuid, draw(measurements())))


@st.composite
def measurements(draw: st.DrawFn) -> tuple[Measurement, ...]:
    chosen = draw(st.lists(st.sampled_from(MEASURED), max_size=6, unique_by=lambda m: m.name))
    values = []
    for metric in chosen:
        labels = tuple(draw(label) for _ in metric.labels[1:])
        # What the reading tells as well is told once.
        if metric is not POWER and labels != ("general",):
            values.append(Measurement(metric.name, draw(finite), labels))
    return tuple(values)


fleets = st.integers(1, 8).flatmap(lambda count: st.tuples(*(gpus(n) for n in range(count))))


def collected(fleet: tuple[Gpu, ...]) -> tuple[MetricFamily, ...]:
    facts = DeviceFacts(
        records=tuple(gpu.record for gpu in fleet),
        measurements={gpu.measurements.uuid: gpu.measurements for gpu in fleet},
        claims={},
        models={},
        now_s=10.0,
    )
    return DeviceCollector(stale_after_s=15.0).collect(facts)


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(families: tuple[MetricFamily, ...]) -> Series:
    """By the name as exposed and the labels."""
    return {
        (
            f"{family.name}_total" if family.kind == "counter" else family.name,
            frozenset(zip(family.label_names, point.labels, strict=True)),
        ): point.value
        for family in families
        for point in family.points
    }


def id_of(found: Series, gpu: Gpu) -> str:
    """Its label, found by its UUID as people would."""
    (gpu_id,) = {
        dict(labels)["gpu_id"]
        for name, labels in found
        if name == "gpu_info" and ("uuid", gpu.record.device.uuid) in labels
    }
    return gpu_id


@EXAMPLES
@given(fleets)
def test_memory_utilization_and_health_are_exposed_for_every_gpu(fleet: tuple[Gpu, ...]) -> None:
    found = series(collected(fleet))
    for gpu in fleet:
        reading, labels = gpu.record.reading, frozenset({("gpu_id", id_of(found, gpu))})
        told = {name: value for (name, own), value in found.items() if own == labels}
        used = reading.memory_used_bytes
        assert told.get("gpu_memory_used_bytes") == used
        available = None if used is None else MEMORY_TOTAL_BYTES - used
        assert told.get("gpu_memory_available_bytes") == available
        assert told.get("gpu_utilization_percent") == reading.utilization_percent
        assert told.get("gpu_temperature_celsius") == reading.temperature_celsius
        assert told["gpu_health_status"] == float(gpu.record.condition.state.placeable)


@pytest.fixture(scope="module")
def sink() -> Iterator[PrometheusSink]:
    one = PrometheusSink()
    one.open({"port": 0})
    yield one
    one.close()


def scraped(sink: PrometheusSink) -> Series:
    with urllib.request.urlopen(str(sink.location()), timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not family.name.startswith("process_")
    }


@EXAMPLES
@given(fleet=fleets)
def test_what_is_collected_reaches_prometheus_unchanged(
    sink: PrometheusSink, fleet: tuple[Gpu, ...]
) -> None:
    families = collected(fleet)
    sink.publish(families)
    assert scraped(sink) == series(families)


def lost(gpu: Gpu, how: str) -> Gpu:
    record = gpu.record
    finding = Finding(kind=how, severity=Health.FAILED, reason="it is lost")
    found = OpenFinding(finding=finding, first_at_s=10.0, last_at_s=10.0, present=True)
    condition = DeviceHealth(state=Health.FAILED, open=(found,))
    # A source that gets no answer repeats its last sample, with the time of that.
    after = structs.replace(
        record, condition=condition, sampled_at_s=5.0, present=how != "vanished"
    )
    return structs.replace(gpu, record=after)


#: What a sample would have to tell.
SAMPLED = {metric.exposed_name for metric in (*FROM_READINGS, *MEASURED)}


@EXAMPLES
@given(
    fleet=fleets,
    which=st.integers(min_value=0),
    how=st.sampled_from(["gpu_lost", "unresponsive", "vanished"]),
)
def test_the_loss_of_a_gpu_ends_its_series_but_its_health_stays(
    sink: PrometheusSink, fleet: tuple[Gpu, ...], which: int, how: str
) -> None:
    number = which % len(fleet)
    before = series(collected(fleet))
    victim = lost(fleet[number], how)
    sink.publish(collected((*fleet[:number], victim, *fleet[number + 1 :])))
    after = scraped(sink)
    gpu_id = id_of(after, victim)
    assert after["gpu_health_status", frozenset({("gpu_id", gpu_id)})] == 0.0
    left = {name for name, labels in after if ("gpu_id", gpu_id) in labels}
    assert not left & SAMPLED
    assert after["gpu_health_state", frozenset({("gpu_id", gpu_id), ("state", "failed")})] == 1.0
    others = {key for key in before if ("gpu_id", gpu_id) not in key[1]}
    assert others == {key for key in after if ("gpu_id", gpu_id) not in key[1]}
