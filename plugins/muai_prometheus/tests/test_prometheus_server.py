"""What Prometheus itself makes of the endpoint: promtool, and a real server that scrapes it."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from muai_prometheus import PrometheusSink
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from muai_core.model.metrics import MetricFamily

DEADLINE_S = 60.0
PACKAGE = "needs the Debian package prometheus (apt-get install prometheus)"
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
GIB = 2**30
#: What a Prometheus server of version 2.42 sends.
ACCEPT_OF_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=PACKAGE)
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason=PACKAGE)

Query = Callable[[str], dict[str, float]]


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {DEADLINE_S:g} s"
        time.sleep(0.05)
    return result


@pytest.fixture
def everything(
    whole_catalogue: Sequence[MetricFamily], eight_gpus: Sequence[MetricFamily]
) -> tuple[MetricFamily, ...]:
    """Every metric of MuAI; those of devices with the series of eight GPUs."""
    of_gpus = {family.name for family in eight_gpus}
    return (*(one for one in whole_catalogue if one.name not in of_gpus), *eight_gpus)


@needs_promtool
def test_promtool_has_no_complaint(
    sink: PrometheusSink, scrape: Callable[..., str], everything: Sequence[MetricFamily]
) -> None:
    sink.publish(everything)
    text = scrape(process=True)
    run = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    for family in everything:
        suffix = "_total" if family.kind == "counter" else ""
        assert f"# TYPE {family.name}{suffix} {family.kind}\n" in text


def test_the_official_parser_takes_all_of_it_as_openmetrics(
    sink: PrometheusSink, scrape: Callable[..., str], everything: Sequence[MetricFamily]
) -> None:
    sink.publish(everything)
    text = scrape({"Accept": ACCEPT_OF_PROMETHEUS}, process=True)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for family in everything:
        found = families[family.name]
        assert (found.type, found.documentation) == (family.kind, family.help)
        assert found.samples


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def scraped() -> Iterator[PrometheusSink]:
    """The sink that the Prometheus server of this module scrapes."""
    sink = PrometheusSink()
    sink.open({"port": 0})
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def query(scraped: PrometheusSink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Asks a Prometheus server that scrapes the sink once a second."""
    tmp_path = tmp_path_factory.mktemp("prometheus")
    config = tmp_path / "prometheus.yml"
    target = urllib.parse.urlsplit(str(scraped.location())).netloc
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [{"job_name": "muai", "static_configs": [{"targets": [target]}]}],
            }
        ),
        encoding="utf-8",
    )
    port = free_port()
    log = (tmp_path / "prometheus.log").open("w")
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=log,
        stderr=log,
    )

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.read()

    def is_ready() -> bool:
        assert server.poll() is None, (tmp_path / "prometheus.log").read_text()
        try:
            ask("/-/ready")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def run(promql: str) -> dict[str, float]:
        answer = json.loads(ask("/api/v1/query?" + urllib.parse.urlencode({"query": promql})))
        assert answer["status"] == "success", answer
        return {
            row["metric"].get("gpu_id", ""): float(row["value"][1])
            for row in answer["data"]["result"]
        }

    try:
        wait_for("the start of Prometheus", is_ready)
        yield run
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@needs_prometheus
def test_a_real_server_scrapes_the_gauges_and_promql_returns_them(
    scraped: PrometheusSink, query: Query, everything: Sequence[MetricFamily]
) -> None:
    scraped.publish(everything)
    indices = [str(index) for index in range(8)]
    unwell = "gpu_health_status * on (gpu_id) group_left (uuid) gpu_info{uuid='GPU-7'} == 0"
    expected = {
        "up": {"": 1.0},
        "gpu_memory_used_bytes": {i: (int(i) + 1) * GIB + 1.0 for i in indices},
        "gpu_memory_available_bytes": {i: (79 - int(i)) * GIB - 1.0 for i in indices},
        "gpu_utilization_percent": {i: int(i) * 12.5 for i in indices},
        "gpu_temperature_celsius": {i: 40.25 + int(i) for i in indices},
        "gpu_health_status": {i: float(i != "7") for i in indices},
        unwell: {"7": 0.0},
    }
    # What an earlier test published is there until the next scrape.
    for promql, values in expected.items():
        wait_for(f"{promql} is {values}", lambda p=promql, v=values: query(p) == v)


@needs_prometheus
def test_a_lost_gpu_goes_stale_at_the_next_scrape(
    scraped: PrometheusSink, query: Query, eight_gpus: Sequence[MetricFamily]
) -> None:
    scraped.publish(eight_gpus)
    wait_for("a scrape of all GPUs", lambda: len(query("gpu_temperature_celsius")) == 8)
    scraped.publish([family for family in eight_gpus if family.name == "gpu_health_status"])
    gone, kept = "absent(gpu_temperature_celsius)", "count(gpu_health_status) == 8"
    wait_for("the end of the temperatures alone", lambda: query(f"{gone} and on () ({kept})"))


@needs_prometheus
def test_the_queries_in_the_docs_run(
    scraped: PrometheusSink, query: Query, everything: Sequence[MetricFamily]
) -> None:
    scraped.publish(everything)
    wait_for("a scrape", lambda: query("gpu_health_status"))
    blocks = re.findall(r"```promql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    queries = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    assert len(queries) >= 5
    for promql in queries:
        query(promql)
