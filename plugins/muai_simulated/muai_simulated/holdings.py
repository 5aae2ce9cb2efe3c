"""Which processes hold simulated memory, known across processes and through any kind of death.

Every worker keeps one file in a directory of its user, locked for as long as the worker lives. The
kernel drops the lock when the process is gone, however it went, and never before: so the lock is
the proof, and memory comes back exactly then. Whoever finds a file without a lock removes it.

The file's first line is the number of running requests, its second the holding itself.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

_SUFFIX = ".holding"
_COUNT_DIGITS = 8


class Holding(Struct, frozen=True, kw_only=True):
    """What one living process holds."""

    pid: int
    #: The controller that started the process.
    owner_pid: int
    #: Device UUID → bytes.
    memory_bytes: dict[str, int]
    max_num_seqs: int
    requests_running: int = 0

    @property
    def load(self) -> float:
        """Requests running as a share of what fits, 0 to 1."""
        return min(1.0, self.requests_running / self.max_num_seqs)


def default_directory() -> Path:
    """Where holdings of this user are kept; nothing is made."""
    return Path(tempfile.gettempdir()) / f"muai-simulated-{os.getuid()}"


class OpenHolding:
    """The worker's side: holds memory from construction to the end of the process."""

    def __init__(self, directory: Path, holding: Holding) -> None:
        """Raises PermissionError when the directory belongs to somebody else."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.getuid():
            raise PermissionError(f"{directory} belongs to another user; remove it or set TMPDIR")
        path = directory / f"{holding.pid}{_SUFFIX}"
        unlocked = path.with_suffix(".new")
        self._file = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.write(self._file, _count_line(0) + msgspec.json.encode(holding))
        unlocked.rename(path)

    def note_running(self, requests: int) -> None:
        """Tell observers how busy the process is."""
        os.pwrite(self._file, _count_line(requests), 0)


class Tenant(Struct, frozen=True):
    """A living process on the GPUs of one controller."""

    holding: Holding
    #: True when its own controller is dead.
    is_orphan: bool


def tenants(directory: Path, controller_pid: int) -> list[Tenant]:
    """Who lives on the simulated GPUs of a controller, by pid.

    GPUs belong to the controller that simulates them: engines of another living controller are
    somewhere else. What a dead controller left behind is everywhere.
    """
    found: list[Tenant] = []
    for holding in living(directory):
        if holding.owner_pid == controller_pid:
            found.append(Tenant(holding, is_orphan=False))
        elif not psutil.pid_exists(holding.owner_pid):
            found.append(Tenant(holding, is_orphan=True))
    return found


def living(directory: Path) -> list[Holding]:
    """All holdings of living processes, by pid; files of dead ones are removed."""
    try:
        paths = sorted(directory.glob(f"*{_SUFFIX}"))
    except FileNotFoundError:
        return []
    found = (_read(path) for path in paths)
    return sorted((holding for holding in found if holding), key=lambda holding: holding.pid)


def _read(path: Path) -> Holding | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            # Shared, so that two observers do not take each other for the living process.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.read(file, os.fstat(file).st_size)
            count, _, body = content.partition(b"\n")
            holding = msgspec.json.decode(body, type=Holding)
            return msgspec.structs.replace(holding, requests_running=int(count))
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return None
    finally:
        os.close(file)


def _count_line(requests: int) -> bytes:
    return b"%0*d\n" % (_COUNT_DIGITS, min(requests, 10**_COUNT_DIGITS - 1))
