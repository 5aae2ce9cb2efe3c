"""A whole rehearsal: controller, simulated GPUs, crashing engines, and a client that is served."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

CONFIG = """
devices:
  sources: [simulated]
  observe_interval_s: 0.2
  simulated: {{gpus: 2, state_file: {state_file}}}
recovery: {{backoff_initial_s: 0.2, stop_grace_s: 1}}
gateway: {{port: {port}}}
models:
  m:
    source: simulated:m
    engine: simulated
    replicas: 2
    engine_options:
      load_s: 0.1
      first_token_s: 0
      tokens_per_second: 1000
      memory_gib: 20
      faults: {{exit_after_requests: 3, exit_status: 0, only_epochs: [1]}}
"""


@pytest.fixture
def rehearsal(tmp_path: Path, free_port: int) -> Iterator[subprocess.Popen[bytes]]:
    config = tmp_path / "muai.yaml"
    config.write_text(CONFIG.format(port=free_port, state_file=tmp_path / "state.yaml"))
    environment = {**os.environ, "MUAI_STATE_DIR": str(tmp_path / "state")}
    muai = Path(sys.executable).with_name("muai")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [muai, "run", config], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def test_crashes_are_survived_and_device_faults_show(
    rehearsal: subprocess.Popen[bytes],
    free_port: int,
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    log = tmp_path / "log"

    def health() -> dict[str, Any]:
        assert rehearsal.poll() is None, log.read_text()
        try:
            state: dict[str, Any] = httpx.get(f"{url}/health", timeout=30).json()
        except httpx.TransportError:
            return {}
        return state

    eventually(lambda: health().get("ready", {}).get("m"), "the model is ready")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)
    texts = {
        client.completions.create(model="m", prompt="hello", max_tokens=4).choices[0].text
        for _ in range(12)
    }
    assert len(texts) == 1
    eventually(lambda: log.read_text().count("(epoch 2)") == 2, "both replicas start again")

    (tmp_path / "state.yaml").write_text("devices: {1: {health: failed, health_reason: XID 79}}")
    seen = eventually(
        lambda: [d for d in health().get("devices", []) if d["health"] == "failed"],
        "the device fault shows",
    )
    assert [(device["index"], device["health_reason"]) for device in seen] == [(1, "XID 79")]

    engines = psutil.Process(rehearsal.pid).children(recursive=True)
    assert len(engines) == 2
    rehearsal.send_signal(signal.SIGINT)
    assert rehearsal.wait(30) == 0
    assert not any(engine.is_running() for engine in engines)
    assert "exited with status 0" in log.read_text()
