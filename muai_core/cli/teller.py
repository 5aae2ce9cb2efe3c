"""Lines on standard error from a thread of its own, so that nobody who does not read (a paused
terminal, a full pipe) can stop the controller."""

import contextlib
import logging
import os
import queue
import sys
import threading
from datetime import datetime

import click

_COLORS = {"good": "green", "bad": "red"}
_STDERR = 2
#: More than this waits for nobody: what comes then is dropped and counted.
_LIMIT_LINES = 5000
#: What a reader gets to take the last lines when the controller ends.
_CLOSE_TIMEOUT_S = 1.0


class Teller:
    """`tell` may be called from any thread and never blocks. Close it at the end."""

    def __init__(self, quiet: bool = False) -> None:
        """`quiet` leaves only what is bad."""
        self._quiet = quiet
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._colored = terminal and not os.environ.get("NO_COLOR")
        self._lines: queue.Queue[str | None] = queue.Queue(_LIMIT_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="muai-teller", daemon=True)
        self._thread.start()

    def tell(self, severity: str, line: str) -> None:
        """Severities: info, good, bad."""
        if self._quiet and severity != "bad":
            return
        stamp = click.style(datetime.now().astimezone().strftime("%H:%M:%S"), dim=True)
        self.put(f"{stamp}  {click.style(line, fg=_COLORS.get(severity))}")

    def put(self, text: str) -> None:
        """A line as it is."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait a moment until everything is written."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_CLOSE_TIMEOUT_S)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (text := self._lines.get()) is not None:
            self._write(text)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                self._write(f"({dropped} lines are missing here: nobody read)")

    def _write(self, text: str) -> None:
        text = text if self._colored else click.unstyle(text)
        rest = f"{text}\n".encode(errors="replace")
        # Past Python's buffer, whose lock, held here, would abort the interpreter at its exit.
        # Nobody listens any more: no reason to stop serving.
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(_STDERR, rest) :]


class TellerLog(logging.Handler):
    """Log records through a teller."""

    def __init__(self, teller: Teller) -> None:
        super().__init__()
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self._teller.put(self.format(record))
