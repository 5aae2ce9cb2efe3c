"""What a real Prometheus server and a real OTLP receiver get of fake GPUs, through `muai run`."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_on_fake import Running, free_port, wait_until

PACKAGE = "the Debian package prometheus is not installed"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=PACKAGE)
OTEL_TESTS = Path(__file__).parents[3] / "muai_otel" / "tests"
MIB = 2**20
GPUS = range(8)
RESERVED = 600 * MIB
TOTAL = 143_771 * MIB
#: Contract → what the fake was given, of a GPU.
CONTRACT: dict[str, Callable[[int], float]] = {
    "gpu_memory_used_bytes": lambda gpu: (1_000 + gpu) * MIB,
    "gpu_memory_available_bytes": lambda gpu: TOTAL - RESERVED - (1_000 + gpu) * MIB,
    "gpu_utilization_percent": lambda gpu: 10 + gpu,
    "gpu_temperature_celsius": lambda gpu: 40 + gpu,
    "gpu_health_status": lambda gpu: 1,
}

Query = Callable[[str], dict[str, float]]


@pytest.fixture(scope="module")
def collector() -> Iterator[Any]:
    """An OTLP receiver over gRPC; None where OpenTelemetry is not installed."""
    if not OTEL_TESTS.is_dir():
        pytest.skip("needs the tests of the distribution muai-otel")
    pytest.importorskip("muai_otel", reason="needs the distribution muai-otel")
    pytest.importorskip("grpc", reason="needs grpcio for an OTLP receiver")
    sys.path.insert(0, str(OTEL_TESTS))
    from otlp_collectors import GrpcCollector

    receiver = GrpcCollector()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def running(start_for_module: Callable[..., Running], collector: Any) -> Running:
    otel = {"endpoint": collector.endpoint, "export_interval_s": 1, "timeout_s": 5}
    one = start_for_module(sinks={"otel": otel})
    with one.fake.changes():
        for gpu in GPUS:
            one.fake.set(
                gpu,
                memory_total_bytes=TOTAL,
                memory_reserved_bytes=RESERVED,
                memory_used_bytes=(1_000 + gpu) * MIB,
                utilization_percent=10 + gpu,
                temperature_celsius=40 + gpu,
                power_mw=100_000 + 1_000 * gpu,
            )
    return one


@pytest.fixture(scope="module")
def query(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Runs PromQL on a server that scrapes the running controller: GPU → value."""
    if shutil.which("prometheus") is None:
        pytest.skip(PACKAGE)
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    target = urllib.parse.urlsplit(running.metrics).netloc
    config = folder / "prometheus.yml"
    config.write_text(
        "scrape_configs: [{job_name: muai, scrape_interval: 1s, "
        f"static_configs: [{{targets: ['{target}']}}]}}]"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(promql: str) -> dict[str, float]:
        assert server.poll() is None, (folder / "log").read_text()
        asked = urllib.parse.urlencode({"query": promql})
        try:
            url = f"http://127.0.0.1:{port}/api/v1/query?{asked}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                result = json.load(answer)["data"]["result"]
        except (urllib.error.HTTPError, OSError):
            return {}
        return {row["metric"].get("gpu_id", ""): float(row["value"][1]) for row in result}

    yield ask
    server.terminate()
    server.wait()


@pytest.mark.parametrize("metric", CONTRACT)
def test_promql_returns_the_contract(query: Query, metric: str) -> None:
    given = {str(gpu): float(CONTRACT[metric](gpu)) for gpu in GPUS}
    wait_until(f"{metric} of eight GPUs", lambda: query(metric) == given)


@needs_promtool
def test_promtool_has_no_complaint(running: Running) -> None:
    wait_until("a measured scrape", lambda: "gpu_energy_joules_total" in running.scrape())
    with urllib.request.urlopen(running.metrics, timeout=30) as answer:
        text = answer.read()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_opentelemetry_gets_the_same_values_at_the_same_time(
    running: Running, collector: Any
) -> None:
    def received(name: str, **wanted: str) -> dict[str, float]:
        """GPU → value, of the series with the wanted attributes."""
        return {
            dict(attributes)["hw.id"]: getattr(point, point.WhichOneof("value"))
            for attributes, point in collector.points(name).items()
            if dict(attributes)["hw.id"].startswith("GPU-") and wanted.items() <= set(attributes)
        }

    def given(value: Callable[[int], float]) -> dict[str, float]:
        return {running.fake.uuid(gpu): value(gpu) for gpu in GPUS}

    used = given(CONTRACT["gpu_memory_used_bytes"])
    wait_until("memory", lambda: received("hw.gpu.memory.usage") == used)
    busy = given(lambda gpu: (10 + gpu) / 100)
    wait_until(
        "utilization",
        lambda: received("hw.gpu.utilization", **{"hw.gpu.task": "general"}) == pytest.approx(busy),
    )
    healthy = given(lambda gpu: 1)
    wait_until("status", lambda: received("hw.status", **{"hw.state": "ok"}) == healthy)
    assert running.scrape()["gpu_memory_used_bytes"] == {
        f'gpu_id="{gpu}"': (1_000 + gpu) * MIB for gpu in GPUS
    }


def test_a_lost_gpu_ends_its_series_but_not_its_health(running: Running, query: Query) -> None:
    everyone = {str(gpu) for gpu in GPUS}
    ending = [name for name in CONTRACT if name != "gpu_health_status"]
    ending += ["gpu_power_watts", "gpu_memory_total_bytes", "gpu_pcie_link_width"]
    for name in ending:
        wait_until(f"{name} of all", lambda name=name: set(query(name)) == everyone)
    running.fake.lose(7)
    for name in ending:
        wait_until(f"{name} ended", lambda name=name: set(query(name)) == everyone - {"7"})
    assert query("gpu_health_status") == {gpu: float(gpu != "7") for gpu in everyone}
    assert query("gpu_health_state == 1 and gpu_health_state{state='failed'}") == {"7": 1.0}
    assert set(query("gpu_info")) == everyone

    running.fake.heal(7)
    running.muai("reinstate", running.fake.uuid(7))
    for name in CONTRACT:
        given = {str(gpu): float(CONTRACT[name](gpu)) for gpu in GPUS}
        wait_until(f"{name} again", lambda name=name, given=given: query(name) == given)
