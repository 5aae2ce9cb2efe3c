"""What the clauses on metric sinks refuse, one mistake at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from muai_core.model.metrics import MetricFamily
from muai_core.plugin.metric_sink import MetricSink, SinkError, SinkUnavailable
from muai_core.telemetry.prometheus_text import Sample
from muai_core.testing import ClauseResult, clauses_of, run_clauses
from muai_core.testing.metric_sink import MetricSinkLimits, MetricSinkSubject


class Keeping(MetricSink):
    """Keeps the last batch; what it does otherwise is given by name of the method."""

    name = "keeping"

    def __init__(self, **instead: Any) -> None:
        self._instead = instead
        self.samples: list[Sample] = []
        self.options: Mapping[str, Any] = {}

    def _act(self, method: str, usual: object = None) -> Any:
        answer = self._instead.get(method, usual)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def options_model(self) -> Any:
        return self._instead.get("model")

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        ratio: float | None = self._act("trace_sample_ratio")
        return ratio

    def open(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self._act("open")

    def location(self) -> str | None:
        place: str | None = self._act("location")
        return place

    def publish(self, families: Sequence[MetricFamily]) -> None:
        self.samples = []
        for family in families:
            for point in family.points:
                labels = tuple(sorted(zip(family.label_names, point.labels, strict=True)))
                if family.kind == "histogram":
                    self.samples += [
                        Sample(f"{family.name}_count", labels, float(point.count)),
                        Sample(f"{family.name}_sum", labels, point.total),
                    ]
                else:
                    self.samples.append(Sample(family.name, labels, point.value))
        self._act("publish")

    def close(self) -> None:
        self._act("close")


#: Without the clauses on the module, which is that of these tests.
NUMBERS = [one.number for one in clauses_of("metric sink") if one.number >= "S10"]


def failures_of(sink: Keeping, *, readable: bool = True) -> dict[str, str]:
    """Reasons by number."""
    subject = MetricSinkSubject(
        sink,
        read=(lambda: sink.samples) if readable else None,
        aimed_at=lambda port: {},
        limits=MetricSinkLimits(export_s=0.2),
    )
    try:
        results = run_clauses("metric sink", subject, only=NUMBERS)
    finally:
        subject.close()
    return {one.number: one.reason for one in results if one.outcome == "failed"}


@pytest.mark.parametrize(
    "instead",
    [
        {},
        {"trace_sample_ratio": 0},
        {"trace_sample_ratio": 1.0},
        {"location": "/var/log/metrics.json"},
        {"publish": SinkUnavailable("the collector is away")},
    ],
)
def test_what_a_sink_may_do(instead: dict[str, Any]) -> None:
    assert failures_of(Keeping(**instead)) == {}
    assert failures_of(Keeping(**instead), readable=False) == {}


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"open": SinkError("no disk")}, {"S10": "open() raises SinkError: no disk"}),
        ({"open": SystemExit(3)}, {"S10": "open() raises SystemExit: 3"}),
        ({"trace_sample_ratio": "all"}, {"S11": "trace_sample_ratio() returns 'all', no share"}),
        ({"trace_sample_ratio": float("nan")}, {"S11": "trace_sample_ratio() returns nan"}),
        ({"trace_sample_ratio": KeyError("x")}, {"S11": "trace_sample_ratio() raises KeyError"}),
        ({"location": "a\nb"}, {"S13": "location() returns 'a\\nb'"}),
        ({"location": ""}, {"S13": "location() returns ''"}),
        ({"location": OSError("gone")}, {"S13": "location() raises OSError: gone"}),
        ({"publish": SinkUnavailable()}, {"S41": "where nobody listens its SinkUnavailable"}),
        (
            {"close": OSError("gone")},
            {
                "S41": "where nobody listens it raises OSError",
                "S50": "close() raises OSError: gone",
                "S51": "close() raises OSError: gone the second time",
            },
        ),
    ],
)
def test_what_a_sink_may_not_do(instead: dict[str, Any], words: dict[str, str]) -> None:
    failures = failures_of(Keeping(**instead))
    assert list(failures) == list(words), failures
    assert all(failures[number].startswith(words[number]) for number in words), failures


def test_what_is_never_exported_is_told_of_every_clause_that_needs_it() -> None:
    sink = Keeping()
    subject = MetricSinkSubject(sink, read=list, limits=MetricSinkLimits(export_s=0.1))
    try:
        results = run_clauses("metric sink", subject, only=["S22", "S24"])
    finally:
        subject.close()
    reason = "what was published is not exported within 0.1 s"
    assert [(one.outcome, one.reason) for one in results] == 2 * [("failed", reason)]


def test_options_that_are_missing_are_asked_for() -> None:
    from pydantic import BaseModel

    class Options(BaseModel, extra="forbid"):
        file: str
        port: int = 9090

    result = opening_of(Keeping(model=Options))
    assert result.outcome == "not_applicable"
    assert "it needs options" in result.reason
    assert "file" in result.reason
    assert opening_of(Keeping(model=Options), file="metrics.txt").outcome == "passed"
    result = opening_of(Keeping(model=Options), file=7)
    assert result.outcome == "failed"
    assert result.reason.startswith("the options that were given are refused: ")


def test_a_port_is_chosen_that_the_options_allow() -> None:
    from pydantic import BaseModel, Field

    class Options(BaseModel, extra="forbid"):
        port: int = Field(default=80, ge=1024)

    sink = Keeping(model=Options)
    assert opening_of(sink).outcome == "passed"
    assert sink.options["port"] >= 1024


def opening_of(sink: Keeping, **options: Any) -> ClauseResult:
    subject = MetricSinkSubject(sink, options)
    try:
        [result] = run_clauses("metric sink", subject, only=["S10"])
    finally:
        subject.close()
    return result


def test_a_port_to_send_to_is_none_to_be_refused() -> None:
    from pydantic import BaseModel

    class Options(BaseModel, extra="forbid"):
        host: str = "127.0.0.1"
        port: int = 8125

    subject = MetricSinkSubject(Keeping(model=Options))
    try:
        [result] = run_clauses("metric sink", subject, only=["S12"])
    finally:
        subject.close()
    assert (result.outcome, result.reason) == ("not_applicable", "it listens nowhere")
