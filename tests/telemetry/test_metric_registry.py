"""The registry: values are exact, threads lose nothing, clients cannot create series."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muai_core.model.metrics import MetricPoint
from muai_core.telemetry import catalogue
from muai_core.telemetry.metric import Metric
from muai_core.telemetry.registry import NO_MODEL, Registry

HITS = Metric(name="hits", kind="counter", help="Hits.", labels=("model", "code"))
LEVEL = Metric(name="level", kind="gauge", help="Level.")
DELAY = Metric(
    name="delay_seconds", kind="histogram", help="Delay.", labels=("model",), buckets=(0.1, 1.0)
)


def points(registry: Registry, metric: Metric) -> dict[tuple[str, ...], MetricPoint]:
    family = next(one for one in registry.collect() if one.name == metric.name)
    return {point.labels: point for point in family.points}


def registry_for(*models: str) -> Registry:
    registry = Registry((HITS, LEVEL, DELAY))
    registry.serve_models(models)
    return registry


def test_counters_add_up_by_labels() -> None:
    registry = registry_for("chat")
    registry.value(HITS, "chat", "200").add()
    registry.value(HITS, "chat", "200").add(2)
    registry.value(HITS, "chat", "503").add()
    values = {labels: point.value for labels, point in points(registry, HITS).items()}
    assert values == {("chat", "200"): 3.0, ("chat", "503"): 1.0}


def test_gauges_go_up_and_down() -> None:
    registry = registry_for()
    registry.value(LEVEL).add(5)
    registry.value(LEVEL).add(-2)
    assert points(registry, LEVEL)[()].value == 3.0


def test_a_histogram_counts_each_value_in_every_bucket_above_it() -> None:
    registry = registry_for("chat")
    for value in (0.05, 0.1, 0.5, 7.0):
        registry.histogram(DELAY, "chat").observe(value)
    point = points(registry, DELAY)["chat",]
    assert point.buckets == ((0.1, 2), (1.0, 3))
    assert point.count == 4
    assert point.total == pytest.approx(7.65)


@given(st.lists(st.floats(min_value=-10, max_value=1e9)))
def test_histogram_buckets_are_cumulative_and_complete(values: list[float]) -> None:
    registry = registry_for("chat")
    for value in values:
        registry.histogram(DELAY, "chat").observe(value)
    point = points(registry, DELAY)["chat",]
    assert point.buckets == tuple((b, sum(value <= b for value in values)) for b in DELAY.buckets)
    assert point.count == len(values)
    assert point.total == pytest.approx(sum(values))


def test_series_that_need_only_the_model_start_at_zero() -> None:
    registry = registry_for("chat", "code")
    assert {labels: point.count for labels, point in points(registry, DELAY).items()} == {
        ("chat",): 0,
        ("code",): 0,
    }
    assert points(registry, LEVEL)[()].value == 0.0
    assert points(registry, HITS) == {}


def test_names_that_clients_invent_make_no_series() -> None:
    registry = registry_for("chat")
    for number in range(1000):
        registry.value(HITS, f"invented-{number}", "404").add()
        registry.histogram(DELAY, f"invented-{number}").observe(0.2)
    assert {labels: point.value for labels, point in points(registry, HITS).items()} == {
        (NO_MODEL, "404"): 1000.0
    }
    assert set(points(registry, DELAY)) == {(NO_MODEL,), ("chat",)}


def test_series_of_a_model_that_is_gone_end_and_start_anew() -> None:
    registry = registry_for("chat")
    held = registry.value(HITS, "chat", "200")
    held.add(5)
    registry.serve_models(["code"])
    held.add()
    assert points(registry, HITS) == {}
    assert set(points(registry, DELAY)) == {("code",)}
    registry.serve_models(["chat", "code"])
    registry.value(HITS, "chat", "200").add()
    assert points(registry, HITS)["chat", "200"].value == 1.0


def test_series_come_in_a_fixed_order() -> None:
    registry = registry_for("b", "a")
    registry.value(HITS, "b", "200").add()
    registry.value(HITS, "a", "500").add()
    registry.value(HITS, "a", "200").add()
    assert list(points(registry, HITS)) == [("a", "200"), ("a", "500"), ("b", "200")]
    assert [family.name for family in registry.collect()] == ["hits", "level", "delay_seconds"]


@pytest.mark.parametrize("amount", [-1.0, float("nan")])
def test_counters_refuse_to_go_down(amount: float) -> None:
    with pytest.raises(ValueError, match="only goes up"):
        registry_for("chat").value(HITS, "chat", "200").add(amount)


def test_nan_belongs_in_no_bucket() -> None:
    with pytest.raises(ValueError, match="NaN"):
        registry_for("chat").histogram(DELAY, "chat").observe(float("nan"))


def test_misuse_is_named() -> None:
    registry = registry_for("chat")
    with pytest.raises(ValueError, match=r"hits has the labels \('model', 'code'\)"):
        registry.value(HITS, "chat")
    with pytest.raises(TypeError, match="delay_seconds is a histogram"):
        registry.value(DELAY, "chat")
    with pytest.raises(TypeError, match="hits is a counter"):
        registry.histogram(HITS, "chat", "200")
    with pytest.raises(KeyError):
        registry.value(catalogue.UPTIME)


def test_threads_lose_no_count() -> None:
    registry = registry_for("chat")
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(10)
        for _ in range(500):
            registry.value(HITS, "chat", "200").add()
            registry.histogram(DELAY, "chat").observe(0.5)
            registry.collect()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert points(registry, HITS)["chat", "200"].value == 4000.0
    assert points(registry, DELAY)["chat",].count == 4000
