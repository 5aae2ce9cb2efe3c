"""What a short-lived process prints, kept in memory and never more than so much of it."""

import asyncio
import os
from pathlib import Path
from types import TracebackType

_CHUNK_BYTES = 64 * 1024
_LIMIT_BYTES = 1024 * 1024


class _Stream:
    """The reading end of a pipe, read on the event loop as text comes."""

    def __init__(self, limit_bytes: int, flooded: asyncio.Event) -> None:
        self.content = bytearray()
        self._limit_bytes = limit_bytes
        self._flooded = flooded
        self._loop = asyncio.get_running_loop()
        self._fd, self.write_fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self.read)

    def read(self) -> bool:
        """Take what is there; False when there is no more for now, or for good."""
        try:
            chunk = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self.content += chunk
        if len(self.content) > self._limit_bytes:
            self._flooded.set()
        if not chunk or self._flooded.is_set():
            self._loop.remove_reader(self._fd)
            return False
        return True

    def text(self) -> str:
        """All that was printed so far, at most the limit."""
        while self.read():
            pass
        return self.content[: self._limit_bytes].decode("utf-8", errors="replace")

    def close_writer(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        self.close_writer()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class CapturedOutput:
    """Two pipes, for stdout and stderr. Make it on the event loop; raises OSError.

    Once one of them has brought more than `limit_bytes`, `flooded` is set and no more is read: the
    process then blocks in its next write, until it is killed.
    """

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.flooded = asyncio.Event()
        self._stdout = _Stream(limit_bytes, self.flooded)
        try:
            self._stderr = _Stream(limit_bytes, self.flooded)
        except OSError:
            self._stdout.close()
            raise

    @property
    def stdout_fd(self) -> int:
        return self._stdout.write_fd

    @property
    def stderr_path(self) -> Path:
        """Opening this path opens the pipe."""
        return Path(f"/proc/self/fd/{self._stderr.write_fd}")

    def close_writers(self) -> None:
        """Call it once the process has them."""
        self._stdout.close_writer()
        self._stderr.close_writer()

    def stdout(self) -> str:
        return self._stdout.text()

    def stderr(self) -> str:
        return self._stderr.text()

    def __enter__(self) -> "CapturedOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stdout.close()
        self._stderr.close()
