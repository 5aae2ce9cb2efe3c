"""Real worker processes, started as the supervisor starts them."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from muai_simulated.devices import SimulatedDevices
from muai_simulated.engine import SimulatedEngine

from muai_core.model.deployment import Deployment
from muai_core.model.device import DeviceReading
from muai_core.plugin.engine import LaunchRequest

DEADLINE_S = 30.0
FAST: dict[str, Any] = {"load_s": 0, "first_token_s": 0, "tokens_per_second": 1000}


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails after a deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        if value := condition():
            return value
        time.sleep(0.01)
    pytest.fail(f"timed out: {what}")


class Replica:
    """One running worker with its log."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S
        )

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S
        )

    def health(self) -> httpx.Response | None:
        try:
            return httpx.get(f"{self.url}/health", timeout=DEADLINE_S)
        except httpx.TransportError:
            return None

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        health = self.health()
        return health is not None and health.status_code == 200

    def progress(self) -> dict[str, int]:
        counters: dict[str, int] = httpx.get(f"{self.url}/progress", timeout=DEADLINE_S).json()
        return counters

    def ask(self, prompt: str = "hello", max_tokens: int = 8, **more: Any) -> str:
        answer = self.client.completions.create(
            model="m", prompt=prompt, max_tokens=max_tokens, **more
        )
        return answer.choices[0].text


@pytest.fixture(name="eventually")
def _eventually() -> Callable[[Callable[[], Any], str], Any]:
    return eventually


@pytest.fixture
def holdings_directory(tmp_path: Path) -> Path:
    return tmp_path / "holdings"


@pytest.fixture
def devices(holdings_directory: Path) -> SimulatedDevices:
    source = SimulatedDevices(holdings_directory)
    source.open({"gpus": 8})
    return source


@pytest.fixture
def reading_of(devices: SimulatedDevices) -> Callable[[int], DeviceReading]:
    return lambda index: devices.observe(0.0).readings[index]


@pytest.fixture
def free_port() -> int:
    return _free_port()


@pytest.fixture
def two_free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


@pytest.fixture
def start(
    devices: SimulatedDevices, holdings_directory: Path, tmp_path: Path
) -> Iterator[Callable[..., Replica]]:
    """Start a worker: start(indices, epoch=, replica_id=, ready=, **engine_options)."""
    engine = SimulatedEngine(holdings_directory)
    replicas: list[Replica] = []

    def start_one(
        indices: tuple[int, ...] = (0,),
        *,
        epoch: int = 1,
        replica_id: str = "m.0",
        ready: bool = True,
        max_model_len: int | None = None,
        **engine_options: Any,
    ) -> Replica:
        chosen = tuple(devices.observe(0.0).devices[index] for index in indices)
        deployment = Deployment(
            name="m",
            source="simulated:test",
            engine="simulated",
            platforms=engine.platforms,
            tensor_parallel_size=len(chosen),
            max_model_len=max_model_len,
            engine_options=FAST | engine_options,
        )
        port = _free_port()
        spec = engine.launch(
            LaunchRequest(
                deployment=deployment,
                replica_id=replica_id,
                epoch=epoch,
                devices=chosen,
                stages=(tuple(device.uuid for device in chosen),),
                python=sys.executable,
                host="127.0.0.1",
                port=port,
            )
        )
        log = tmp_path / f"log-{len(replicas)}"
        with log.open("wb") as stream:
            process = subprocess.Popen(spec.argv, stdout=stream, stderr=subprocess.STDOUT)
        replica = Replica(process, f"http://127.0.0.1:{port}", log)
        replicas.append(replica)
        if ready:
            eventually(replica.is_ready, "the engine gets ready")
        return replica

    yield start_one
    for replica in replicas:
        if replica.process.poll() is None:
            replica.process.send_signal(signal.SIGKILL)
        replica.process.wait(DEADLINE_S)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
