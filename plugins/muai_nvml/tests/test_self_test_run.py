"""A controller on fake NVML and fake CUDA: a suspect GPU is tested, and the test decides."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_nvml import FakeNvml

sys.path.insert(0, str(Path(__file__).parent / "fake_cuda"))

from fake_cuda_build import build

DEADLINE_S = 60.0
CONFIG = """
devices:
  sources: [nvml, simulated]
  observe_interval_s: 0.3
  simulated: {{gpus: 1}}
  nvml: {{xid_actions: {{31: suspect}}}}
  health: {{self_test_retry_s: 1, self_test_interval_s: 1, clean_readings: 1000}}
gateway: {{port: {port}}}
models:
  m: {{source: "simulated:m", engine: simulated, engine_options: {{memory_gib: 1}}}}
"""


class Run:
    """A running controller whose NVIDIA GPUs are fakes."""

    def __init__(self, directory: Path, nvml: FakeNvml) -> None:
        self.nvml = nvml
        self.cuda = build(directory)
        self.log = directory / "log"
        self.port = _free_port()
        config = directory / "muai.yaml"
        config.write_text(CONFIG.format(port=self.port))
        env = nvml.env()
        env["LD_LIBRARY_PATH"] = f"{self.cuda}:{env['LD_LIBRARY_PATH']}"
        env["MUAI_STATE_DIR"] = str(directory / "state")
        muai = Path(sys.executable).with_name("muai")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [muai, "run", config], stdout=log, stderr=subprocess.STDOUT, env=env
            )

    def faults(self, *lines: str) -> None:
        """What goes wrong in CUDA from now on."""
        fresh = self.cuda / "faults.new"
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self.cuda / "faults")

    def health(self) -> dict[str, dict[str, Any]]:
        """UUID → what /health says of the GPU; empty before it answers."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=DEADLINE_S).json()
        except httpx.TransportError:
            return {}
        return {device["uuid"]: device for device in answer["devices"]}

    def until(self, gpu: int, health: str, reason: str = "") -> None:
        """Waits until a GPU's health is so, for a reason with these words."""
        give_up_at = time.monotonic() + DEADLINE_S
        uuid, seen = self.nvml.uuid(gpu), None
        while time.monotonic() < give_up_at:
            seen = self.health().get(uuid)
            if seen and seen["health"] == health and reason in (seen["health_reason"] or ""):
                return
            time.sleep(0.05)
        pytest.fail(f"GPU {gpu} is {seen}, not {health} ({reason})\n{self.log.read_text()}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def running(make_fake_nvml: Callable[..., FakeNvml], tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, make_fake_nvml(gpus=2))
    yield run
    if run.process.poll() is None:
        run.process.kill()
        run.process.wait()


def test_a_suspect_gpu_is_tested_and_the_test_decides(running: Run) -> None:
    running.until(0, "healthy")
    running.faults("fail cuInit 803")
    running.nvml.xid(0, 31)
    running.until(0, "suspect", "XID 31")
    # Nothing is proven as long as the driver does not match its libraries.
    running.until(1, "healthy")
    running.faults()
    running.until(0, "healthy")

    running.faults("flip thread 7")
    running.nvml.xid(1, 31)
    running.until(1, "failed", "self-test: 1 of 1048576 threads computed wrongly")
    running.until(0, "healthy")

    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(DEADLINE_S) == 0
