"""A real controller as a child process: `muai run` on a free port, with its own state directory."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from muai_core.runtime.process_table import MARKER_VARIABLE

DEADLINE_S = 60.0
_POLL_S = 0.02
#: What a controller gets to stop its replicas before it is killed.
_END_S = 20.0
_MUAI = (sys.executable, "-m", "muai_core.cli.main")


def wait_until(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `condition`. Raises AssertionError, naming `what`, without one."""
    give_up_at_s = time.monotonic() + deadline_s
    while time.monotonic() < give_up_at_s:
        value = condition()
        if value:
            return value
        time.sleep(_POLL_S)
    raise AssertionError(f"not within {deadline_s:g} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def muai(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one `muai` command to its end."""
    return subprocess.run(
        [*_MUAI, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=env,
        check=False,
    )


class RunningMuai:
    """One `muai run`. Its processes are found by the state directory's instance id."""

    def __init__(
        self,
        config: dict[str, Any],
        directory: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`env` replaces the environment of this process; a gateway port is chosen without one."""
        self.state_dir = directory / "state"
        self.file = directory / "muai.yaml"
        self.log = directory / "controller.log"
        config.setdefault("gateway", {}).setdefault("port", free_port())
        self.port: int = config["gateway"]["port"]
        self.env = {**(os.environ if env is None else env), "MUAI_TRACEBACK": "1", "NO_COLOR": "1"}
        directory.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump(config), encoding="utf-8")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_MUAI, "run", str(self.file), "--state-dir", str(self.state_dir), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
            )

    # What an operator sees.

    def text(self) -> str:
        """All that it has told."""
        return self.log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """What `muai status --json` prints. Raises AssertionError when the command fails."""
        done = muai("status", "--json", "--state-dir", str(self.state_dir), env=self.env)
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    # What clients see.

    @property
    def url(self) -> str:
        """Of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, Any]:
        """Status and decoded JSON body of a GET on the gateway. Raises OSError without one."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_ready(self, *models: str) -> bool:
        """Whether all these models serve."""
        with contextlib.suppress(OSError, ValueError):
            _, health = self.get("/health")
            return all(health["ready"].get(model) for model in models)
        return False

    # Its life.

    def wait_ready(self, *models: str, deadline_s: float = DEADLINE_S) -> None:
        """Raises AssertionError, with all that was told, when they do not get ready."""

        def ready() -> bool:
            assert self.process.poll() is None, "muai run ended"
            return self.is_ready(*models)

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
                if process.environ().get(MARKER_VARIABLE, "").startswith(marker):
                    found.append(process)
        return found

    def engine_of(self, replica_id: str) -> psutil.Process:
        """The leader of a replica's process group."""

        def leader() -> psutil.Process | None:
            for process in self.engines():
                with contextlib.suppress(psutil.Error):
                    marker = process.environ()[MARKER_VARIABLE]
                    name = marker.split("/", 1)[1].rpartition("/")[0]
                    if name == replica_id and os.getpgid(process.pid) == process.pid:
                        return process
            return None

        process: psutil.Process = wait_until(f"a process of {replica_id}", leader)
        return process

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_end(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit status. Raises AssertionError when it does not end."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"muai run did not end:\n{self.text()}") from None

    def clean_up(self) -> None:
        """Ends it and all its processes, politely at first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All live processes that belong to it, to be ended at last."""
        return self.engines()


Start = Callable[..., RunningMuai]


@contextlib.contextmanager
def controllers(directory: Path) -> Iterator[Start]:
    """start(config, *arguments): a controller; whatever is left running at the end is ended."""
    started: list[RunningMuai] = []

    def start(config: dict[str, Any], *arguments: str) -> RunningMuai:
        started.append(RunningMuai(config, directory, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            running.clean_up()
