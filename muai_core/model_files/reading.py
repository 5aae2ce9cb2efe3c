"""Opens the files of a model: regular files only, never blocking, each header parsed once.

Every function here raises ModelError, and nothing else, whatever the file is.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from muai_core.model.architecture import ModelError

Found = TypeVar("Found")

#: Headers kept in memory: a model of a trillion parameters has a few hundred files.
CACHED_FILES = 1024
_READ_BYTES = 2**20


class OpenFile:
    """One file that is open for reading, and how long it is."""

    def __init__(self, path: Path, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size_bytes = size_bytes

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from there on; fewer only where the file ends."""
        pieces = []
        while count > 0:
            piece = os.pread(self._descriptor, min(count, 64 * _READ_BYTES), offset)
            if not piece:
                break
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def whole(self, limit_bytes: int) -> bytes:
        """All of it. Raises ModelError when that is more than `limit_bytes`."""
        if self.size_bytes > limit_bytes:
            raise ModelError(
                f"it has {self.size_bytes:,} bytes: allowed are {limit_bytes:,} for such a file"
            )
        return self.read(0, limit_bytes)


_cache: OrderedDict[tuple[object, ...], Any] = OrderedDict()
_cache_lock = Lock()


def parsed(path: Path, parse: Callable[[OpenFile], Found]) -> Found:
    """What `parse` makes of this file, from memory when the file is the same as before.

    `parse` may raise ModelError without the path, which is put in front. A file is the same when
    path, inode, size and time of change are.
    """
    try:
        descriptor = _opened(path)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"it is {_kind(status.st_mode)}: needed is a regular file")
        key = (str(path), parse, status.st_ino, status.st_size, status.st_mtime_ns)
        with _cache_lock:
            if key in _cache:
                _cache.move_to_end(key)
                found: Found = _cache[key]
                return found
        found = parse(OpenFile(path, descriptor, status.st_size))
    except OSError as error:
        raise unreadable(path, error) from None
    except ModelError as error:
        raise ModelError(f"{shown_path(path)}: {error}") from None
    finally:
        os.close(descriptor)
    with _cache_lock:
        _cache[key] = found
        while len(_cache) > CACHED_FILES:
            _cache.popitem(last=False)
    return found


def unreadable(path: Path, error: OSError | ValueError) -> ModelError:
    """In one line, what the system says of this path."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelError(f"{shown_path(path)}: cannot be read ({reason})")


def shown_path(path: Path) -> str:
    """Without control characters, and with what is no text escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def exists(path: Path) -> bool:
    """Also a broken link or a folder of that name, which reading then names. Raises ModelError."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return True


def listed(folder: Path) -> list[Path]:
    """What is in the folder, by name. Raises ModelError."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from None


def _opened(path: Path) -> int:
    # Opening some devices does something, so they are not even opened; a FIFO that takes the
    # place of the file in between does not block with O_NONBLOCK, and fstat tells.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(
            f"{shown_path(path)}: it is {_kind(status.st_mode)}: needed is a regular file"
        )
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)


def _kind(mode: int) -> str:
    for test, words in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return words
    return "no file"


def is_folder(path: Path) -> bool:
    """Raises ModelError when there is nothing of that name."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise ModelError(f"{shown_path(path)}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
