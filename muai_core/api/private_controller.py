"""A controller of one model in a process of its own, as its owner sees it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from muai_core.planning.wording import one_line
from muai_core.runtime.control_socket import connect

#: -P: a file in the working directory must not shadow a module.
_HOST = (sys.executable, "-P", "-m", "muai_core.api.engine_host")
_ASK_TIMEOUT_S = 10.0
_KILL_S = 10.0
_LOG_TAIL_BYTES = 4000


class ControllerEnded(Exception):
    """The controller is gone; the text holds its last words."""


class _Socket(HTTPConnection):
    def __init__(self, state_dir: Path) -> None:
        super().__init__("localhost", timeout=_ASK_TIMEOUT_S)
        self._state_dir = state_dir

    def connect(self) -> None:
        self.sock = connect(self._state_dir, _ASK_TIMEOUT_S)


class PrivateController:
    """Started at once; `stop` leaves no process and no file. Safe to use from several threads."""

    def __init__(self, config: Mapping[str, Any], stop_s: float) -> None:
        """`config` is that of `muai run`; a stop takes `stop_s` at most before it kills.

        Raises OSError when the process cannot be started.
        """
        self._stop_s = stop_s
        self._owner_pid = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="muai-engine-"))
        self._log = self._folder / "controller.log"
        file = self._folder / "muai.json"
        try:
            file.write_text(json.dumps(config), encoding="utf-8")
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*_HOST, str(file), str(self._folder / "state")],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C on the terminal is the program's affair.
                    start_new_session=True,
                )
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def status(self) -> dict[str, Any] | None:
        """As `muai status --json` prints it; None while it does not answer yet.

        Raises ControllerEnded.
        """
        connection = _Socket(self._folder / "state")
        try:
            connection.request("GET", "/v1/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, HTTPException, ValueError):
            if self._process.poll() is not None:
                raise ControllerEnded(self.last_words()) from None
            return None
        finally:
            connection.close()
        return found

    def last_words(self) -> str:
        """The end of what it told."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace").strip()
        except OSError as error:
            return one_line(f"no log: {error}")

    def stop(self) -> None:
        """Let requests in flight finish, end the engine, and wait for it. May be repeated.

        Does nothing in a process that was forked from the owner.
        """
        if os.getpid() != self._owner_pid:
            return
        for _ in range(2):
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self._stop_s)
        if self._process.poll() is None:
            self._process.kill()  # the engine's leader dies with it
            self._process.wait(_KILL_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)
