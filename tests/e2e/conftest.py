"""A real controller as a child process: `muai run` on free ports, with its own state directory."""

import contextlib
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

import psutil
import pytest
import yaml

DEADLINE_S = 60.0


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; fails, naming `what`, when none came in time."""
    give_up_at = time.monotonic() + deadline_s
    while time.monotonic() < give_up_at:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningMuai:
    """One `muai run`. Its processes are found by the state directory's instance id."""

    def __init__(self, config: dict[str, Any], directory: Path, *arguments: str) -> None:
        self.state_dir = directory / "state"
        self.file = directory / "muai.yaml"
        config.setdefault("gateway", {}).setdefault("port", free_port())
        self.port: int = config["gateway"]["port"]
        self.file.write_text(yaml.safe_dump(config))
        self.log = directory / "controller.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*MUAI, "run", str(self.file), "--state-dir", str(self.state_dir), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "MUAI_TRACEBACK": "1", "NO_COLOR": "1"},
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and decoded JSON body of a GET on the gateway."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def status(self) -> dict[str, Any]:
        """What `muai status --json` prints."""
        done = muai("status", "--json", "--state-dir", str(self.state_dir))
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def wait_ready(self, *models: str, deadline_s: float = DEADLINE_S) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"muai run ended:\n{self.text()}"
            with contextlib.suppress(OSError, ValueError):
                _, health = self.get("/health")
                return all(health["ready"].get(model) for model in models)
            return False

        try:
            wait_until(f"{models} ready", ready, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def engines(self) -> list[psutil.Process]:
        """Every live process that carries this controller's marker."""
        instance = self.state_dir / "instance"
        if not instance.exists():
            return []
        marker = f"{instance.read_text().strip()}/"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MUAI_REPLICA", "").startswith(marker):
                    found.append(process)
        return found

    def engine_of(self, replica_id: str) -> psutil.Process:
        """The leader of a replica's process group."""

        def leader() -> psutil.Process | None:
            for process in self.engines():
                with contextlib.suppress(psutil.Error):
                    name = process.environ()["MUAI_REPLICA"].split("/", 1)[1].rpartition("/")[0]
                    if name == replica_id and os.getpgid(process.pid) == process.pid:
                        return process
            return None

        process: psutil.Process = wait_until(f"a process of {replica_id}", leader)
        return process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_end(self, deadline_s: float = DEADLINE_S) -> int:
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"muai run did not end:\n{self.text()}") from None

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for engine in self.engines():
            with contextlib.suppress(psutil.Error):
                engine.kill()


MUAI = [sys.executable, "-m", "muai_core.cli.main"]


def muai(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one `muai` command to its end."""
    return subprocess.run([*MUAI, *arguments], capture_output=True, text=True, timeout=60)


Start = Callable[..., RunningMuai]


@contextlib.contextmanager
def controllers(directory: Path) -> Iterator[Start]:
    """A starter of controllers; whatever is left running at the end is ended."""
    started: list[RunningMuai] = []

    def start(config: dict[str, Any], *arguments: str) -> RunningMuai:
        started.append(RunningMuai(config, directory, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.clean_up()


@pytest.fixture
def run_muai(tmp_path: Path) -> Iterator[Start]:
    with controllers(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with controllers(tmp_path_factory.mktemp("muai")) as start:
        yield start


@pytest.fixture(scope="session")
def unused_port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def run_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return muai


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_until


def simulated(replicas: int = 1, **options: Any) -> dict[str, Any]:
    """A config with one simulated model `chat` on four simulated GPUs."""
    return {
        "models": {
            "chat": {
                "source": "simulated:chat",
                "engine": "simulated",
                "replicas": replicas,
                "engine_options": {"memory_gib": 10, "load_s": 0, **options},
            }
        },
        "devices": {"simulated": {"gpus": 4}, "observe_interval_s": 0.5},
        "recovery": {"backoff_initial_s": 0.2, "drain_s": 5, "stop_grace_s": 2},
        "sinks": {},
    }


@pytest.fixture
def simulated_config() -> Callable[..., dict[str, Any]]:
    return simulated
