"""Engines' metrics: read as the official library writes them, and passed on under their names."""

import contextlib
import math
import shutil
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muai_prometheus.text import render
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from muai_core.model.metrics import MetricFamily
from muai_core.telemetry.passed_on import PassedOn, ReplicaMetrics
from muai_core.telemetry.prometheus_text import TextFamily, parse, total

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="chat"} 2.0
vllm:num_requests_running{engine="1",model_name="chat"} 1.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="chat"} 5e+01
# TYPE vllm:e2e_seconds histogram
vllm:e2e_seconds_bucket{engine="0",le="0.5"} 1.0
vllm:e2e_seconds_bucket{engine="0",le="+Inf"} 3.0
vllm:e2e_seconds_count{engine="0"} 3.0
vllm:e2e_seconds_sum{engine="0"} 4.5
"""


def library_text(labels: dict[str, str], value: float) -> str:
    registry = CollectorRegistry()
    names = sorted(labels)
    Gauge("a_gauge", "A \\ gauge\nof two lines", names, registry=registry).labels(**labels).set(
        value
    )
    counter = Counter("some_requests", 'Some "requests"', names, registry=registry)
    counter.labels(**labels).inc(abs(value))
    histogram = Histogram("some_seconds", "Seconds", names, registry=registry, buckets=(0.1, 2.0))
    for one in (0.05, 1.0, 3.0):
        histogram.labels(**labels).observe(one)
    Summary("some_sizes", "Sizes", names, registry=registry).labels(**labels).observe(3)
    Info("a_build", "Build", registry=registry).info({"version": "1"})
    return generate_latest(registry).decode()


label_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.floats(allow_nan=False, min_value=-1e300, max_value=1e300)


@given(st.dictionaries(st.sampled_from(["engine", "a", "_b"]), label_values, min_size=1), numbers)
@settings(max_examples=150, deadline=None)
def test_what_the_library_writes_is_read(labels: dict[str, str], value: float) -> None:
    text = library_text(labels, value)
    expected = [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]

    families = parse(text)

    found = [
        (one.name, tuple((name, str(text)) for name, text in one.labels), one.value)
        for family in families
        for one in family.samples
    ]
    assert sorted(found) == sorted(expected)
    kinds = {family.name: family.kind for family in families}
    assert kinds["some_requests_total"] == "counter"
    assert kinds["some_seconds"] == "histogram"
    assert next(one.help for one in families if one.name == "a_gauge") == (
        "A \\ gauge\nof two lines"
    )


@given(st.text(max_size=200) | st.text(st.sampled_from('ab_{}=",\\ #\n01.'), max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_text_is_families_or_a_value_error(text: str) -> None:
    try:
        families = parse(text)
    except ValueError:
        return
    assert all(family.samples for family in families)


@pytest.mark.parametrize(
    "text",
    [
        "a{",
        'a{b="c} 1',
        'a{b="c"',
        'a{b="c" d="e"} 1',
        'a{b="1",b="2"} 1',
        "a 1_0",
        "a one",
        "a 1 2 3",
        "1a 1",
        "# TYPE a nonsense\na 1",
        "# TYPE a gauge\n# TYPE a gauge\na 1",
        "a 1\n# TYPE a gauge",
        '{"json": true}',
        "a " + "9" * 100,
    ],
)
def test_what_is_no_metric_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        parse(text)


@pytest.mark.parametrize(
    "line",
    [
        'a{b="' + "\\" * 500_000,
        "a{" + '"' * 1_000_001,
        "a{" + 'b="c",' * 150_000,
        "a" * 1_000_000,
        "a " + " " * 1_000_000 + "x",
        "#" + " " * 1_000_000 + "x",
        "# HELP " + "a" * 1_000_000,
    ],
)
def test_a_hostile_line_costs_no_more_than_its_length(line: str) -> None:
    began_s = time.process_time()
    for text in (line, line + "} 1"):
        with contextlib.suppress(ValueError):
            parse(text)
    # A quadratic reader would need hours for a million characters.
    assert time.process_time() - began_s < 30


def test_samples_are_added_up_over_labels() -> None:
    families = parse(VLLM)

    assert total(families, "vllm:num_requests_running") == 3
    assert total(families, "vllm:generation_tokens_total") == 50
    assert total(families, "vllm:nothing") is None


# --- passing on -----------------------------------------------------------------------------------


def answer(text: str, replica_id: str = "chat.0", model: str = "chat") -> ReplicaMetrics:
    return ReplicaMetrics(model, replica_id, parse(text))


def passed(*answers: ReplicaMetrics) -> dict[str, MetricFamily]:
    return {family.name: family for family in PassedOn().families(answers)}


def test_replicas_share_a_family_and_keep_their_labels() -> None:
    found = passed(answer(VLLM), answer(VLLM, "chat.1"))

    running = found["vllm:num_requests_running"]
    assert running.kind == "gauge"
    assert running.help == "Number of requests in model execution batches."
    assert running.label_names == ("model", "replica", "engine", "model_name")
    assert [(point.labels, point.value) for point in running.points] == [
        (("chat", "chat.0", "0", "chat"), 2.0),
        (("chat", "chat.0", "1", "chat"), 1.0),
        (("chat", "chat.1", "0", "chat"), 2.0),
        (("chat", "chat.1", "1", "chat"), 1.0),
    ]
    assert found["vllm:generation_tokens"].kind == "counter"
    seconds = found["vllm:e2e_seconds"].points[0]
    assert (seconds.buckets, seconds.count, seconds.total) == (((0.5, 1),), 3, 4.5)


def test_labels_of_the_same_name_are_exported() -> None:
    text = 'a{model="x",replica="y",exported_model="z"} 1'

    (family,) = passed(answer(text)).values()

    labels = dict(zip(family.label_names, family.points[0].labels, strict=True))
    assert labels == {
        "model": "chat",
        "replica": "chat.0",
        "exported_exported_model": "x",
        "exported_model": "z",
        "exported_replica": "y",
    }


def test_names_of_our_own_are_dropped_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "# TYPE muai_replica_ready gauge\nmuai_replica_ready 7\n"
        "muai_request_duration_seconds_sum 1\n"
        "# TYPE muai_requests_total counter\nmuai_requests_total 2\nfine 3\n"
    )
    passing = PassedOn()

    for _ in range(3):
        found = [family.name for family in passing.families([answer(text)])]

    assert found == ["fine"]
    assert len([one for one in caplog.messages if "muai_replica_ready" in one]) == 1
    assert len(caplog.messages) == 3


def test_a_name_with_two_types_is_passed_on_with_the_first() -> None:
    found = passed(answer("# TYPE a counter\na 1\n"), answer("a 2\n", "chat.1"))
    assert found["a"].kind == "counter"

    mixed = passed(
        answer("# TYPE b histogram\nb_bucket{le='x'} 1\n".replace("'", '"')),
        answer("# TYPE b gauge\nb 2\n", "chat.1"),
    )
    assert mixed["b"].points == ()


@pytest.mark.parametrize(
    "samples",
    [
        'h_bucket{le="1"} 1',
        'h_bucket{le="1"} 5\nh_bucket{le="+Inf"} 4',
        'h_bucket{le="1"} -1\nh_bucket{le="+Inf"} 4',
        'h_bucket{le="NaN"} 1\nh_bucket{le="+Inf"} 4',
        'h_bucket{le="1"} NaN\nh_bucket{le="+Inf"} 4',
        'h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 1e300',
        "h_count 4\nh_sum 4",
    ],
)
def test_a_broken_histogram_has_no_series(samples: str) -> None:
    assert passed(answer(f"# TYPE h histogram\n{samples}\n"))["h"].points == ()


def test_counters_that_cannot_be_have_no_series() -> None:
    found = passed(answer('# TYPE c_total counter\nc_total{a="1"} -1\nc_total{a="2"} NaN\n'))
    assert found["c"].points == ()


@given(
    st.lists(
        st.tuples(st.sampled_from(["engine", "model", "a"]), label_values, numbers), max_size=4
    )
)
@settings(max_examples=100, deadline=None)
def test_sinks_expose_what_the_official_parser_reads(rows: list[Any]) -> None:
    answers = [
        answer(library_text({name: value}, number), f"chat.{place}")
        for place, (name, value, number) in enumerate(rows)
    ]

    families = PassedOn().families(answers)

    text = "".join(render(family, openmetrics=False) for family in families)
    read = [one for family in text_string_to_metric_families(text) for one in family.samples]
    keys = [(one.name, tuple(sorted(one.labels.items()))) for one in read]
    assert len(set(keys)) == len(keys)
    gauges = [one for one in read if one.name == "a_gauge"]
    assert [one.value for one in gauges] == [number for _, _, number in rows]
    for one, (name, value, _) in zip(gauges, rows, strict=True):
        assert one.labels["exported_model" if name == "model" else name] == value


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is in the package prometheus"
)


@needs_promtool
def test_promtool_reads_what_is_passed_on() -> None:
    text = library_text({"engine": 'a"b\\c\nd'}, 2.5)
    families = PassedOn().families([answer(VLLM), answer(text, "other.0", "other")])

    exposed = "".join(render(family, openmetrics=False) for family in families)
    result = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposed,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    # 3: readable, with remarks on names, which are the engines' own; 1: not readable.
    assert result.returncode in (0, 3), result.stderr
    assert "error while linting" not in result.stderr


def test_summaries_and_untyped_series_become_gauges() -> None:
    text = '# TYPE s summary\ns{quantile="0.5"} 1\ns_sum 2\ns_count 3\nu 4\n'

    found = passed(answer(text))

    assert {name: (one.kind, one.points[0].value) for name, one in found.items()} == {
        "s": ("gauge", 1.0),
        "s_sum": ("gauge", 2.0),
        "s_count": ("gauge", 3.0),
        "u": ("gauge", 4.0),
    }


def test_not_a_number_stays_so_in_a_gauge() -> None:
    assert math.isnan(passed(answer("a NaN"))["a"].points[0].value)


def test_a_family_is_what_its_type_says() -> None:
    (family,) = parse('# TYPE a histogram\na_bucket{le="+Inf"} 1\na_count 1\na_sum 2\n')
    assert isinstance(family, TextFamily)
    assert (family.name, len(family.samples)) == ("a", 3)
