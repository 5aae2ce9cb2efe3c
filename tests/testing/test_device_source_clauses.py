"""What the clauses on inventories refuse, one mistake at a time."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from muai_core.model.device import (
    Device,
    DeviceLink,
    DeviceMeasurements,
    DeviceProcess,
    DeviceReading,
    HostFault,
    Inventory,
    Measurement,
)
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource, Happening, SelfTest
from muai_core.testing import clauses_of, run_clauses
from muai_core.testing.device_source import DeviceSourceSubject

GIB = 1024**3
NUMBERS = [one.number for one in clauses_of("device source") if "D10" <= one.number <= "D42"]


class Given(DeviceSource):
    """Says what it is given."""

    name = "given"

    def __init__(self, inventory: Inventory, spec: Any = None, told: Any = None) -> None:
        self._inventory = inventory
        self._spec = spec
        self._told = told

    def listen(self, tell: Callable[[Happening], None]) -> None:
        if self._told is not None:
            tell(self._told)

    def observe(self, now_s: float) -> Inventory:
        return structs.replace(self._inventory, observed_at_s=now_s)

    def self_test(self, device: Device) -> SelfTest | None:
        spec: SelfTest | None = self._spec
        return spec

    def explain_absence(self) -> str | None:
        return None if self._inventory.fault is None else "see its fault"


def gpu(number: int = 0, **fields: Any) -> Device:
    values = {
        "uuid": f"GPU-{number}",
        "node": "box",
        "index": number,
        "kind": "gpu",
        "platform": "cuda",
        "name": "A GPU",
        "memory_total_bytes": 80 * GIB,
    }
    return Device(**values | fields)


def link(a: str = "GPU-0", b: str = "GPU-1", **fields: Any) -> DeviceLink:
    return DeviceLink(**{"a": a, "b": b, "kind": "PIX"} | fields)


def finding(**fields: Any) -> Finding:
    return Finding(**{"kind": "hot", "severity": Health.DEGRADED, "reason": "it is hot"} | fields)


def seen(*devices: Device, **fields: Any) -> Inventory:
    return Inventory(
        source="given", observed_at_s=0.0, devices=devices or (gpu(0), gpu(1)), **fields
    )


def read(**fields: Any) -> Inventory:
    return seen(readings=(DeviceReading(uuid="GPU-0", **fields),))


def found(**fields: Any) -> Inventory:
    return read(findings=(finding(**fields),))


def measured(*values: Measurement, uuid: str = "GPU-0") -> Inventory:
    return seen(measurements=(DeviceMeasurements(uuid, values),))


def failures_of(source: DeviceSource) -> dict[str, str]:
    subject = DeviceSourceSubject(source)
    try:
        results = run_clauses("device source", subject, only=NUMBERS)
    finally:
        subject.close()
    return {one.number: one.reason for one in results if one.outcome == "failed"}


@pytest.mark.parametrize(
    "inventory",
    [
        seen(),
        Inventory(source="given", observed_at_s=0.0, devices=()),
        seen(gpu(0), gpu(0, uuid="MIG-0", mig_index=1, parent_uuid="GPU-0"), links=()),
        seen(
            gpu(memory_total_bytes=0),
            readings=(DeviceReading(uuid="GPU-0", findings=(finding(),)),),
        ),
        read(memory_used_bytes=2 * GIB, memory_reserved_bytes=GIB, memory_free_bytes=77 * GIB),
        read(memory_used_bytes=2 * GIB, memory_foreign_bytes=GIB, temperature_celsius=-5.0),
        read(processes=(DeviceProcess(7), DeviceProcess(8, memory_bytes=GIB, own=True))),
        found(severity=Health.FAILED, recovery="reset", advice="reset it"),
        seen(links=(link(kind="NVL", nvlinks=18),)),
        measured(Measurement("gpu_clock_hertz", 1e9, ("sm",)), Measurement("gpu_power_watts", 0.0)),
        seen(fault=HostFault(kind="driver_not_loaded", reason="no driver", advice="load it")),
    ],
)
def test_what_may_be_said(inventory: Inventory) -> None:
    assert failures_of(Given(inventory)) == {}


@pytest.mark.parametrize(
    ("inventory", "number", "words"),
    [
        (seen(gpu(memory_total_bytes="80 GiB")), "D10", "malformed"),
        (read(memory_used_bytes=1.5), "D10", "malformed"),
        (seen(gpu(uuid="GPU 0")), "D20", "one word"),
        (seen(gpu(uuid="")), "D20", "one word"),
        (seen(gpu(node="")), "D21", "node"),
        (seen(gpu(name="A\nGPU")), "D21", "name"),
        (seen(gpu(memory_total_bytes=0)), "D21", "memory"),
        (seen(gpu(memory_total_bytes=-1)), "D21", "memory"),
        (seen(gpu(index=-1)), "D21", "index"),
        (seen(gpu(mig_index=1)), "D21", "MIG"),
        (seen(gpu(0), gpu(0, uuid="GPU-other")), "D22", "both gpu 0"),
        (seen(readings=2 * (DeviceReading(uuid="GPU-0"),)), "D23", "two readings"),
        (read(memory_used_bytes=-1), "D24", "used"),
        (read(memory_free_bytes=81 * GIB), "D24", "free"),
        (read(memory_used_bytes=1, memory_foreign_bytes=2), "D24", "foreign"),
        (
            read(memory_used_bytes=GIB, memory_reserved_bytes=0, memory_free_bytes=GIB),
            "D24",
            "used [+] reserved [+] free",
        ),
        (read(utilization_percent=101.0), "D24", "utilization"),
        (read(temperature_celsius=300.0), "D24", "temperature"),
        (read(power_watts=-1.0), "D24", "power"),
        (read(processes=(DeviceProcess(0),)), "D24", "pid 0"),
        (read(processes=(DeviceProcess(7, 81 * GIB),)), "D24", "process 7"),
        (read(temperature_celsius=0.0), "D25", "temperature"),
        (read(memory_used_bytes=0, memory_free_bytes=0), "D25", "neither used nor free"),
        (found(kind="Too hot"), "D26", "kind"),
        (found(reason="two\nlines"), "D26", "reason"),
        (found(advice=" "), "D26", "advice"),
        (found(recovery="reset"), "D26", "recovery"),
        (found(repeat_limit=-1), "D26", "repeat_limit"),
        (seen(fault=HostFault(kind="x", reason="", advice="load it")), "D26", "host's fault"),
        (seen(links=(link(b="GPU-0"),)), "D27", "not between two devices"),
        (seen(links=(link(b="GPU-7"),)), "D27", "not between two devices"),
        (seen(links=(link(nvlinks=4),)), "D27", "4 NVLinks"),
        (measured(uuid="GPU-7"), "D28", "not listed"),
        (measured(Measurement("gpu_clock_hertz", 1e9)), "D28", "takes type"),
        (measured(Measurement("gpu_power_watts", 1.0, ("x",))), "D28", "takes 0"),
        (measured(Measurement("gpu_clock_hertz", 1e9, ("größte",))), "D28", "cannot be shown"),
        (measured(Measurement("gpu_clock_hertz", 1e9, ("",))), "D28", "cannot be shown"),
        (measured(*2 * [Measurement("gpu_power_watts", 1.0)]), "D28", "twice"),
        (measured(Measurement("gpu_power_watts", float("nan"))), "D28", "not known"),
        (
            measured(*(Measurement("gpu_clock_hertz", 1e9, (f"c{n}",)) for n in range(65))),
            "D28",
            "64 series",
        ),
        (measured(Measurement("gpu_energy_joules", -1.0)), "D29", "fell"),
    ],
)
def test_what_may_not_be_said(inventory: Inventory, number: str, words: str) -> None:
    failures = failures_of(Given(inventory))
    assert list(failures) == [number], failures
    assert re.search(words, failures[number]), failures


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Happening(uuid="GPU-7", finding=finding()), "not listed"),
        (Happening(uuid=None, finding=finding(reason="")), "some device"),
    ],
)
def test_what_may_not_be_told(told: Happening, words: str) -> None:
    failures = failures_of(Given(seen(), told=told))
    assert list(failures) == ["D30"]
    assert words in failures["D30"]


@pytest.mark.parametrize(
    ("spec", "number", "words"),
    [
        ("python -m test", "D40", "not SelfTest"),
        (SelfTest(argv=(), memory_bytes=0), "D40", "no command"),
        (SelfTest(argv=("true",), memory_bytes=0, timeout_s=0), "D40", "timeout_s"),
        (SelfTest(argv=("true",), memory_bytes=-1), "D40", "-1 bytes"),
        (SelfTest(argv=("/no/such/program",), memory_bytes=0), "D42", "cannot be started"),
        (SelfTest(argv=("echo", "passed"), memory_bytes=0), "D42", "not a result"),
        (SelfTest(argv=("sleep", "30"), memory_bytes=0, timeout_s=0.1), "D42", "0.1 s"),
        (SelfTest(argv=("sh", "-c", "echo '{}'; exit 3"), memory_bytes=0), "D42", "status 3"),
    ],
)
def test_how_a_device_may_not_be_tested(spec: Any, number: str, words: str) -> None:
    failures = failures_of(Given(seen(), spec))
    assert number in failures, failures
    assert words in failures[number], failures


def test_a_self_test_without_room_is_not_run() -> None:
    spec = SelfTest(argv=("/no/such/program",), memory_bytes=2 * GIB)
    used = 79 * GIB
    inventory = seen(
        gpu(0),
        readings=(DeviceReading(uuid="GPU-0", memory_used_bytes=used, memory_free_bytes=GIB),),
    )
    assert failures_of(Given(inventory, spec)) == {}


def test_an_engines_stack_in_the_controller_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "jax", raising=False)

    class Loading(Given):
        def observe(self, now_s: float) -> Inventory:
            monkeypatch.setitem(sys.modules, "jax", ModuleType("jax"))
            return super().observe(now_s)

    assert failures_of(Loading(seen())) == {"D17": "it imports jax into the controller"}


def test_a_directory_that_is_changed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Moving(Given):
        def observe(self, now_s: float) -> Inventory:
            monkeypatch.chdir(tmp_path)
            return super().observe(now_s)

    failures = failures_of(Moving(seen()))
    assert failures == {"D18": "it changes the working directory of the controller's process"}


class Awkward(Given):
    """Its options cannot be asked for."""

    def options_model(self) -> Any:
        raise ImportError("no pydantic here")


def test_options_that_cannot_be_asked_for_are_a_failure_in_words() -> None:
    assert failures_of(Awkward(seen())) == {
        "D10": "options_model() raises ImportError: no pydantic here"
    }


def test_wrong_options_are_told_once() -> None:
    class Strict(Given):
        def options_model(self) -> Any:
            from pydantic import create_model

            return create_model("Options", port=(int, 1))

    subject = DeviceSourceSubject(Strict(seen()), {"port": "a"})
    try:
        results = run_clauses("device source", subject, only=NUMBERS)
    finally:
        subject.close()
    [failed] = [one for one in results if one.outcome == "failed"]
    assert failed.number == "D10"
    assert failed.reason.startswith("the options that were given are refused: ")
