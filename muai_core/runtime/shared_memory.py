"""Removing what engines leave under /dev/shm."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

_log = logging.getLogger(__name__)
_FOLDER = Path("/dev/shm")
#: A pattern must begin with so many plain characters: it must not match what is not the engine's.
_LEAST_PREFIX_CHARACTERS = 8


def remove_shared_memory(patterns: Sequence[str], folder: Path = _FOLDER) -> None:
    """Removes the user's own files in `folder` whose names match. Never raises.

    Patterns that begin too generally, or have a slash, are ignored with a warning.
    """
    for pattern in patterns:
        prefix = pattern.split("*")[0].split("?")[0].split("[")[0]
        if "/" in pattern or len(prefix) < _LEAST_PREFIX_CHARACTERS:
            _log.warning("shared memory %s is not removed: the pattern is too general", pattern)
            continue
        for path in folder.glob(pattern):
            try:
                if path.lstat().st_uid == os.getuid():
                    path.unlink()
            except OSError as error:
                _log.warning("cannot remove %s: %s", path, error)
