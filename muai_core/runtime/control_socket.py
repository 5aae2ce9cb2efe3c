"""The Unix socket through which commands talk to a running controller.

It lies in the state directory, whose owner alone may use it. A socket's path may have 107 bytes
(unix(7), sun_path), a state directory's path more; then both sides go through an open descriptor
of the directory.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

SOCKET_NAME = "control.sock"
_PATH_MAX_BYTES = 107


def listen(state_dir: Path) -> socket.socket:
    """A listening socket in `state_dir`, in place of one that an earlier controller left.

    Only call it while holding the directory's lock. Raises OSError.
    """
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind() creates the file with the socket's own mode, so it is never open to others.
        os.fchmod(own.fileno(), 0o600)
        with _short_path(state_dir) as path:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            own.bind(path)
        own.listen(16)
        own.setblocking(False)
    except BaseException:
        own.close()
        raise
    return own


def connect(state_dir: Path, timeout_s: float) -> socket.socket:
    """A connection to the controller of `state_dir`.

    Raises FileNotFoundError, NotADirectoryError or ConnectionRefusedError when there is none, and
    other OSErrors.
    """
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        own.settimeout(timeout_s)
        with _short_path(state_dir) as path:
            own.connect(path)
    except BaseException:
        own.close()
        raise
    return own


def remove(state_dir: Path) -> None:
    """Take the socket's file away; a missing one is fine."""
    (state_dir / SOCKET_NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    """A short name for the socket in `state_dir`, valid inside the `with`."""
    path = str(state_dir / SOCKET_NAME)
    if len(os.fsencode(path)) <= _PATH_MAX_BYTES:
        yield path
        return
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)
