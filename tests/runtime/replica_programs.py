"""Real engine processes: small Python programs that the tests write."""

import asyncio
import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.process_table import read_process

DEADLINE_S = 60.0
ENV = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


class Programs:
    """Writes programs and starts them as replicas; whatever is left is killed after the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "logs" / "replica.log"
        self.started: list[ReplicaProcess] = []

    def write(self, source: str, name: str = "program.py") -> list[str]:
        path = self.directory / name
        path.write_text(textwrap.dedent(source))
        return [sys.executable, str(path)]

    def spawn(self, argv: list[str], **options: object) -> ReplicaProcess:
        settings = {"env": ENV, "cwd": None, "log_path": self.log, "marker": self.marker, **options}
        process = ReplicaProcess.spawn(argv, **settings)
        self.started.append(process)
        return process

    def start(self, source: str, **options: object) -> ReplicaProcess:
        return self.spawn(self.write(source), **options)

    @property
    def marker(self) -> str:
        return f"{self.directory.name}-{os.getpid()}/chat-0/{len(self.started) + 1}"

    async def log_says(self, text: str) -> None:
        await until(lambda: self.log.exists() and text in self.log.read_text())

    def pids_in_log(self, word: str) -> list[int]:
        rows = [row.split() for row in self.log.read_text().splitlines()]
        return [int(row[1]) for row in rows if row and row[0] == word]


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Waits for a condition; a failure names it."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and process.alive
