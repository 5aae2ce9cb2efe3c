"""The endpoint: exact text, clear errors, no series that has ended."""

import contextlib
import http.client
import math
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from muai_prometheus import PrometheusSink, server
from muai_prometheus.exposition import Exposition
from muai_prometheus.text import render
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from pydantic import ValidationError

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint
from muai_core.plugin.loading import load_plugins
from muai_core.plugin.metric_sink import SinkError

GOLDEN = Path(__file__).parent / "golden" / "exposition.txt"
Scrape = Callable[..., str]


def gauge(name: str, *points: MetricPoint, labels: Sequence[str] = ()) -> MetricFamily:
    return MetricFamily(
        name=name, kind="gauge", help="Help.", label_names=tuple(labels), points=points
    )


def some_of_each_kind() -> tuple[MetricFamily, ...]:
    return (
        gauge(
            "gpu_memory_used_bytes",
            MetricPoint(("0",), 8589934592.0),
            MetricPoint(("1",), 0.0),
            labels=["gpu_id"],
        ),
        MetricFamily(
            name="muai_requests",
            kind="counter",
            help='With "quotes", a \\ and\na new line.',
            label_names=("model", "code"),
            points=(
                MetricPoint(('a "b"\\\nc', "200"), 12.0),
                MetricPoint(("", "404"), 1.0),
            ),
        ),
        MetricFamily(
            name="muai_request_duration_seconds",
            kind="histogram",
            help="Duration.",
            label_names=("model",),
            points=(MetricPoint(("chat",), buckets=((0.01, 0), (2.5, 3)), count=4, total=61.25),),
        ),
        MetricFamily(name="muai_nothing_yet", kind="counter", help="No series yet."),
    )


def test_the_exposition_is_this_text(sink: PrometheusSink, scrape: Scrape) -> None:
    sink.publish(some_of_each_kind())
    assert scrape() == GOLDEN.read_text(encoding="utf-8")


def test_before_the_first_batch_there_is_only_the_process(scrape: Scrape) -> None:
    assert scrape() == ""
    assert "process_cpu_seconds_total" in scrape(process=True)


