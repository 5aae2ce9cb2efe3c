"""What a driver says that cannot be: of one GPU it hides no other one, and is shown as no value."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from muai_nvml.source import ProbeFailed
from nvml_observing import (
    WAIT_S,
    Make,
    Open,
    Told,
    kinds,
    observe,
    observe_until,
    probe_pids,
    readings,
)

from muai_core.control.actions import ReportHealth
from muai_core.control.events import DevicesObserved
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.health import Health
from muai_core.planning.balanced import Balanced

BIG = 2**64 - 2


class TestOfOneGpu:
    @pytest.mark.parametrize(
        "values",
        [
            {f"ecc.uncorrected.volatile.{place}": BIG for place in ("dram", "sram")},
            {"field.29": "f64:nan", "field.30": "u64:1"},
            {"field.29": f"u64:{BIG}", "field.30": f"u64:{BIG}"},
            {"field.230": "f64:inf"},
            {"field.83": "f64:-inf"},
        ],
    )
    def test_the_others_are_read_on(
        self, make_fake_nvml: Make, open_nvml_source: Open, values: dict[str, Any]
    ) -> None:
        fake = make_fake_nvml(2)
        source = open_nvml_source(fake, slow_interval_s=0)
        observe(source)
        fake.set(1, values)
        for _ in range(2):
            well, _odd = readings(source)
            assert well.temperature_celsius == 31.0
            assert not well.findings

    def test_memory_that_cannot_be_is_not_believed(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(2)
        source = open_nvml_source(fake)
        observe(source)
        fake.set(1, memory_used_bytes=2**64 - 1)
        well, odd = readings(source)
        assert not well.findings
        assert odd.memory_used_bytes is odd.memory_free_bytes is None
        assert [finding.severity for finding in odd.findings] == [Health.UNKNOWN]
        assert "18446744073709551615 bytes used" in odd.findings[0].reason

    def test_temperature_utilization_and_power_that_cannot_be_are_absent(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(1)
        fake.set(
            0,
            temperature_celsius=-(2**31),
            utilization_percent=4_000_000_000,
            power_mw=2**32 - 1,
        )
        (reading,) = readings(open_nvml_source(fake))
        assert reading.temperature_celsius is None
        assert reading.utilization_percent is None
        assert reading.power_watts is None
        assert not reading.findings


def test_a_library_that_crashes_is_a_fault_of_the_host(
    make_fake_nvml: Make, open_nvml_source: Open, tmp_path: Path
) -> None:
    """What was last seen of the GPUs does not stand for ever."""
    broken = tmp_path / "broken"
    program = f"""
import os, runpy
if os.path.exists({str(broken)!r}):
    os.abort()
runpy.run_module("muai_nvml.probe", run_name="__main__")
"""
    source = open_nvml_source(make_fake_nvml(2), command=(sys.executable, "-c", program))
    assert observe(source).fault is None

    def seen_or_failed() -> Any:
        try:
            return observe(source)
        except ProbeFailed:
            return None

    broken.touch()
    for pid in probe_pids():
        os.kill(pid, signal.SIGKILL)
    fault = _until(lambda: (seen := seen_or_failed()) and seen.fault)
    assert fault.kind == "probe_failed"
    assert "the probe process ended" in fault.reason
    broken.unlink()
    assert _until(lambda: (seen := seen_or_failed()) and seen.fault is None)


def _until(found: Callable[[], Any]) -> Any:
    give_up_at_s = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < give_up_at_s
        time.sleep(0.05)
    return value


def test_a_gpu_that_answers_now_and_then_does_not_flap(
    make_fake_nvml: Make, open_nvml_source: Open
) -> None:
    fake = make_fake_nvml(2)
    source = open_nvml_source(fake)
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    told: list[ReportHealth] = []

    def look() -> None:
        now_s = time.monotonic()
        seen = DevicesObserved(inventory=source.observe(now_s))
        actions = plane.step(now_s, [seen])
        told.extend(action for action in actions if isinstance(action, ReportHealth))

    look()
    for _ in range(6):
        fake.fail(1, "nvmlDeviceGetMemoryInfo", 999)
        look()
        fake.heal()
        look()
    assert [action.after for action in told] == [Health.UNKNOWN]
    for _ in range(ControlSettings().health.clean_readings):
        look()
    assert [action.after for action in told] == [Health.UNKNOWN, Health.HEALTHY]


class TestEvents:
    def test_a_gpu_whose_registration_fails_is_tried_again(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake, told = make_fake_nvml(2), Told()
        fake.fail(1, "nvmlDeviceRegisterEvents", 999)
        source = open_nvml_source(fake, told)
        observe(source)
        observe(source)
        (complaint,) = told.wait(lambda one: one.finding.kind == "events_broken")
        assert "those of GPU 1 cannot be had" in complaint.finding.reason
        fake.heal()
        observe(source)
        fake.xid(1, 79)
        told.wait(lambda one: one.uuid == fake.uuid(1) and one.finding.code == 79)
        assert len(told.wait(lambda one: one.finding.kind == "events_broken")) == 1

    def test_that_there_is_no_event_set_is_said_once(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake, told = make_fake_nvml(4), Told()
        fake.fail(None, "nvmlEventSetCreate", 999)
        source = open_nvml_source(fake, told)
        for _ in range(3):
            assert not any(reading.findings for reading in readings(source))
        assert len(told.wait(lambda one: one.finding.kind == "events_broken")) == 1


class TestIdentity:
    def test_two_with_one_uuid_are_not_both_believed(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        fake = make_fake_nvml(3)
        fake.set(1, uuid=fake.uuid(0))
        source = open_nvml_source(fake)
        observe(source)
        inventory = observe(source)
        states = {one.uuid: kinds(one) for one in inventory.readings}
        assert states == {
            "GPU-unknown-0": ["nvml_error"],
            fake.uuid(0): [],
            fake.uuid(2): [],
        }

    def test_of_numbers_that_moved_nobody_inherits_a_fault(
        self, make_fake_nvml: Make, open_nvml_source: Open
    ) -> None:
        """GPU 0 vanishes and GPU 3 hangs: its new number 2 was that of a broken one."""
        fake = make_fake_nvml(4)
        fake.set(2, remapped_rows=(0, 1, 0, 1))
        uuids = [fake.uuid(number) for number in range(4)]
        source = open_nvml_source(fake, deadline_s=0.5)
        observe(source)
        with fake.changes():
            fake.vanish(0)
            fake.hang(3)

        def of(uuid: str, inventory: Any) -> list[str]:
            return next(kinds(one) for one in inventory.readings if one.uuid == uuid)

        moved = observe_until(
            source, lambda seen: any(one.uuid == "GPU-unknown-2" for one in seen.readings)
        )
        assert of("GPU-unknown-2", moved) in (["no_answer_yet"], ["unresponsive"])
        assert of(uuids[2], moved) == ["row_remap_failure"]
        # Which of the two has vanished, nobody knows yet.
        assert of(uuids[0], moved) == of(uuids[3], moved) == ["no_answer_yet"]
        fake.hang(3, 0)
        known = observe_until(source, lambda seen: of(uuids[3], seen) == [])
        assert of(uuids[0], known) == ["vanished"]
        assert all(one.uuid in uuids for one in known.readings)
