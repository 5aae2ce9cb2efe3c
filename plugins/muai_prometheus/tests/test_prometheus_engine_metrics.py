"""An engine's own metrics through `muai run` to Prometheus; its replicas' ranks share the CPU."""

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muai_core.testing.running_muai import RunningMuai, controllers, free_port, wait_until

METRICS = """\
# HELP told:running Requests under way.
# TYPE told:running gauge
told:running{engine="0",model="inside"} 2
told:running{engine="1",model="inside"} 3
# TYPE told:waiting gauge
told:waiting 1
# HELP told:tokens_total Tokens.
# TYPE told:tokens_total counter
told:tokens_total 7
# TYPE told:seconds histogram
told:seconds_bucket{le="1.0"} 1
told:seconds_bucket{le="+Inf"} 2
told:seconds_sum 3.5
told:seconds_count 2
# TYPE told:ranks gauge
told:ranks RANKS
# HELP process_resident_memory_bytes Resident memory size in bytes.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 12345
# TYPE muai_replica_ready gauge
muai_replica_ready 99
"""

#: Serves nothing but health and metrics. Arguments: port, ranks, a file with the metrics.
SERVER = """\
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = open(sys.argv[3]).read().replace("RANKS", sys.argv[2])

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = {
            "/health": "{}",
            "/v1/models": '{"object": "list", "data": [{"id": "chat", "object": "model"}]}',
            "/metrics": METRICS,
        }.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or "")))
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""

PLUGIN = """\
from pathlib import Path

from muai_core import Engine, LaunchSpec, ProgressMetrics, Suitability, hookimpl

HERE = Path(__file__).parent


class Telling(Engine):
    name = "telling"
    platforms = ("cpu",)
    capabilities = ("tensor_parallel", "pipeline_parallel")

    def suits(self, deployment):
        return Suitability(True, "tells")

    def memory(self, deployment, model):
        return 2**20

    def launch(self, request):
        ranks = sum(one.uuid == request.devices[0].uuid for one in request.devices)
        arguments = (str(request.port), str(ranks), str(HERE / "metrics.txt"))
        return LaunchSpec(
            argv=(request.python, str(HERE / "server.py"), *arguments),
            host=request.host,
            port=request.port,
            served_model_name=request.deployment.name,
            progress_path="/metrics",
            progress_metrics=ProgressMetrics(
                requests_running="told:running",
                requests_waiting="told:waiting",
                tokens_generated="told:tokens_total",
            ),
            metrics_path="/metrics",
        )


@hookimpl
def muai_engines():
    return [Telling()]
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningMuai]:
    folder: Path = tmp_path_factory.mktemp("telling")
    (folder / "telling.py").write_text(PLUGIN)
    (folder / "server.py").write_text(SERVER)
    (folder / "metrics.txt").write_text(METRICS)
    (folder / "weights.gguf").write_bytes(b"GGUF")
    config: dict[str, Any] = {
        "plugins": ["telling.py"],
        "models": {
            "chat": {
                "source": "weights.gguf",
                "engine": "telling",
                "replicas": 2,
                "tensor_parallel_size": 2,
                "pipeline_parallel_size": 2,
            }
        },
        "devices": {"sources": ["cpu"], "observe_interval_s": 1},
        "sinks": {"prometheus": {"port": port}},
    }
    with controllers(folder) as start:
        one = start(config)
        one.wait_ready("chat")
        yield one


@pytest.fixture(scope="module")
def text(running: RunningMuai, port: int) -> str:
    """A scrape that has what both replicas tell."""

    def scrape() -> str | None:
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as response:
            body: str = response.read().decode()
        return body if body.count("told:waiting{") == 2 else None

    return str(wait_until("metrics of both replicas", scrape))


def samples(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_series_come_under_their_own_names_for_each_replica(text: str) -> None:
    assert samples(text, "told:running") == {
        (
            ("engine", engine),
            ("exported_model", "inside"),
            ("model", "chat"),
            ("replica", replica),
        ): value
        for replica in ("chat.0", "chat.1")
        for engine, value in (("0", 2.0), ("1", 3.0))
    }
    assert len(samples(text, "told:seconds_bucket")) == 4
    assert "# HELP told:tokens_total Tokens.\n# TYPE told:tokens_total counter\n" in text
    assert text.count("# TYPE told:seconds histogram") == 1


def test_all_ranks_were_launched_on_the_one_cpu(text: str, running: RunningMuai) -> None:
    assert list(samples(text, "told:ranks").values()) == [4.0, 4.0]
    stages = {
        one["id"]: [len(stage) for stage in one["devices"]]
        for one in running.status()["models"]["chat"]["replicas"]
    }
    assert stages == {"chat.0": [2, 2], "chat.1": [2, 2]}


def test_progress_is_read_from_the_same_text(text: str) -> None:
    for name, value in (
        ("muai_replica_requests_running", 5.0),
        ("muai_replica_requests_waiting", 1.0),
        ("muai_replica_tokens_generated_total", 7.0),
    ):
        assert list(samples(text, name).values()) == [value, value]


def test_what_is_ours_stays_ours(text: str, running: RunningMuai) -> None:
    assert list(samples(text, "muai_replica_ready").values()) == [1.0, 1.0]
    assert running.text().count("metric muai_replica_ready of an engine is not passed on") == 1
    memory = samples(text, "process_resident_memory_bytes")
    assert sorted(memory.values())[:2] == [12345.0, 12345.0]
    assert len(memory) == 3  # the controller's own is there, too


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the package prometheus")
def test_promtool_can_read_all_of_it(text: str) -> None:
    run = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # 3: it can be read; the remarks are on the engine's own names.
    assert run.returncode == 3, run.stderr
    remarks = (run.stdout + run.stderr).splitlines()
    assert [line for line in remarks if not line.startswith("told:")] == []
