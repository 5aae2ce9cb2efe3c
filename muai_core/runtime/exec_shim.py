"""Becomes the engine: ties its life to the controller's, cleans what it inherited, then execs.

Run as `python -I -S exec_shim.py PARENT_PID STATUS_FD ENVIRONMENT_FD -- ARGV...`. It is a program
of its own because code between fork and exec (`preexec_fn`) may deadlock in a process with
threads. It imports nothing of MuAI, and it gets the engine's environment through a file, so that
a library path meant for the engine cannot break this interpreter and this interpreter's own
changes to the environment (PEP 538 sets LC_CTYPE) do not reach the engine.

A failure before the engine runs is written to STATUS_FD in words, and the exit status is 127; when
the engine runs, STATUS_FD is closed by the exec and nothing was written.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the line above took effect.
    if os.getppid() != parent_pid:
        raise ProcessLookupError(f"the controller, pid {parent_pid}, is gone")


def _reset_signals() -> None:
    # Ignored and blocked signals survive an exec; an engine must be able to notice SIGTERM.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _read_environment(fd: int) -> dict[bytes, bytes]:
    with os.fdopen(fd, "rb") as file:
        entries = file.read().split(b"\0")
    return dict(entry.split(b"=", 1) for entry in entries if entry)


def main(arguments: list[str]) -> None:
    parent_pid, status_fd, environment_fd = (int(argument) for argument in arguments[:3])
    argv = arguments[4:]
    os.set_inheritable(status_fd, False)
    try:
        _die_with_parent(parent_pid)
        environment = _read_environment(environment_fd)
        _reset_signals()
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        words = error.strerror or str(error)
        os.write(status_fd, words.encode("utf-8", errors="replace"))
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
