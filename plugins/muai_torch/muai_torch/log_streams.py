"""stdout and stderr of a worker: a full disk costs its log, and never a request."""

import contextlib
import io
import os
import sys
from typing import Any


class _Forgiving(io.FileIO):
    """Writes what there is room for; the rest is lost."""

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        with contextlib.suppress(OSError):
            while written := super().write(left):
                left = left[written:]
        return size


def forgive_full_disk() -> None:
    """Once, before anything is logged: libraries print, and a print that fails ends a load.

    Child processes and what C libraries write are not affected; nor is their failing.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        try:
            os.fstat(descriptor)
        except OSError:
            continue  # it was closed: Python has no such stream, and nobody misses it
        raw = _Forgiving(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(
            raw, encoding="utf-8", errors="backslashreplace", write_through=True
        )
        setattr(sys, name, stream)


def end_process(status: int) -> None:
    """Ends it at once, whatever its other threads compute or wait for."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(status)
