"""The catalogue keeps the naming rules, docs/metrics.md lists it, and every metric is fed."""

import re
from pathlib import Path

import pytest

from muai_core.telemetry.catalogue import METRICS, RECORDED
from muai_core.telemetry.metric import Metric

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*)\|", re.MULTILINE)
CONTRACT = {
    "gpu_memory_used_bytes",
    "gpu_memory_available_bytes",
    "gpu_utilization_percent",
    "gpu_temperature_celsius",
    "gpu_health_status",
}
UNITS = ("seconds", "bytes", "celsius", "percent", "watts", "joules", "hertz", "ratio")


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = ROW.finditer(DOCS.read_text(encoding="utf-8"))
    return {
        row["name"]: (row["kind"], tuple(re.findall(r"`([a-z_]+)`", row["labels"]))) for row in rows
    }


def test_docs_list_exactly_the_catalogue() -> None:
    catalogue = {metric.exposed_name: (metric.kind, metric.labels) for metric in METRICS}
    assert documented() == catalogue


def test_every_metric_the_docs_mention_exists() -> None:
    names = {metric.exposed_name for metric in METRICS}
    names |= {f"{m.name}{end}" for m in METRICS if m.kind == "histogram" for end in ("_bucket",)}
    words = set(re.findall(r"\b(?:muai|gpu)_[a-z_]+\b", DOCS.read_text(encoding="utf-8")))
    assert words - {"gpu_id", "muai_nvml", "muai_prometheus"} - names == set()


def test_names_are_unique() -> None:
    names = [metric.exposed_name for metric in METRICS]
    assert len(names) == len(set(names))


def test_the_device_gauges_of_the_contract_are_there() -> None:
    found = {m.name for m in METRICS if m.kind == "gauge" and m.labels == ("gpu_id",)}
    assert found >= CONTRACT


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_naming_rules(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.startswith(("muai_", "gpu_"))
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
    for unit in UNITS:
        ends = (f"_{unit}", f"_{unit}_per_second")
        assert f"_{unit}" not in metric.name or metric.name.endswith(ends)
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label)
        assert label not in ("le", "quantile", "job", "instance")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_only_histograms_have_buckets_and_these_ascend(metric: Metric) -> None:
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")
        assert metric in RECORDED
