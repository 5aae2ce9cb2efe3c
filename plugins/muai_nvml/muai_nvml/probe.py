"""The probe process: the only place where NVML is called. `python -m muai_nvml.probe`.

It talks frames (`wire`) over its standard input and output, and ends when its input ends or its
controller dies. Whatever else goes wrong in it ends it, with the reason on standard error.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback

from muai_nvml.driver_events import DriverEvents
from muai_nvml.nvml import Nvml, NvmlFailure
from muai_nvml.rounds import Rounds
from muai_nvml.visitor import Visitor
from muai_nvml.wire import (
    Command,
    FrameReader,
    InitFailed,
    Ready,
    Report,
    Sample,
    Setup,
    Started,
    Starting,
    frame,
)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PIECE_BYTES = 65536
_EXIT_INTERNAL_ERROR = 70  # sysexits.h, EX_SOFTWARE


class Pipe:
    """Reports to the source, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def tell(self, report: Report) -> None:
        """Blocks while the pipe is full. Ends the process when nobody reads it any more."""
        rest = memoryview(frame(report))
        with self._lock:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BrokenPipeError:
                    os._exit(0)


def main() -> None:
    """Raises nothing that matters: see `_end_on_error`."""
    threading.excepthook = _end_on_error
    _die_with_parent()
    # A library that prints must not spoil the frames.
    pipe = Pipe(os.dup(1))
    os.dup2(2, 1)
    commands = FrameReader(Command)
    waiting: list[Command] = []
    while not waiting:
        waiting = commands.feed(_read())
    setup = waiting.pop(0)
    if not isinstance(setup, Setup):
        sys.exit(f"the first message must be Setup, not {type(setup).__name__}")
    if os.getppid() != setup.controller_pid:
        sys.exit("the controller is gone")
    rounds, visitor = _start(setup, pipe)
    while True:
        for command in waiting:
            if isinstance(command, Sample):
                rounds.ask(visitor.tasks(command.only, command.everything))
        waiting = commands.feed(_read())


def _start(setup: Setup, pipe: Pipe) -> tuple[Rounds, Visitor]:
    pipe.tell(Starting())
    try:
        nvml = Nvml()
        gpu_count = int(nvml.call("nvmlDeviceGetCount"))
    except NvmlFailure as failure:
        pipe.tell(InitFailed(failure.code, str(failure)))
        sys.exit(0)
    pipe.tell(Started(gpu_count))
    events = DriverEvents(nvml, pipe.tell) if setup.events else None
    visitor = Visitor(nvml, setup, gpu_count, events, pipe.tell)

    def on_ready() -> None:
        if events is not None:
            events.start()
        pipe.tell(Ready())

    rounds = Rounds(
        visitor.begin, visitor.look, visitor.deadline_of_s, pipe.tell, on_ready, setup.handover_s
    )
    rounds.ask(visitor.tasks(None, False))
    rounds.start()
    return rounds, visitor


def _read() -> bytes:
    piece = os.read(0, _PIECE_BYTES)
    if not piece:
        # Another thread may be stuck in the driver: nothing is waited for, nothing cleaned up.
        os._exit(0)
    return piece


def _die_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _end_on_error(trouble: threading.ExceptHookArgs) -> None:
    with contextlib.suppress(OSError):
        traceback.print_exception(trouble.exc_type, trouble.exc_value, trouble.exc_traceback)
    os._exit(_EXIT_INTERNAL_ERROR)


if __name__ == "__main__":
    main()
