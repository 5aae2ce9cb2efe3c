"""A probe process as the source sees it: pipes, identity, end. Nothing here ever waits for it."""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping

from muai_nvml.wire import Command, FrameReader, Report, Setup, frame

_PIECE_BYTES = 262144
_ERROR_LINES = 5
_LINE_CHARACTERS = 300


class ProbeEnded(Exception):
    """The process is gone or talks nonsense; the text says which."""


class ProbeProcess:
    """Started with its `Setup` on the way. The caller's thread must live as long as the process,
    which dies with the thread that created it (`PR_SET_PDEATHSIG`)."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], setup: Setup) -> None:
        """Raises OSError when it cannot be started."""
        self._process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pid = self._process.pid
        self.setup = setup
        self.input_fd = self._process.stdin.fileno()
        self.output_fd = self._process.stdout.fileno()
        self.error_fd = self._process.stderr.fileno()
        for fd in (self.input_fd, self.output_fd, self.error_fd):
            os.set_blocking(fd, False)
        self._reports = FrameReader(Report)
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self.send(setup)

    def send(self, command: Command) -> bool:
        """False when the pipe is full or closed: the process is stuck or gone, which will show."""
        try:
            return os.write(self.input_fd, frame(command)) > 0
        except (BlockingIOError, BrokenPipeError):
            return False

    def read(self) -> list[Report]:
        """What it has said since the last time. Raises ProbeEnded."""
        try:
            piece = os.read(self.output_fd, _PIECE_BYTES)
        except BlockingIOError:
            return []
        if not piece:
            self.read_errors()
            raise ProbeEnded(f"the probe process ended{self.last_words}")
        try:
            return self._reports.feed(piece)
        except ValueError as error:
            raise ProbeEnded(f"the probe process sent {error}") from error

    def read_errors(self) -> bool:
        """Keeps the last lines of its standard error; False at the end of it."""
        try:
            piece = os.read(self.error_fd, _PIECE_BYTES)
        except BlockingIOError:
            return True
        lines = piece.decode("utf-8", errors="replace").splitlines()
        self._errors.extend(line[:_LINE_CHARACTERS] for line in lines if line.strip())
        return bool(piece)

    @property
    def last_words(self) -> str:
        """ ": " and the end of its standard error, or nothing."""
        return f": {' | '.join(self._errors)}" if self._errors else ""

    def kill(self) -> None:
        """Idempotent, and safe from a reused pid: it has not been reaped."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    def close_pipes(self) -> None:
        """After this nothing can be read or sent."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def reap(self) -> bool:
        """Whether it is gone; it leaves no zombie then."""
        return self._process.poll() is not None
