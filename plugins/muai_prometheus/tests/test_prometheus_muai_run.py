"""`muai run` on simulated GPUs, as Prometheus sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muai_core.telemetry.catalogue import METRICS
from muai_core.telemetry.device_catalogue import DEVICE_METRICS

pytest.importorskip("muai_simulated", reason="needs the distribution muai-simulated")

DEADLINE_S = 60.0
CONTRACT = {
    "gpu_memory_used_bytes",
    "gpu_memory_available_bytes",
    "gpu_utilization_percent",
    "gpu_temperature_celsius",
    "gpu_health_status",
}
CONFIG = """
models:
  chat: {source: "simulated:chat", engine: simulated, replicas: 2}
devices:
  sources: [simulated]
  observe_interval_s: 1
  simulated: {gpus: 2, profile: H100-80GB}
sinks:
  prometheus: {}
"""

Series = dict[str, dict[frozenset[tuple[str, str]], float]]


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen in {DEADLINE_S:g} s"
        time.sleep(0.05)
    return result


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Running:
    """One `muai run` with its two ports."""

    def __init__(self, folder: Path) -> None:
        self.gateway = f"http://127.0.0.1:{free_port()}"
        self.metrics_port = free_port()
        self.log = folder / "muai.log"
        config = folder / "muai.yaml"
        config.write_text(CONFIG, encoding="utf-8")
        arguments = ["-m", "muai_core.cli.main", "run", str(config)]
        arguments += ["--state-dir", str(folder / "state")]
        arguments += ["--set", f"gateway.port={self.gateway.rpartition(':')[2]}"]
        arguments += ["--set", f"sinks.prometheus.port={self.metrics_port}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=log,
                env=os.environ | {"MUAI_TRACEBACK": "1"},
            )

    def scrape(self) -> Series:
        """All samples: name, then labels, then value; empty while nothing answers."""
        assert self.process.poll() is None, self.log.read_text()
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                text = response.read().decode()
        except (urllib.error.URLError, OSError):
            return {}
        found: Series = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def ask(self, model: str) -> int:
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
        request = urllib.request.Request(
            f"{self.gateway}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    one = Running(tmp_path_factory.mktemp("muai"))
    try:
        wait_for("a ready model", lambda: one.scrape() and ready_replicas(one.scrape()) == 2.0)
        yield one
    finally:
        one.stop()


def ready_replicas(series: Series) -> float:
    labels = frozenset({("model", "chat"), ("state", "ready")})
    return series.get("muai_model_replicas", {}).get(labels, 0.0)


def test_every_gpu_has_the_five_gauges(running: Running) -> None:
    series = wait_for(
        "the gauges", lambda: (found := running.scrape()).get("gpu_temperature_celsius") and found
    )
    gpus = {frozenset({("gpu_id", "0")}), frozenset({("gpu_id", "1")})}
    for name in ("memory_used_bytes", "memory_available_bytes", "utilization_percent"):
        assert set(series[f"gpu_{name}"]) == gpus
    assert set(series["gpu_temperature_celsius"]) == gpus
    assert series["gpu_health_status"] == dict.fromkeys(gpus, 1.0)
    total = 80 * 2**30
    for gpu in gpus:
        used = series["gpu_memory_used_bytes"][gpu]
        available = series["gpu_memory_available_bytes"][gpu]
        assert 0 <= used <= total
        assert used + available == pytest.approx(total, rel=0.02)


def request_counts(series: Series) -> dict[tuple[str, str], float]:
    rows = series.get("muai_requests_total", {})
    return {(dict(labels)["model"], dict(labels)["code"]): count for labels, count in rows.items()}


def test_requests_are_counted_and_invented_names_make_no_series(running: Running) -> None:
    before = request_counts(running.scrape())
    assert [running.ask("chat") for _ in range(3)] == [200, 200, 200]
    assert [running.ask(f"invented-{number}") for number in range(3)] == [404, 404, 404]
    expected = {key: before.get(key, 0.0) + 3.0 for key in (("chat", "200"), ("", "404"))}
    wait_for("the counts", lambda: request_counts(running.scrape()) == expected)


def test_what_runs_is_measured(running: Running) -> None:
    # Failures have no series before the first, and a simulated GPU measures little.
    not_always = {
        "muai_device_source_failures_total",
        "muai_device_measurements_rejected_total",
        "muai_device_health_transitions_total",
        "muai_device_self_tests_total",
        "muai_host_fault",
        "muai_policy_failures_total",
        "muai_request_faults_total",
        "muai_sink_requests_dropped_total",
        *(metric.exposed_name for metric in DEVICE_METRICS if metric.name not in CONTRACT),
    }
    expected = {metric.exposed_name for metric in METRICS} - not_always
    assert running.ask("chat") == 200

    def missing() -> set[str]:
        found = running.scrape()
        return expected - set(found) - {name.removesuffix("_count") for name in found}

    wait_for("a series of every metric", lambda: missing() == set())
    starts = running.scrape()["muai_replica_start_duration_seconds_count"]
    assert starts == {frozenset({("model", "chat")}): 2.0}
