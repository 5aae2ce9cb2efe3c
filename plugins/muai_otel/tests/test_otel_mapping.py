"""The names under which MuAI's metrics travel."""

import re
from pathlib import Path

import pytest
from muai_otel.mapping import CONVENTIONS, IDENTITY, UNITS, form_of, own_form
from opentelemetry.semconv._incubating.attributes import hw_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics, hw_metrics

from muai_core.telemetry.catalogue import METRICS
from muai_core.telemetry.metric import Metric

README = Path(__file__).parents[1] / "README.md"
#: Of OpenTelemetry's translation to Prometheus, what our units need.
PROMETHEUS_UNITS = {
    "By/s": "bytes_per_second",
    "By": "bytes",
    "s": "seconds",
    "%": "percent",
    "Cel": "celsius",
    "W": "watts",
    "J": "joules",
    "Hz": "hertz",
}


def in_prometheus(name: str, unit: str, kind: str) -> str:
    """The name that a collector's Prometheus exporter makes of an OpenTelemetry one."""
    suffix = "ratio" if unit == "1" and kind == "gauge" else PROMETHEUS_UNITS.get(unit, "")
    words = [re.sub(r"[^A-Za-z0-9_]", "_", name), suffix, "total" if kind == "counter" else ""]
    return "_".join(word for word in words if word)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_has_a_form(metric: Metric) -> None:
    form = form_of(metric.family(()))
    if metric.name not in CONVENTIONS:
        kind = metric.kind
        assert in_prometheus(form.name, form.unit, kind) == metric.exposed_name
        return
    wanted = {"gauge": {"gauge", "updowncounter"}}.get(metric.kind, {metric.kind})
    assert form.instrument in wanted
    assert set(form.attributes) <= set(metric.labels)
    told = {attribute.name for attribute in form.attributes.values()} | set(form.constants)
    untold = [label for label in metric.labels if label not in form.attributes]
    assert set(untold) <= {"gpu_id"}, f"{metric.name} has labels that no attribute stands for"
    assert len(told) == len(form.attributes) + len(form.constants)


def test_the_table_names_no_metric_that_muai_does_not_have() -> None:
    assert set(CONVENTIONS) <= {metric.name for metric in METRICS}


def test_what_is_known_of_a_gpu_is_in_the_catalogue() -> None:
    (info,) = [metric for metric in METRICS if metric.name == "gpu_info"]
    assert set(IDENTITY) <= set(info.labels)


def test_hardware_names_are_those_of_the_conventions() -> None:
    known = {value for value in vars(hw_metrics).values() if isinstance(value, str)}
    known |= {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)}
    assert {form.name for form in CONVENTIONS.values()} <= known
    attributes = {value for value in vars(hw_attributes).values() if isinstance(value, str)}
    assert {name for name in IDENTITY.values() if name.startswith("hw.")} <= attributes


def test_the_readme_has_the_table() -> None:
    rows = {}
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith(("| `gpu_", "| `muai_")):
            ours, theirs, unit, *_ = (cell.strip(" `") for cell in line.strip("|").split("|"))
            rows[re.sub(r"\{.*\}", "", ours)] = (theirs.split("`")[0], unit)
    for name, form in CONVENTIONS.items():
        assert rows[name] == (form.name, form.unit)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("muai_controller_uptime_seconds", "gauge", ("muai.controller_uptime", "s")),
        ("muai_requests", "counter", ("muai.requests", "")),
        ("gpu_power_limit_watts", "gauge", ("gpu.power_limit", "W")),
        ("gpu_fan_speed_ratio", "gauge", ("gpu.fan_speed", "1")),
        ("vllm_num_requests", "gauge", ("vllm_num_requests", "")),
    ],
)
def test_other_names(name: str, kind: str, expected: tuple[str, str]) -> None:
    form = own_form(name, kind)  # type: ignore[arg-type]
    assert (form.name, form.unit) == expected
    assert form.instrument == kind


def test_colons_of_engines_become_dots() -> None:
    form = own_form("vllm:e2e_request_latency_seconds", "histogram")
    assert (form.name, form.unit) == ("vllm.e2e_request_latency", "s")


def test_longer_endings_of_names_come_first() -> None:
    endings = list(UNITS)
    for place, ending in enumerate(endings):
        assert not any(ending.endswith(other) for other in endings[:place])
