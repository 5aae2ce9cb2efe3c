"""The kit for device sources tells right from wrong: each defect breaks its own clause alone."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from muai_core.model.device import Inventory
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.cpu_source import CpuSource
from muai_core.testing import ClauseResult, DeviceSourceConformance, clauses_of, run_clauses
from muai_core.testing.device_source import DeviceSourceLimits, DeviceSourceSubject
from muai_core.testing.fakes.device_sources import DEVICE_SOURCE_DEFECTS, FakeSource

LIMITS = DeviceSourceLimits(observe_s=1, explain_s=1, close_s=1)
TOO_LONG_S = 1.3
MODULES = ("slow_to_import", "hooks_raise")


def results_of(
    source: DeviceSource,
    plugin_module: str | None = None,
    limits: DeviceSourceLimits = LIMITS,
    only: list[str] | None = None,
) -> list[ClauseResult]:
    subject = DeviceSourceSubject(source, plugin_module=plugin_module, limits=limits)
    try:
        return run_clauses("device source", subject, only)
    finally:
        subject.close()


def test_a_good_source_keeps_every_clause() -> None:
    results = results_of(FakeSource())
    assert [one.number for one in results] == [one.number for one in clauses_of("device source")]
    assert [one for one in results if one.outcome != "passed"] == []


@pytest.mark.parametrize("defect", DEVICE_SOURCE_DEFECTS)
def test_a_defect_breaks_its_clause_and_no_other(defect: str) -> None:
    module = f"muai_core.testing.fakes.{defect}" if defect in MODULES else None
    results = results_of(FakeSource(defect, TOO_LONG_S), module)
    broken = [one for one in results if one.outcome == "failed"]
    assert [one.number for one in broken] == [DEVICE_SOURCE_DEFECTS[defect]], broken
    assert broken[0].reason
    skipped = [one for one in results if one.outcome == "not_applicable"]
    # What is malformed is not looked into.
    assert not skipped or defect == "gives_a_number_for_words"


def test_there_is_a_defect_for_every_clause() -> None:
    numbers = [one.number for one in clauses_of("device source")]
    assert list(DEVICE_SOURCE_DEFECTS.values()) == numbers


def test_each_clause_works_alone() -> None:
    for clause in clauses_of("device source"):
        subject = DeviceSourceSubject(FakeSource(), limits=LIMITS)
        try:
            [result] = run_clauses("device source", subject, only=[clause.number])
        finally:
            subject.close()
        assert result.outcome == "passed", result


class Hanging(DeviceSource):
    """Answers nothing."""

    name = "hanging"

    def observe(self, now_s: float) -> Inventory:
        threading.Event().wait()
        raise AssertionError


class Raising(DeviceSource):
    """Raises what ends programs."""

    name = "raising"

    def observe(self, now_s: float) -> Inventory:
        raise SystemExit("no GPU here")


def failures_in_use(source: DeviceSource, limits: DeviceSourceLimits = LIMITS) -> dict[str, str]:
    """Reasons by number, without the clauses on the module, which is that of these tests."""
    numbers = [one.number for one in clauses_of("device source") if one.number >= "D10"]
    results = results_of(source, limits=limits, only=numbers)
    return {one.number: one.reason for one in results if one.outcome == "failed"}


def test_a_source_that_hangs_is_told_once_and_holds_up_nobody() -> None:
    failures = failures_in_use(Hanging(), DeviceSourceLimits(observe_s=0.1))
    assert failures == {"D10": "observe() did not return within 0.3 s"}


def test_a_source_that_raises_anything_fails_in_words() -> None:
    assert failures_in_use(Raising()) == {"D10": "observe() raises SystemExit: no GPU here"}


class TestCpuSource(DeviceSourceConformance):
    """The source that comes with the core."""

    plugin_module = "muai_core.builtin"

    def make_source(self) -> CpuSource:
        return CpuSource()


class TestFakeSource(DeviceSourceConformance):
    """Options of the author's reach the source."""

    def make_source(self) -> FakeSource:
        return FakeSource()

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"memory_gib": 40}
