"""Creating an engine's process: what it gets, what it inherits, and what can go wrong."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from muai_core.runtime.process_table import MARKER_VARIABLE

_SHIM = Path(__file__).with_name("exec_shim.py")


class SpawnError(Exception):
    """The engine's program could not be started; the text says what and why."""


class Spawned(NamedTuple):
    """A process that exists, and the pipe on which the shim says why the program cannot run."""

    popen: "subprocess.Popen[bytes]"
    #: Non-blocking; closed by the other side, with nothing written, once the program runs.
    status_fd: int


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    log_path: Path,
    marker: str,
    stdout_fd: int | None = None,
) -> Spawned:
    """Starts the shim that becomes the program, as the leader of a session of its own.

    stdout_fd: where its stdout goes; to the log, like its stderr, without one.
    Raises SpawnError, and RuntimeError off the main thread: the kernel kills the child when the
    thread that started it ends, and only the main thread lives as long as the controller.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("replicas are spawned on the main thread: they die with the thread")
    if not argv:
        raise SpawnError("the command is empty")
    environment = _encode_environment({**env, MARKER_VARIABLE: marker})
    with contextlib.ExitStack() as stack:
        log_fd = _open_log(log_path)
        stack.callback(os.close, log_fd)
        try:
            environment_fd = _anonymous_file(environment)
            stack.callback(os.close, environment_fd)
            status_fd, shim_status_fd = os.pipe()
        except OSError as error:
            raise SpawnError(f"cannot start {argv[0]}: {error.strerror}") from error
        stack.callback(os.close, shim_status_fd)
        shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
        try:
            popen = subprocess.Popen(
                [*shim, str(shim_status_fd), str(environment_fd), "--", *argv],
                env={MARKER_VARIABLE: marker},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log_fd if stdout_fd is None else stdout_fd,
                stderr=log_fd,
                pass_fds=(shim_status_fd, environment_fd),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(status_fd)
            raise SpawnError(f"cannot start {argv[0]}: {_words_of(error)}") from error
    os.set_blocking(status_fd, False)
    return Spawned(popen, status_fd)


def missing_interpreter(program: str) -> str:
    """Explains "No such file" for a script that is there while its interpreter is not."""
    try:
        with Path(program).open("rb") as file:
            first_line = file.readline(256)
    except OSError:
        return ""
    words = first_line.decode("utf-8", errors="replace").strip()
    return f" (the script's first line is {words})" if words.startswith("#!") else ""


def _words_of(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    # The interpreter of the shim says nothing to people; the working directory does.
    of_file = error.filename not in (None, sys.executable)
    return f"{error.strerror}: {error.filename}" if of_file else str(error.strerror)


def _encode_environment(env: Mapping[str, str]) -> bytes:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise SpawnError(f"environment variable {name!r}: no empty name, no '=', no NUL byte")
    try:
        return b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    except UnicodeEncodeError as error:
        raise SpawnError(f"the environment cannot be encoded: {error}") from error


def _anonymous_file(content: bytes) -> int:
    """A file in memory with this content, read from its beginning. Raises OSError."""
    fd = os.memfd_create("environment")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def _open_log(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot write the log {path}: {error.strerror}") from error
