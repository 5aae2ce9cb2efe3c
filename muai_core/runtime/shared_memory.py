"""Removing what engines leave under /dev/shm: two ways to know that a file there is theirs.

By its name, where that is the replica's alone; or because the replica's processes had it mapped,
it is of a sort that libraries make for themselves, and nobody has it mapped any more.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

_log = logging.getLogger(__name__)
_FOLDER = Path("/dev/shm")
#: A pattern must begin with so many plain characters: it must not match what is not the engine's.
_LEAST_PREFIX_CHARACTERS = 8
#: What multiprocessing (shared_memory.py, synchronize.py) and torch (MapAllocator) make.
_LIBRARY_NAMES = ("psm_*", "sem.mp-*", "torch_*")
_MAPPED = re.compile(r"/dev/shm/([^/\n]+?)(?: \(deleted\))?$", re.MULTILINE)


class SharedMemory:
    """What one replica uses under /dev/shm. All methods may block; none raises."""

    def __init__(self, own: Sequence[str] = (), used: Sequence[str] = ()) -> None:
        """The patterns of `LaunchSpec.shared_memory` and `LaunchSpec.used_shared_memory`."""
        self._own = own
        self._used = (*used, *_LIBRARY_NAMES)
        #: What its processes were seen to use, as far as it may be removed.
        self.names: set[str] = set()

    def note(self, pids: Iterable[int]) -> None:
        """Remembers what these processes have mapped now."""
        patterns = (*self._own, *self._used)
        for name in _mapped_by(pids):
            if any(fnmatch(name, pattern) for pattern in patterns):
                self.names.add(name)

    def remove(self) -> None:
        """Call it when the replica's last process is gone."""
        remove_named(self._own)
        remove_unused(self.names)


def remove_unused(names: Iterable[str], folder: Path = _FOLDER) -> None:
    """Removes the user's own files with these names that no process has mapped. Never raises."""
    left = [folder / name for name in sorted(names) if "/" not in name and (folder / name).exists()]
    if not left:
        return
    in_use = _mapped_by(int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    for path in left:
        if path.name not in in_use:
            _remove(path)


def remove_named(patterns: Sequence[str], folder: Path = _FOLDER) -> None:
    """Removes the user's own files in `folder` whose names match. Never raises.

    Patterns that begin too generally, or have a slash, are ignored with a warning.
    """
    for pattern in patterns:
        prefix = pattern.split("*")[0].split("?")[0].split("[")[0]
        if "/" in pattern or len(prefix) < _LEAST_PREFIX_CHARACTERS:
            _log.warning("shared memory %s is not removed: the pattern is too general", pattern)
            continue
        for path in folder.glob(pattern):
            _remove(path)


def _remove(path: Path) -> None:
    try:
        if path.lstat().st_uid == os.getuid():
            path.unlink()
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error)


def _mapped_by(pids: Iterable[int]) -> set[str]:
    """Names under /dev/shm that any of them has mapped; what cannot be read counts for nothing."""
    found: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
            found |= set(_MAPPED.findall(maps))
    return found