def test_a_series_that_is_no_longer_published_ends(sink: PrometheusSink, scrape: Scrape) -> None:
    one, two = MetricPoint(("0",), 1.0), MetricPoint(("1",), 2.0)
    sink.publish([gauge("a", one, two, labels=["gpu_id"]), gauge("b", MetricPoint(()))])
    assert 'a{gpu_id="1"} 2\n' in scrape()
    sink.publish([gauge("a", one, labels=["gpu_id"])])
    text = scrape()
    assert 'a{gpu_id="0"} 1\n' in text
    assert 'gpu_id="1"' not in text
    assert "b" not in {line.split()[0] for line in text.splitlines()}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0,*/*;q=0.1", "application/openmetrics-text"),
    ],
)
def test_the_format_is_the_one_asked_for(
    sink: PrometheusSink, accept: str, content_type: str
) -> None:
    sink.publish(some_of_each_kind())
    request = urllib.request.Request(str(sink.location()), headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        text = response.read().decode()
        assert response.headers["Content-Type"].startswith(content_type)
        assert int(response.headers["Content-Length"]) == len(text.encode())
    parse = parse_openmetrics if "openmetrics" in accept else parse_text
    values = {
        (sample.name, sample.labels.get("code")): sample.value
        for family in parse(text)
        for sample in family.samples
    }
    assert values["muai_requests_total", "200"] == 12.0
    assert values["muai_request_duration_seconds_count", None] == 4.0
    assert not any(name.endswith("_created") for name, _ in values)


any_float = st.floats(allow_nan=True, allow_infinity=True)
# Without carriage returns, which this parser (not Prometheus) takes for the end of a line.
label_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=8)


@given(st.dictionaries(st.tuples(label_text, label_text), any_float, max_size=5), label_text)
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
@pytest.mark.parametrize("kind", ["gauge", "counter"])
def test_values_and_labels_arrive_unchanged(
    accept: str, kind: MetricKind, values: dict[tuple[str, str], float], help_text: str
) -> None:
    if kind == "counter":
        values = {labels: abs(value) for labels, value in values.items() if not math.isnan(value)}
    exposition = Exposition()
    points = tuple(MetricPoint(labels, value) for labels, value in values.items())
    names = ("gpu_id", "kind")
    exposition.publish(
        [
            MetricFamily(
                name="some_joules", kind=kind, help=help_text, label_names=names, points=points
            )
        ]
    )
    (family,) = [one for one in parsed(exposition, accept) if one.name.startswith("some_joules")]
    assert family.type == kind
    found = {(one.labels["gpu_id"], one.labels["kind"]): one.value for one in family.samples}
    assert found.keys() == values.keys()
    for labels, value in values.items():
        assert found[labels] == value or (math.isnan(found[labels]) and math.isnan(value))


def parsed(exposition: Exposition, accept: str) -> list[Metric]:
    text = exposition.render(accept)[0].decode()
    return list((parse_openmetrics if accept else parse_text)(text))


@given(
    st.dictionaries(label_text, st.lists(st.integers(0, 9), min_size=3, max_size=3), max_size=4),
    st.floats(0, 1e9),
)
@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_histograms_arrive_unchanged(
    accept: str, counts: dict[str, list[int]], total: float
) -> None:
    points = [
        MetricPoint(
            (label,),
            buckets=((0.1, steps[0]), (2.5, steps[0] + steps[1])),
            count=sum(steps),
            total=total,
        )
        for label, steps in counts.items()
    ]
    exposition = Exposition()
    exposition.publish(
        [
            MetricFamily(
                name="some_seconds",
                kind="histogram",
                help="Help.",
                label_names=("model",),
                points=tuple(points),
            )
        ]
    )
    (family,) = [one for one in parsed(exposition, accept) if one.name == "some_seconds"]
    found = {
        (
            one.name.removeprefix("some_seconds_"),
            one.labels["model"],
            one.labels.get("le"),
        ): one.value
        for one in family.samples
    }
    expected: dict[tuple[str, str, str | None], float] = {}
    for label, steps in counts.items():
        expected["bucket", label, "0.1"] = steps[0]
        expected["bucket", label, "2.5"] = steps[0] + steps[1]
        expected["bucket", label, "+Inf"] = expected["count", label, None] = sum(steps)
        expected["sum", label, None] = total
    assert found == expected


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_the_text_says_what_the_client_library_would_say(accept: str) -> None:
    """Same samples, types and help as from the official library's own objects."""
    exposition = Exposition()
    exposition.publish(some_of_each_kind())
    registry = CollectorRegistry()
    registry.register(ByTheLibrary(some_of_each_kind()))
    encode, _ = choose_encoder(accept)
    theirs = (parse_openmetrics if accept else parse_text)(encode(registry).decode())
    ours = [one for one in parsed(exposition, accept) if not one.name.startswith("process_")]
    assert ours == list(theirs)


class ByTheLibrary(Collector):
    def __init__(self, families: Sequence[MetricFamily]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        forms = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
        for family in self.families:
            if family.kind == "histogram":
                metric = HistogramMetricFamily(family.name, family.help, labels=family.label_names)
                for point in family.points:
                    buckets = [(repr(bound), float(count)) for bound, count in point.buckets]
                    buckets.append(("+Inf", float(point.count)))
                    metric.add_metric(point.labels, buckets, point.total)
            else:
                metric = forms[family.kind](family.name, family.help, labels=family.label_names)
                for point in family.points:
                    metric.add_metric(point.labels, point.value)
            yield metric


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_a_family_that_did_not_change_is_not_rendered_again(
    accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []

    def noted(family: MetricFamily, *, openmetrics: bool) -> str:
        rendered.append(family.name)
        return render(family, openmetrics=openmetrics)

    monkeypatch.setattr("muai_prometheus.exposition.render", noted)
    exposition = Exposition()

    def scraped(*families: MetricFamily) -> list[str]:
        rendered.clear()
        exposition.publish(families)
        text = exposition.render(accept)[0].decode()
        for family in families:
            assert render(family, openmetrics=bool(accept)) in text
        return [name for name in rendered if not name.startswith("process_")]

    one, two = gauge("a", MetricPoint((), 1.0)), gauge("b", MetricPoint((), 1.0))
    assert scraped(one, two) == ["a", "b"]
    assert scraped(gauge("a", MetricPoint((), 1.0)), two) == []
    assert scraped(gauge("a", MetricPoint((), 2.0)), two) == ["a"]
    assert scraped(two) == []
    assert scraped(one, two) == ["a"]


def test_other_paths_and_methods(open_sink: Callable[..., PrometheusSink]) -> None:
    sink = open_sink(path="/muai/metrics")
    url = str(sink.location())
    assert url.endswith("/muai/metrics")
    with urllib.request.urlopen(url + "?x=1", timeout=20) as response:
        assert response.status == 200
    head = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(head, timeout=20) as response:
        assert response.read() == b""
        assert int(response.headers["Content-Length"]) > 0
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        urllib.request.urlopen(url.removesuffix("/muai/metrics") + "/metrics", timeout=20)
    assert missing.value.read() == b"nothing here; the metrics are at /muai/metrics\n"
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="POST"), timeout=20)


def exchange(sink: PrometheusSink, sent: bytes) -> bytes:
    """What comes back on one connection until the server closes it."""
    address = ("127.0.0.1", int(str(sink.location()).split(":")[2].split("/")[0]))
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", [b"200"]),
        (b"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", [b"200"]),
        (
            b"GET /metrics HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABk\r\n\r\n",
            [b"200"],
        ),
        (b"hello\r\n\r\n", [b"400"]),
        (b"GET /\xff HTTP/1.1\r\n\r\n", [b"400"]),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000, [b"431"]),
        (b"GET /metrics HTTP/1.1\r\n\r\n" * 1000, [b"200"]),
    ],
    ids=["1.0", "close", "upgrade", "garbage", "not-ascii", "endless", "pipelined"],
)
def test_clients_of_all_manners_get_one_answer(
    sink: PrometheusSink, sent: bytes, statuses: list[bytes]
) -> None:
    received = exchange(sink, sent)
    assert [line[9:12] for line in received.splitlines() if line.startswith(b"HTTP/1.1 ")] == (
        statuses
    )


def test_a_connection_is_kept_for_the_next_scrape(sink: PrometheusSink) -> None:
    address = str(sink.location()).removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(address, timeout=20)
    for number in range(3):
        sink.publish([gauge("a", MetricPoint((), number))])
        connection.request("GET", "/metrics")
        kept = connection.sock
        assert f"a {number}\n" in connection.getresponse().read().decode()
        assert connection.sock is kept
    connection.close()


def test_closing_does_not_wait_for_idle_scrapers(open_sink: Callable[..., PrometheusSink]) -> None:
    sink = open_sink()
    address = ("127.0.0.1", int(str(sink.location()).split(":")[2].split("/")[0]))
    with socket.create_connection(address, timeout=20) as idle:
        idle.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
        sink.close()
        with contextlib.suppress(ConnectionResetError):
            while idle.recv(65536):
                pass


def test_a_taken_port_names_its_holder_and_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SinkError) as caught:
            PrometheusSink().open({"port": port})
    text = str(caught.value)
    assert text.startswith(f"port {port} on 127.0.0.1 is in use by ")
    assert f"(pid {os.getpid()})" in text
    assert "; set sinks.prometheus.port to a free port, or stop " in text


def test_a_port_taken_on_all_addresses_is_taken_here_too() -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as holder,
        pytest.raises(SinkError, match="is in use by"),
    ):
        PrometheusSink().open({"port": holder.getsockname()[1]})


def test_an_address_of_another_machine() -> None:
    with pytest.raises(SinkError, match=r"^192\.0\.2\.1 is no address of this machine"):
        PrometheusSink().open({"host": "192.0.2.1", "port": 0})


def test_the_port_is_free_again_after_closing(open_sink: Callable[..., PrometheusSink]) -> None:
    first = open_sink()
    port = int(str(first.location()).split(":")[2].split("/")[0])
    with urllib.request.urlopen(str(first.location()), timeout=20) as response:
        response.read()
    first.close()
    assert first.location() is None
    first.publish([])
    again = open_sink(port=port)
    assert str(again.location()) == f"http://127.0.0.1:{port}/metrics"


def test_ipv6_loopback(open_sink: Callable[..., PrometheusSink]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    sink = open_sink(host="::1")
    assert str(sink.location()).startswith("http://[::1]:")
    with urllib.request.urlopen(str(sink.location()), timeout=20) as response:
        assert response.status == 200


def test_idle_connections_do_not_pile_up(
    sink: PrometheusSink, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ("127.0.0.1", int(str(sink.location()).split(":")[2].split("/")[0]))
    before = threading.active_count()
    idle = [socket.create_connection(address) for _ in range(3 * server.MAX_CONNECTIONS)]
    try:
        refused = idle[-1]
        refused.settimeout(20)
        assert refused.recv(1) == b""
        assert threading.active_count() == before
    finally:
        for connection in idle:
            connection.close()
    sink.publish([gauge("a", MetricPoint(()))])
    for _ in range(1000):
        try:
            assert "a 0\n" in scrape()
            return
        except (OSError, urllib.error.URLError):
            continue
    pytest.fail("no scrape was answered after the idle connections had gone")


def test_a_batch_that_cannot_be_rendered_is_a_500_and_not_the_end(
    sink: PrometheusSink, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    sink.publish([gauge("a", MetricPoint(("\ud800",), 1.0), labels=["gpu_id"])])
    for _ in range(3):
        with pytest.raises(urllib.error.HTTPError, match="500"):
            scrape()
    assert caplog.text.count("cannot render the metrics") == 1
    sink.publish([gauge("a", MetricPoint(()))])
    assert "a 0\n" in scrape()


@pytest.mark.parametrize(
    "options", [{"port": 65536}, {"port": -1}, {"path": "metrics"}, {"host": ""}, {"prot": 1}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PrometheusSink().options_model().model_validate(options)


def test_the_defaults_are_the_documented_ones() -> None:
    defaults = PrometheusSink().options_model()().model_dump()
    assert defaults == {"host": "127.0.0.1", "port": 9090, "path": "/metrics"}


def test_the_plugin_registers_the_sink() -> None:
    plugins = load_plugins({})
    (record,) = [record for record in plugins.records if record.name == "prometheus"]
    assert (record.status, record.registers) == ("ok", (("metric sink", "prometheus"),))
    assert isinstance(plugins.metric_sinks["prometheus"], PrometheusSink)


def test_importing_the_plugin_is_light() -> None:
    heavy = "{'prometheus_client', 'pydantic', 'httptools', 'psutil', 'asyncio'}"
    program = f"import sys, muai_prometheus.hooks; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"
