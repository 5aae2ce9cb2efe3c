"""Whose processes hold memory: MuAI's own, or somebody else's. Read from /proc.

A process is MuAI's when it descends from the controller, or carries the marker that the
controller puts into its replicas' environment: then it may have been adopted by init.
"""

import contextlib
from pathlib import Path

#: `MARKER_VARIABLE` of the controller's process table. Its text begins with the controller's
#: instance id and a slash.
_MARKER = b"MUAI_REPLICA="
_ENVIRON_LIMIT_BYTES = 1024 * 1024
#: A pid that is not asked for in this many rounds is forgotten.
_FORGET_AFTER_ROUNDS = 10
_MOST_ANCESTORS = 64


class Kinship:
    """Remembers each process by pid and start time, so that it is looked up once."""

    def __init__(self, controller_pid: int) -> None:
        self._controller_pid = controller_pid
        self._owners: dict[tuple[int, int], bool] = {}
        self._names: dict[tuple[int, int], str | None] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._round = 0
        self._instances: set[bytes] = set()

    def next_round(self) -> None:
        """Forgets what has not been asked for lately."""
        self._round += 1
        for identity, seen in list(self._seen.items()):
            if self._round - seen > _FORGET_AFTER_ROUNDS:
                for table in (self._seen, self._owners, self._names):
                    table.pop(identity, None)

    def look_up(self, pid: int) -> tuple[str | None, bool | None]:
        """Its name, and whether it is MuAI's; both None when it cannot be seen from here."""
        stat = _read_stat(pid)
        if stat is None:
            return None, None
        identity = (pid, stat[1])
        self._seen[identity] = self._round
        if identity not in self._owners:
            self._names[identity] = _read_name(pid)
            self._owners[identity] = self._is_own(pid)
        return self._names[identity], self._owners[identity]

    def _is_own(self, pid: int) -> bool:
        marker = _read_instance(pid)
        if self._descends(pid):
            if marker is not None:
                self._instances.add(marker)
            return True
        if marker is None:
            return False
        if marker not in self._instances:
            # Its parent is gone. Its kin that are still there tell who our instance is.
            self._instances.update(_instances_of_children(self._controller_pid))
        return marker in self._instances

    def _descends(self, pid: int) -> bool:
        for _ in range(_MOST_ANCESTORS):
            if pid == self._controller_pid:
                return True
            stat = _read_stat(pid)
            if stat is None or stat[0] <= 1:
                return False
            pid = stat[0]
        return False


def _read_stat(pid: int) -> tuple[int, int] | None:
    """Parent pid and start time in ticks since boot; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name may hold blanks and parentheses: fields are counted from its last ")".
    fields = stat[stat.rfind(b")") + 2 :].split()
    return int(fields[1]), int(fields[19])


def _read_name(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        # A program that renames itself, as vLLM's workers do, writes blanks into it.
        name = command.split(b" ")[0].rpartition(b"/")[2] or command
        if not name:
            name = Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return None
    return name.decode("utf-8", errors="replace")[:100] or None


def _read_instance(pid: int) -> bytes | None:
    try:
        with Path(f"/proc/{pid}/environ").open("rb") as file:
            environ = file.read(_ENVIRON_LIMIT_BYTES)
    except OSError:
        return None
    for entry in environ.split(b"\0"):
        if entry.startswith(_MARKER):
            return entry[len(_MARKER) :].partition(b"/")[0]
    return None


def _instances_of_children(pid: int) -> set[bytes]:
    children: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # That thread has just ended.
            children.update(map(int, path.read_bytes().split()))
    return {marker for child in children if (marker := _read_instance(child)) is not None}
