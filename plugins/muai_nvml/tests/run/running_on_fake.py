"""`muai run` on fake GPUs, as a user, a scraper and an operator see it."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from fake_nvml import FakeNvml

DEADLINE_S = 60.0
MUAI = [sys.executable, "-m", "muai_core.cli.main"]
ON_CPU = "simulated"
ON_GPUS = "simulated_on_cuda"

Series = dict[str, dict[str, float]]


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`; fails, naming `what`, when none came in time."""
    give_up_at_s = time.monotonic() + deadline_s
    while time.monotonic() < give_up_at_s:
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


class Running:
    """One `muai run` with one model `chat` on the GPUs of a fake driver."""

    def __init__(
        self,
        fake: FakeNvml,
        folder: Path,
        *,
        engine: str = ON_CPU,
        interval_s: float = 0.5,
        nvml: dict[str, Any] | None = None,
        sinks: dict[str, Any] | None = None,
    ) -> None:
        self.fake = fake
        self.env = fake.env() | {"MUAI_TRACEBACK": "1", "NO_COLOR": "1"}
        self.state_dir = folder / "state"
        self.gateway = f"http://127.0.0.1:{free_port()}"
        self.metrics = f"http://127.0.0.1:{free_port()}/metrics"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("simulated_on_cuda.py"), folder)
        config = {
            "plugins": ["simulated_on_cuda.py"],
            "models": {
                "chat": {
                    "source": "simulated:chat",
                    "engine": engine,
                    "engine_options": {"memory_gib": 10, "load_s": 0},
                }
            },
            "devices": {
                "sources": ["nvml", "cpu"],
                "observe_interval_s": interval_s,
                "nvml": nvml or {},
                "health": {"self_test": "off"},
            },
            "gateway": {"port": _port(self.gateway)},
            "recovery": {"backoff_initial_s": 0.2, "stop_grace_s": 2},
            "sinks": {"prometheus": {"port": _port(self.metrics)}, **(sinks or {})},
        }
        file = folder / "muai.yaml"
        file.write_text(yaml.safe_dump(config))
        self.log = folder / "controller.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*MUAI, "run", str(file), "--state-dir", str(self.state_dir)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
            )

    # What an operator sees.

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self, word: str) -> list[str]:
        """What was told with this word in it, without the times of day."""
        return [line[10:] for line in self.text().splitlines() if word in line]

    def muai(self, *arguments: str) -> str:
        """What a command for this controller prints. Fails when it fails."""
        done = subprocess.run(
            [*MUAI, *arguments, "--state-dir", str(self.state_dir)],
            env=self.env | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def gpus(self) -> dict[int, dict[str, Any]]:
        """The GPUs of `muai status --json`, by index."""
        status = json.loads(self.muai("status", "--json"))
        return {one["index"]: one for one in status["devices"] if one["kind"] == "gpu"}

    def replica(self) -> dict[str, Any]:
        """The one replica of `chat`."""
        status = json.loads(self.muai("status", "--json"))
        (replica,) = status["models"]["chat"]["replicas"]
        return dict(replica)

    # What clients see.

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.gateway + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def healths(self) -> dict[int, dict[str, Any]]:
        """The GPUs of the gateway's /health, by index."""
        _, health = self.get("/health")
        return {one["index"]: one for one in health["devices"] if one["kind"] == "gpu"}

    def ask(self) -> int:
        """The status of a chat completion."""
        body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
        request = urllib.request.Request(
            f"{self.gateway}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def scrape(self) -> Series:
        """Metric → what stands in its braces → value."""
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            text = answer.read().decode()
        found: Series = {}
        for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            found.setdefault(name, {})[labels] = float(value)
        return found

    # Its life.

    def wait_ready(self) -> None:
        """Until the model serves and every GPU has been seen."""

        def ready() -> bool:
            assert self.process.poll() is None, f"muai run ended:\n{self.text()}"
            with contextlib.suppress(OSError, ValueError):
                _, health = self.get("/health")
                return bool(health["ready"].get("chat")) and bool(health["devices"])
            return False

        try:
            wait_until("chat ready", ready)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def processes(self) -> list[psutil.Process]:
        """Every live process that belongs to it: the controller, probes, engines; also those that
        its death has left to init. The fake's state file, which is its own, tells them."""
        mark, found = str(self.fake.path), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                seen = process.environ().get("FAKE_NVML_STATE") == mark
                if seen and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def probes(self) -> list[int]:
        """The process ids of its probes."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "muai_nvml.probe" in process.cmdline():
                    found.append(process.pid)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _port(url: str) -> int:
    return int(re.findall(r":(\d+)", url)[0])
