"""Starts the ranks of a replica and ends them together: `python -m muai_deepspeed.launcher ...`.

It takes the arguments of the worker. When a rank dies unasked, the others are killed at once: no
collective survives the loss of a rank, and waiting for its time-out would be half a minute.

A stop is a SIGTERM to the whole process group, as from a supervisor or a terminal: rank 0 finishes
its requests and tells the others. A SIGTERM to the launcher alone kills the ranks after a grace.
"""

import argparse
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

from muai_deepspeed.worker import add_arguments

STOP_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_HOST = "127.0.0.1"


class Ranks:
    """The processes of one replica, each watched through a pidfd."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()

    def start(self, command: list[str], count: int) -> None:
        """`command` and `--rank N` for each rank. Raises OSError."""
        libc = ctypes.CDLL(None)
        own_pid = os.getpid()

        def die_with_launcher() -> None:  # the launcher has one thread, so this is safe
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != own_pid:
                os._exit(1)

        for rank in range(count):
            process = subprocess.Popen(
                [*command, "--rank", str(rank)],
                env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_launcher,
            )
            self._processes.append(process)
            self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, rank)

    def watch(self, wakeup_fd: int) -> None:
        """Also returns from `first_ended` when this descriptor can be read."""
        self._selector.register(wakeup_fd, selectors.EVENT_READ, None)

    def first_ended(self, timeout_s: float | None = None) -> tuple[int, int] | None:
        """Rank and exit status (negative: the signal); None: woken up, or none in time."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                self._selector.unregister(key.fileobj)
                os.close(key.fd)
                return key.data, self._processes[key.data].wait()
        return None

    def all_ended(self) -> bool:
        return all(process.returncode is not None for process in self._processes)

    def kill(self) -> None:
        """Every rank that is left; returns when they are gone."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def main(argv: list[str]) -> int:
    """The exit status: 0 after a stop, 2 for wrong arguments, 1 when a rank was lost."""
    parser = argparse.ArgumentParser(prog="muai_deepspeed.launcher", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    count = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
    if count < 1:
        parser.error("--tensor-parallel-size and --pipeline-parallel-size must be positive")
    command = [sys.executable, "-P", "-m", "muai_deepspeed.worker", *argv]
    command += ["--world-size", str(count), "--master-port", str(_free_port())]
    stop_fd = _stop_signals()
    ranks = Ranks()
    try:
        ranks.watch(stop_fd)
        ranks.start(command, count)
        return _wait(ranks, stop_fd)
    finally:
        ranks.kill()


def _wait(ranks: Ranks, stop_fd: int) -> int:
    while True:
        ended = ranks.first_ended()
        if ended is None:
            return _stop(ranks, stop_fd)
        rank, status = ended
        if _is_told_to_stop(stop_fd):
            return _stop(ranks, stop_fd)
        words = f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended"
        if status >= 0:
            words += f" with status {status}"
        _say(f"rank {rank} {words}; the others are killed")
        return 2 if status == 2 else 1


def _stop(ranks: Ranks, stop_fd: int) -> int:
    give_up_at_s = time.monotonic() + STOP_GRACE_S
    while not ranks.all_ended():
        left_s = give_up_at_s - time.monotonic()
        if left_s <= 0:
            _say(f"ranks did not end within {STOP_GRACE_S:g} s; they are killed")
            break
        _is_told_to_stop(stop_fd)  # a second signal must not wake us up again and again
        ranks.first_ended(left_s)
    return 0


def _stop_signals() -> int:
    """A descriptor that can be read once the process is told to stop."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return read_fd


def _is_told_to_stop(stop_fd: int) -> bool:
    try:
        return bool(os.read(stop_fd, 64))
    except BlockingIOError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _say(words: str) -> None:
    print(f"muai_deepspeed: {words}", file=sys.stderr, flush=True)  # noqa: T201 - the replica's log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
