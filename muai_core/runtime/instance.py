"""One controller per state directory: the lock that says so and the id that its replicas carry."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_LOCK_NAME = "controller.lock"


class InstanceInUse(Exception):
    """Another controller works on this state directory; the text names it and the way out."""


class StateDirectoryError(Exception):
    """The state directory cannot be used; the text says why."""


@contextlib.contextmanager
def using(state_dir: Path) -> Iterator[None]:
    """Turns any OSError inside into a StateDirectoryError."""
    try:
        yield
    except OSError as error:
        raise StateDirectoryError(f"the state directory {state_dir}: {error}") from error


class Instance:
    """A claimed state directory. The kernel drops the lock when this process ends, however.

    `id` stays the same for all controllers that use the directory one after the other, so a later
    one recognises by their marker the processes that an earlier one left behind.
    """

    def __init__(self, state_dir: Path) -> None:
        """Raises InstanceInUse, or StateDirectoryError when the directory cannot be written."""
        self.state_dir = state_dir
        with using(state_dir):
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(
                state_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                self._lock()
                self.id = _read_or_create_id(state_dir / "instance")
            except BaseException:
                os.close(self._lock_fd)
                raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", errors="replace").strip()
            raise InstanceInUse(
                f"another controller (pid {holder or 'unknown'}) uses {self.state_dir}: "
                "stop it first, or choose another state directory"
            ) from None
        # A full disk costs the pid in the message above, nothing else.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> "Instance":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_claimed(state_dir: Path) -> bool:
    """Whether a controller holds the directory, without getting into the way of one that starts.

    Locks held in another pid namespace are not seen.
    """
    try:
        number = (state_dir / _LOCK_NAME).stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # "1: FLOCK  ADVISORY  WRITE 12634 fe:00:2269668 0 EOF", proc_locks(5)
    flocks = [line.split() for line in locks if " FLOCK " in line and "->" not in line]
    return any(fields[5].rpartition(":")[2] == str(number) for fields in flocks)


def _read_or_create_id(path: Path) -> str:
    known = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
    if known.isalnum():
        return known
    created = secrets.token_hex(8)
    path.write_text(created + "\n", encoding="ascii")
    return created
