"""`muai run` on fake GPUs, as a user, a scraper and an operator see it."""

import contextlib
import json
import re
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from fake_nvml import FakeNvml

from muai_core.testing.running_muai import RunningMuai, free_port, muai, wait_until

__all__ = ["ON_CPU", "ON_GPUS", "Running", "free_port", "wait_until"]

ON_CPU = "simulated"
ON_GPUS = "simulated_on_cuda"

Series = dict[str, dict[str, float]]


class Running(RunningMuai):
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
        port = free_port()
        self.metrics = f"http://127.0.0.1:{port}/metrics"
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
            "recovery": {"backoff_initial_s": 0.2, "stop_grace_s": 2},
            "sinks": {"prometheus": {"port": port}, **(sinks or {})},
        }
        super().__init__(config, folder, env=fake.env())

    # What an operator sees.

    def lines(self, word: str) -> list[str]:
        """What was told with this word in it, without the times of day."""
        return [line[10:] for line in self.text().splitlines() if word in line]

    def muai(self, *arguments: str) -> str:
        """What a command for this controller prints. Fails when it fails."""
        env = {**self.env, "COLUMNS": "300"}
        done = muai(*arguments, "--state-dir", str(self.state_dir), env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def gpus(self) -> dict[int, dict[str, Any]]:
        """The GPUs of `muai status --json`, by index."""
        return {one["index"]: one for one in self.status()["devices"] if one["kind"] == "gpu"}

    def replica(self) -> dict[str, Any]:
        """The one replica of `chat`."""
        (replica,) = self.status()["models"]["chat"]["replicas"]
        return dict(replica)

    # What clients see.

    def healths(self) -> dict[int, dict[str, Any]]:
        """The GPUs of the gateway's /health, by index."""
        _, health = self.get("/health")
        return {one["index"]: one for one in health["devices"] if one["kind"] == "gpu"}

    def ask(self) -> int:
        """The status of a chat completion."""
        body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
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

    def is_ready(self, *models: str) -> bool:
        """Whether the model serves and every GPU has been seen."""
        if not super().is_ready(*models):
            return False
        _, health = self.get("/health")
        return bool(health["devices"])

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
        """Its exit status, after it was told to end."""
        self.signal(signal.SIGTERM)
        return self.wait_end()
