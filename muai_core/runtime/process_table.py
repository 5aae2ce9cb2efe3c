"""The kernel's process table, read from /proc: who lives, who belongs to a replica (Linux only).

A process is named by (pid, start time), never by its pid alone, because pids are reused.
A replica's processes are found by four marks, since each alone can be lost: the session of its
leader, descent from a process already known, having been seen before, and the marker in the
environment that every process inherits.
"""

import errno
import os
import signal
from collections.abc import Collection, Iterable
from pathlib import Path

from msgspec import Struct

MARKER_VARIABLE = "MUAI_REPLICA"
#: The environment of a process is at most this long before it is cut off, in bytes.
_ENVIRON_LIMIT_BYTES = 4 * 1024 * 1024
#: Our own trouble, which must not be taken for the absence of a process.
_OWN_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_STATE_WORDS = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible sleep, waiting for a device or a disk",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "a zombie with live threads",
}


class Process(Struct, frozen=True):
    """One line of the process table. `start_ticks` are clock ticks since boot."""

    pid: int
    state: str
    parent_pid: int
    session: int
    threads: int
    start_ticks: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start_ticks

    @property
    def alive(self) -> bool:
        """A zombie holds nothing any more, unless only its main thread has ended."""
        return self.state not in "ZX" or self.threads > 1

    @property
    def words(self) -> str:
        return f"pid {self.pid} ({_STATE_WORDS.get(self.state, f'state {self.state}')})"


def read_process(pid: int) -> Process | None:
    """The process table's line for a pid; None when there is no such process.

    Raises OSError when it cannot be told: this process is out of descriptors or memory.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        if error.errno in _OWN_SHORTAGES:
            raise
        return None
    # The command name may hold blanks and parentheses: fields are counted from its last ")".
    fields = stat[stat.rfind(b")") + 2 :].split()
    return Process(
        pid=pid,
        state=fields[0].decode("ascii"),
        parent_pid=int(fields[1]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
    )


def read_processes() -> list[Process]:
    """Every process this user may see. About 10 µs per process. Raises OSError."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [process for process in found if process is not None]


def read_marker(pid: int) -> str | None:
    """The replica marker in a process's environment; None without one or without permission.

    The read blocks while a thread of that process that is stuck in the kernel holds its memory
    map, so it never happens on the event loop, and callers give up waiting for it. Raises OSError
    like `read_process`.
    """
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            environ = file.read(_ENVIRON_LIMIT_BYTES)
    except OSError as error:
        if error.errno in _OWN_SHORTAGES:
            raise
        return None
    prefix = MARKER_VARIABLE.encode() + b"="
    for entry in environ.split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", errors="replace")
    return None


def read_boot_id() -> str:
    """Identifies this boot of the kernel: start times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def find_members(
    table: Iterable[Process],
    *,
    marker: str,
    since_ticks: int,
    session: int | None,
    known: Collection[tuple[int, int]],
) -> list[Process]:
    """The processes in `table`, zombies included, that belong to the replica with this marker.

    May block, as `read_marker` may.

    session: the leader's pid while that pid cannot have been reused, else None.
    since_ticks: the leader's start; nothing that is older can be its descendant.
    """
    own_pid = os.getpid()
    young = [p for p in table if p.start_ticks >= since_ticks and p.pid != own_pid]
    members = {
        p.pid: p
        for p in young
        if p.identity in known or (session is not None and session in (p.pid, p.session))
    }
    _add_descendants(members, young)
    for process in young:
        known_member = process.pid in members
        if not known_member and process.alive and read_marker(process.pid) == marker:
            members[process.pid] = process
    _add_descendants(members, young)
    return list(members.values())


def _add_descendants(members: dict[int, Process], table: list[Process]) -> None:
    grown = True
    while grown:
        children = [p for p in table if p.pid not in members and p.parent_pid in members]
        members.update((p.pid, p) for p in children)
        grown = bool(children)


def kill_exactly(identity: tuple[int, int]) -> bool:
    """SIGKILL to this process and to no later owner of its pid; False when it cannot be sent."""
    pid, start_ticks = identity
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        # No pidfd here (an old kernel, a sandbox): a check and a kill, microseconds apart.
        return _kill_checked(pid, start_ticks)
    try:
        now = read_process(pid)
        if now is not None and now.start_ticks == start_ticks:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _kill_checked(pid: int, start_ticks: int) -> bool:
    try:
        now = read_process(pid)
        if now is not None and now.start_ticks == start_ticks:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return True
