"""Devices under suspicion: an engine's words put a device to the test, and the test decides."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

CONFIG = """
devices:
  sources: [simulated]
  observe_interval_s: 0.2
  simulated: {{gpus: 2, state_file: {state_file}}}
  health: {{self_test: idle, self_test_interval_s: 1, self_test_retry_s: 1}}
recovery: {{backoff_initial_s: 0.2, stop_grace_s: 1}}
gateway: {{port: {port}}}
models:
  m:
    source: simulated:m
    engine: simulated
    engine_options:
      load_s: 0.1
      memory_gib: 20
      faults: {{start_error: "RuntimeError: CUDA error: uncorrectable ECC error encountered",
               first_epoch_only: true}}
"""


@pytest.fixture
def rehearsal(tmp_path: Path, free_port: int) -> Iterator[subprocess.Popen[bytes]]:
    state_file = tmp_path / "state.yaml"
    state_file.write_text("devices: {0: {self_test: inconclusive}, 1: {self_test: fail}}")
    config = tmp_path / "muai.yaml"
    config.write_text(CONFIG.format(port=free_port, state_file=state_file))
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


def test_the_words_of_an_engine_and_a_self_test_decide_on_a_device(
    rehearsal: subprocess.Popen[bytes],
    free_port: int,
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"

    def device(index: int) -> dict[str, Any]:
        assert rehearsal.poll() is None, log.read_text()
        try:
            health = httpx.get(f"http://127.0.0.1:{free_port}/health", timeout=30).json()
        except httpx.TransportError:
            return {"health": None}
        (found,) = [found for found in health["devices"] if found["index"] == index]
        return dict(found)

    broken = eventually(
        lambda: seen if (seen := device(1))["health"] == "failed" else None,
        "the idle device is tested and found broken",
    )
    assert "self-test: a computation had a wrong result" in broken["health_reason"]

    accused = eventually(
        lambda: seen if (seen := device(0))["health"] == "suspect" else None,
        "the device is suspect after what the engine said",
    )
    assert "uncorrectable ECC error encountered" in accused["health_reason"]

    (tmp_path / "state.yaml").write_text("devices: {1: {self_test: fail}}")
    eventually(
        lambda: device(0)["health"] == "healthy" and device(1)["health"] == "failed",
        "a passed self-test clears what the engine said",
    )

    rehearsal.send_signal(signal.SIGINT)
    assert rehearsal.wait(30) == 0
