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

SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
IGNORE_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP

#: Starts a grandchild with `subprocess` and prints its pid; the grandchild ignores SIGTERM.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
     "print('ready', flush=True); time.sleep(600)"],
    {options}
)
print("child", child.pid, flush=True)
{then}
"""


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

    async def child(self) -> int:
        """The pid of a FAMILY's grandchild, once it ignores SIGTERM and the log names it."""
        await self.log_says("ready\n")
        await until(lambda: bool(self.pids_in_log("child")))
        [pid] = self.pids_in_log("child")
        return pid

    def pids_in_log(self, word: str) -> list[int]:
        whole_rows = self.log.read_text().rpartition("\n")[0].splitlines()
        rows = [row.split() for row in whole_rows]
        return [int(row[1]) for row in rows if row and row[0] == word]


async def until(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Waits for a condition; a failure names it."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def until_asleep(pid: int) -> None:
    """Waits until the process does nothing any more."""
    await until(lambda: (process := read_process(pid)) is not None and "sleeping" in process.words)


def is_alive(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and process.alive
