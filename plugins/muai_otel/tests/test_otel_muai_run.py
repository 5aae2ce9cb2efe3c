"""`muai run` with both sinks at once, as an OpenTelemetry collector and Prometheus see it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otlp_collectors import COLLECTORS, Collector, attributes_of, wait_for

pytest.importorskip("muai_simulated", reason="needs the distribution muai-simulated")
pytest.importorskip("muai_prometheus", reason="needs the distribution muai-prometheus")

RUN_DEADLINE_S = 60.0
CONFIG = """
plugins: [listening_engine.py]
models:
  chat: {{source: "simulated:chat", engine: listening, replicas: 1}}
devices:
  sources: [simulated]
  observe_interval_s: 1
  simulated: {{gpus: 2, profile: H100-80GB}}
gateway: {{port: {gateway}}}
sinks:
  prometheus: {{port: {prometheus}}}
  otel: {{protocol: {protocol}, endpoint: "{endpoint}", export_interval_s: 1, timeout_s: 2}}
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN = "00f067aa0ba902b7"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Running:
    """One `muai run`, and the collector that it sends to."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self.folder = folder
        self.collector: Collector = COLLECTORS[protocol]()
        self.gateway, self.prometheus = free_port(), free_port()
        shutil.copy(Path(__file__).with_name("listening_engine.py"), folder)
        config = folder / "muai.yaml"
        config.write_text(
            CONFIG.format(
                gateway=self.gateway,
                prometheus=self.prometheus,
                protocol=protocol,
                endpoint=self.collector.endpoint,
            )
        )
        self.log = folder / "muai.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.muai("run", str(config)), stdout=log, stderr=log, env=self.environment
            )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"MUAI_TRACEBACK": "1"}

    def muai(self, command: str, *arguments: str) -> list[str]:
        state = ["--state-dir", str(self.folder / "state")]
        return [sys.executable, "-m", "muai_core.cli.main", command, *arguments, *state]

    def ask(self, **headers: str) -> int:
        body = {
            "model": "chat",
            "max_tokens": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "Hi"}],
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                response.read()
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def scrape(self) -> str:
        try:
            url = f"http://127.0.0.1:{self.prometheus}/metrics"
            with urllib.request.urlopen(url, timeout=20) as response:
                text: str = response.read().decode()
                return text
        except OSError:
            return ""

    def sink_status(self) -> dict[str, Any]:
        told = subprocess.run(
            self.muai("status", "--json"), capture_output=True, check=True, env=self.environment
        )
        (status,) = [one for one in json.loads(told.stdout)["sinks"] if one["name"] == "otel"]
        return dict(status)

    def lines_of_otel(self) -> list[str]:
        lines = [line for line in self.log.read_text().splitlines() if "otel" in line]
        assert f"otel: {self.collector.endpoint}" in lines[0]
        return lines[1:]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(RUN_DEADLINE_S)
        finally:
            self.process.kill()
            self.collector.stop()


@pytest.fixture(scope="module", params=["grpc", "http"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    one = Running(tmp_path_factory.mktemp("muai"), request.param)
    try:
        wait_for("a ready model", lambda: alive(one) and one.ask() == 200, RUN_DEADLINE_S)
        yield one
    finally:
        one.stop()


def alive(running: Running) -> bool:
    assert running.process.poll() is None, running.log.read_text()
    return True


def test_metrics_reach_the_collector_and_prometheus(running: Running) -> None:
    collector = running.collector
    usage = wait_for("device metrics", lambda: collector.points("hw.gpu.memory.usage"))
    names = {dict(attributes)["hw.name"] for attributes in usage}
    assert names == {"GPU 0", "GPU 1"}
    assert all("H100" in dict(attributes)["hw.model"] for attributes in usage)
    assert len({dict(attributes)["hw.id"] for attributes in usage}) == 2
    wait_for("request metrics", lambda: counted(collector, "gen_ai.server.request.duration"))
    wait_for("first tokens", lambda: counted(collector, "gen_ai.server.time_to_first_token"))
    ready = frozenset({("model", "chat"), ("state", "ready")})
    wait_for("the ready replica", lambda: points(running, "muai.model_replicas")[ready] == 1)
    scraped = running.scrape()
    assert 'gpu_memory_used_bytes{gpu_id="0"}' in scraped
    assert 'muai_model_replicas{model="chat",state="ready"} 1' in scraped


def counted(collector: Collector, name: str) -> bool:
    """Whether the histogram of the model has counted something."""
    found = collector.points(name)
    assert {dict(attributes)["gen_ai.request.model"] for attributes in found} <= {"chat"}
    return any(point.count for point in found.values())


def points(running: Running, name: str) -> dict[frozenset[tuple[str, Any]], float]:
    found = running.collector.points(name)
    return {key: getattr(point, point.WhichOneof("value")) for key, point in found.items()}


def test_a_request_continues_its_clients_trace_into_the_engine(running: Running) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=opaque"}
    assert running.ask(**headers) == 200
    (span,) = wait_for(
        "the span",
        lambda: [one for one in running.collector.spans() if one.trace_id.hex() == TRACE],
    )
    assert span.name == "chat chat"
    assert span.parent_span_id.hex() == CLIENT_SPAN
    assert span.trace_state == "vendor=opaque"
    attributes = attributes_of(span)
    assert attributes["muai.engine"] == "listening"
    assert attributes["muai.replica"].startswith("chat")
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "chat"
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert attributes["gen_ai.usage.input_tokens"] > 0
    assert attributes["http.response.status_code"] == 200
    took_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert 0 <= attributes["muai.queue_s"] <= attributes["muai.first_token_s"] <= took_s
    assert [event.name for event in span.events] == ["first_token"]

    seen = [json.loads(line) for line in (running.folder / "headers.jsonl").open()]
    (engine,) = [one for one in seen if TRACE in one.get("traceparent", "")]
    assert engine["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert engine["tracestate"] == "vendor=opaque"


def test_a_client_that_does_not_sample_leaves_no_span(running: Running) -> None:
    unsampled, sampled = "1" * 32, "2" * 32
    assert running.ask(traceparent=f"00-{unsampled}-{CLIENT_SPAN}-00") == 200
    assert running.ask(traceparent=f"00-{sampled}-{CLIENT_SPAN}-01") == 200
    assert running.ask() == 200
    traces = wait_for("the later spans", lambda: traces_after(running, sampled))
    assert unsampled not in traces
    seen = [json.loads(line) for line in (running.folder / "headers.jsonl").open()]
    assert any(one["traceparent"].startswith(f"00-{unsampled}-") for one in seen)


def traces_after(running: Running, trace: str) -> list[str]:
    """All traces once that one and another after it have arrived."""
    traces = [span.trace_id.hex() for span in running.collector.spans()]
    return traces if trace in traces[:-1] else []


def test_requests_are_served_while_the_collector_is_away(running: Running) -> None:
    assert running.lines_of_otel() == []
    assert running.sink_status()["state"] == "working"
    gone = running.collector
    gone.stop()
    assert running.ask(traceparent=f"00-{'3' * 32}-{CLIENT_SPAN}-01") == 200
    wait_for("the line about the outage", running.lines_of_otel)
    status = wait_for("the failing sink", lambda: failing(running))
    assert gone.endpoint in status["last_failure"]
    assert running.ask() == 200
    assert 'muai_sink_batches_dropped_total{sink="otel"}' in running.scrape()

    running.collector = COLLECTORS[gone.protocol](gone.port)
    wait_for("metrics again", lambda: running.collector.points("hw.gpu.memory.usage"))
    wait_for(
        "the span of the outage",
        lambda: "3" * 32 in [span.trace_id.hex() for span in running.collector.spans()],
    )
    wait_for("the working sink", lambda: running.sink_status()["state"] == "working")
    away, back = wait_for(
        "both lines", lambda: len(running.lines_of_otel()) > 1 and running.lines_of_otel()
    )
    assert f"otel cannot deliver to {gone.endpoint}" in away
    assert f"otel delivers to {gone.endpoint} again" in back


def failing(running: Running) -> dict[str, Any] | None:
    status = running.sink_status()
    return status if status["state"] == "failing" else None


def test_a_hanging_collector_does_not_hold_up_the_end(running: Running) -> None:
    """The last test: it stops the controller."""
    asked = len(running.collector.paths)
    running.collector.answer = lambda signal: running.process.wait(RUN_DEADLINE_S) and None
    wait_for("a request that hangs", lambda: len(running.collector.paths) > asked)
    assert running.ask() == 200
    assert running.stop() == 0
    log = running.log.read_text()
    assert not [word for word in ("Traceback", "left behind", "fork", "GOAWAY") if word in log]
