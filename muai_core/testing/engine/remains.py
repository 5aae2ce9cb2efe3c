"""What an engine left behind: processes and shared memory, also such as hide from the supervisor.

A process that left its session, lost its parent and cleared its environment belongs to nobody any
more, as far as the process table says. While a kit watches, this process is the one to whom the
kernel gives orphans (PR_SET_CHILD_SUBREAPER), so that such a process shows as a child of ours.
"""

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.process_table import (
    Process,
    find_members,
    kill_exactly,
    read_process,
    read_processes,
)

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_SHARED_MEMORY = Path("/dev/shm")
_IN_USE = re.compile(r"/dev/shm/([^\n]*?)(?: \(deleted\))?$", re.MULTILINE)
#: Helpers that the kernel or a library ends a moment later are no leftovers.
_SETTLE_S = 1.0
_POLL_S = 0.05

Identity = tuple[int, int]


class Orphanage:
    """Makes this process the parent of all orphans below it, until `close`."""

    def __init__(self) -> None:
        self._set(1)

    def close(self) -> None:
        self._set(0)

    @staticmethod
    def _set(wanted: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class Remains:
    """What there was before a replica started, what it consisted of, and what is left of it."""

    def __init__(self) -> None:
        """Make it before the start."""
        self._children = {process.identity for process in _own_children(read_processes())}
        self._shared_memory = set(_listing())
        self.members: set[Identity] = set()
        #: Orphans that came to us while it ran: its own, though nothing else shows it.
        self.adopted: set[Identity] = set()
        self.used: set[str] = set()

    def note(
        self,
        leader_pid: int,
        marker: str,
        launch: LaunchSpec | None,
        others: Collection[Identity] = (),
    ) -> None:
        """Remembers the replica's processes and the shared memory that they use.

        `others` are processes that belong to other replicas.
        """
        leader, table = read_process(leader_pid), read_processes()
        found = find_members(
            table,
            marker=marker,
            since_ticks=leader.start_ticks if leader is not None else 0,
            session=leader_pid,
            known=frozenset(self.members),
        )
        self.members |= {process.identity for process in found}
        ours = {process.identity for process in _own_children(table)} - self._children
        self.adopted |= ours - self.members - set(others)
        for process in found:
            self.used |= _shared_memory_of(process.pid)
        patterns = launch.shared_memory if launch is not None else ()
        pids = {str(process.pid) for process in found}
        for name in set(_listing()) - self._shared_memory:
            named = bool(pids & set(re.findall(r"\d+", name)))
            if named or any(fnmatch(name, pattern) for pattern in patterns):
                self.used.add(name)

    def processes(self, others: Collection[Identity] = ()) -> list[str]:
        """What still lives of it after a moment, in words; `others` are replicas that go on."""
        give_up_at_s = time.monotonic() + _SETTLE_S
        while left := self._living(others):
            if time.monotonic() > give_up_at_s:
                return [_words(process) for process in left]
            time.sleep(_POLL_S)
        return []

    def shared_memory(self) -> list[str]:
        """Names under /dev/shm that it used and left there."""
        pids = {str(pid) for pid, _ in self.members}
        new = set(_listing()) - self._shared_memory
        named = {name for name in new if pids & set(re.findall(r"\d+", name))}
        return sorted(name for name in self.used | named if (_SHARED_MEMORY / name).exists())

    def sweep(self, others: Collection[Identity] = ()) -> None:
        """Ends and removes all that is left."""
        for process in self._living(others):
            kill_exactly(process.identity)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
        for name in self.shared_memory():
            with contextlib.suppress(OSError):
                (_SHARED_MEMORY / name).unlink()

    def _living(self, others: Collection[Identity]) -> list[Process]:
        table = read_processes()
        known = [p for p in table if p.identity in self.members | self.adopted]
        adopted = [p for p in _own_children(table) if p.identity not in self._children]
        found = {process.pid: process for process in [*known, *adopted]}
        return [p for p in found.values() if p.alive and p.identity not in others]


def _own_children(table: Iterable[Process]) -> list[Process]:
    own_pid = os.getpid()
    return [process for process in table if process.parent_pid == own_pid]


def _listing() -> list[str]:
    try:
        return [path.name for path in _SHARED_MEMORY.iterdir()]
    except OSError:
        return []


def _shared_memory_of(pid: int) -> set[str]:
    """Names under /dev/shm that a process has mapped or open."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= set(_IN_USE.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found |= set(_IN_USE.findall(str(descriptor.readlink())))
    return found


def _words(process: Process) -> str:
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        raw = b""
    command = raw.replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    return f"{process.words} {command}".strip()
