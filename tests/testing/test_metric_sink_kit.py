"""The kit for metric sinks tells right from wrong: each defect breaks its own clause alone."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import structs

from muai_core.testing import ClauseResult, MetricSinkConformance, clauses_of, run_clauses
from muai_core.testing.fakes.metric_sinks import METRIC_SINK_DEFECTS, FakeSink
from muai_core.testing.metric_sink import MetricSinkLimits, MetricSinkSubject

LIMITS = MetricSinkLimits(open_s=1, publish_s=1, ask_s=1, close_s=1)
TOO_LONG_S = 1.1
#: Defects that cost time at every turn, and the limit that they break, which is short for them.
SLOW = {
    "opens_too_slowly": "open_s",
    "thinks_long_about_its_place": "ask_s",
    "closes_too_slowly": "close_s",
}
SHORT_S = 0.4
MODULES = ("slow_to_import", "hooks_raise")


def a_subject(defect: str = "") -> MetricSinkSubject:
    short = {SLOW[defect]: SHORT_S} if defect in SLOW else {}
    return MetricSinkSubject(
        FakeSink(defect, SHORT_S + 0.1 if short else TOO_LONG_S),
        aimed_at=lambda port: {"target": port},
        plugin_module=f"muai_core.testing.fakes.{defect}" if defect in MODULES else None,
        limits=structs.replace(LIMITS, **short),
    )


def results_of(subject: MetricSinkSubject, *numbers: str) -> list[ClauseResult]:
    try:
        return run_clauses("metric sink", subject, only=numbers or None)
    finally:
        subject.close()


def test_a_good_sink_keeps_every_clause() -> None:
    results = results_of(a_subject())
    assert [one.number for one in results] == [one.number for one in clauses_of("metric sink")]
    assert [one for one in results if one.outcome != "passed"] == []


@pytest.mark.parametrize("defect", METRIC_SINK_DEFECTS)
def test_a_defect_breaks_its_clause_and_no_other(defect: str) -> None:
    broken = [one for one in results_of(a_subject(defect)) if one.outcome != "passed"]
    assert [(one.number, one.outcome) for one in broken] == [
        (METRIC_SINK_DEFECTS[defect], "failed")
    ], broken
    assert broken[0].reason


def test_there_is_a_defect_for_every_clause() -> None:
    numbers = [one.number for one in clauses_of("metric sink")]
    assert list(METRIC_SINK_DEFECTS.values()) == numbers


def test_each_clause_works_alone() -> None:
    for clause in clauses_of("metric sink"):
        [result] = results_of(a_subject(), clause.number)
        assert result.outcome == "passed", result


class TestFakeSink(MetricSinkConformance):
    """What an author writes."""

    def make_sink(self) -> FakeSink:
        return FakeSink()

    def aimed_at(self, port: int) -> Mapping[str, Any]:
        return {"target": port}
