"""What a part of a plugin can leave behind in the controller's process, or change there."""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from muai_core.runtime.process_table import Process, kill_exactly, read_processes

ItemT = TypeVar("ItemT")
Identity = tuple[int, int]

#: What ends a moment later is no leftover.
_SETTLE_S = 1.0
_POLL_S = 0.02
_DESCRIPTORS = Path("/proc/self/fd")
_MAPS = Path("/proc/self/maps")
_MAPPED_NAME = re.compile(r"/([^/\n]+)$", re.MULTILINE)


class Surroundings(Struct, frozen=True, kw_only=True):
    """This process at one moment."""

    threads: frozenset[threading.Thread]
    #: Its children, zombies included.
    children: frozenset[Identity]
    #: What each descriptor refers to, as the kernel says it.
    descriptors: Mapping[int, str]
    environment: Mapping[str, str]
    directory: str
    #: Names of imported modules.
    modules: frozenset[str]
    #: Names of files that are mapped into its memory, such as shared libraries.
    mapped: frozenset[str]


def look() -> Surroundings:
    """Now."""
    return Surroundings(
        threads=frozenset(threading.enumerate()),
        children=frozenset(process.identity for process in _children()),
        descriptors=_descriptors(),
        environment=dict(os.environ),
        directory=str(Path.cwd()),
        modules=frozenset(sys.modules),
        mapped=frozenset(_MAPPED_NAME.findall(_MAPS.read_text(errors="replace"))),
    )


def new_threads(before: Surroundings, own: Collection[threading.Thread]) -> tuple[str, ...]:
    """Names of threads that are new, after they had a moment to end; `own` are the kit's."""

    def find() -> list[str]:
        return [
            thread.name
            for thread in threading.enumerate()
            if thread not in before.threads and thread not in own
        ]

    return tuple(_after_a_moment(find))


def new_processes(before: Surroundings) -> tuple[str, ...]:
    """Children that are new, after they had a moment to end, in words. They are ended."""

    def find() -> list[Process]:
        return [process for process in _children() if process.identity not in before.children]

    left = _after_a_moment(find)
    words = tuple(f"{process.words} {_command(process.pid)}".strip() for process in left)
    for process in left:
        kill_exactly(process.identity)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
    return words


def more_descriptors(before: Surroundings) -> tuple[str, ...]:
    """What the new ones refer to, where there are more than before after a moment."""

    def find() -> list[str]:
        now = _descriptors()
        if len(now) <= len(before.descriptors):
            return []
        return [what for fd, what in now.items() if before.descriptors.get(fd) != what]

    return tuple(_after_a_moment(find))


def changes(before: Surroundings) -> tuple[str, ...]:
    """Environment variables that differ, and the working directory, in words."""
    names = sorted(set(before.environment) | set(os.environ))
    # pytest itself tells there which test runs.
    names = [name for name in names if name != "PYTEST_CURRENT_TEST"]
    found = [name for name in names if before.environment.get(name) != os.environ.get(name)]
    if str(Path.cwd()) != before.directory:
        found.append("the working directory")
    return tuple(found)


def _after_a_moment(find: Callable[[], list[ItemT]]) -> list[ItemT]:
    give_up_at_s = time.monotonic() + _SETTLE_S
    while left := find():
        if time.monotonic() > give_up_at_s:
            return left
        time.sleep(_POLL_S)
    return []


def _children() -> list[Process]:
    own_pid = os.getpid()
    return [process for process in read_processes() if process.parent_pid == own_pid]


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for path in list(_DESCRIPTORS.iterdir()):
        try:
            found[int(path.name)] = str(path.readlink())
        except OSError:
            continue  # It was that of the listing.
    return found


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:200]
