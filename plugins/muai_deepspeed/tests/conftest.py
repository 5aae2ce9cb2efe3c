"""Real ranks for the tests: T x P worker processes, started as the launcher starts them."""

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

# As the worker does, before torch starts its threads: tests share the machine with others.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
from muai_torch.testing import save_random_model
from openai import OpenAI

DEADLINE_S = 120
"""Everything a rank does here takes seconds; on a busy machine a minute."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Ranks:
    """All ranks of one replica, and the address of rank 0."""

    def __init__(self, log: Path, folder: Path, shards: int, stages: int, *more: str) -> None:
        port = free_port()
        self.url, self.log = f"http://127.0.0.1:{port}", log
        world, self.master_port = shards * stages, free_port()
        command = [sys.executable, "-P", "-m", "muai_deepspeed.worker", "--model", str(folder)]
        command += ["--served-model-name", "tiny", "--port", str(port), "--dtype", "float32"]
        command += ["--tensor-parallel-size", str(shards), "--pipeline-parallel-size", str(stages)]
        command += ["--world-size", str(world), "--master-port", str(self.master_port)]
        command += ["--kv-cache-bytes", str(2**26), "--num-threads", "1", *more]
        with log.open("ab") as out:
            self.processes = [
                subprocess.Popen([*command, "--rank", str(rank)], stdout=out, stderr=out)
                for rank in range(world)
            ]

    def wait_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            ended = [process.poll() for process in self.processes]
            assert ended == [None] * len(ended), self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/health"):
                    return
            except (urllib.error.HTTPError, OSError):
                time.sleep(0.05)
        raise AssertionError(f"not ready in {DEADLINE_S} s:\n{self.log.read_text()}")

    def wait_ended(self, timeout_s: float = DEADLINE_S) -> list[int]:
        """The exit statuses of all ranks."""
        deadline = time.monotonic() + timeout_s
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def stop(self) -> list[int]:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        return self.wait_ended()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def complete(self, prompt: list[int], count: int, **more: Any) -> list[int]:
        """The generated token ids; greedy, to the last token, unless told otherwise."""
        extra = {"ignore_eos": True, "return_token_ids": True}
        answer = self.client().completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=count,
            temperature=more.pop("temperature", 0),
            extra_body=extra,
            **more,
        )
        ids: list[int] = answer.choices[0].model_dump()["token_ids"]
        return ids


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer random Llama in a Hugging Face folder; it hardly ever ends by itself."""
    return save_random_model(tmp_path_factory.mktemp("tiny-llama"), num_hidden_layers=4)


def _starter(folder: Path) -> Iterator[Callable[..., Ranks]]:
    started: list[Ranks] = []

    def start(model: Path, shards: int, stages: int, *more: str) -> Ranks:
        log = folder / f"ranks-{len(started)}.log"
        started.append(Ranks(log, model, shards, stages, *more))
        return started[-1]

    yield start
    for ranks in started:
        ranks.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    """Starts ranks that end with the test."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def module_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ranks]]:
    """Starts ranks that end with the module."""
    yield from _starter(tmp_path_factory.mktemp("ranks"))
