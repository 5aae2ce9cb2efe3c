"""Starts the ranks of a replica and ends them together: `python -m muai_deepspeed.launcher ...`.

It takes the arguments of the worker. When a rank dies unasked, the others are killed at once: no
collective survives the loss of a rank, and waiting for its time-out would be half a minute. When
the launcher itself dies, however it dies, the kernel kills the ranks.

A stop is a SIGTERM or SIGINT to the launcher, which hands it on to rank 0: that finishes its
requests and tells the others. Ranks are in process groups of their own, so that a signal to the
launcher's whole group, as from a supervisor or a terminal, means the same.
"""

import argparse
import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

from muai_deepspeed.worker import add_arguments

#: What ranks get to end after a stop; rank 0 gives running requests five seconds of it.
STOP_GRACE_S = 10.0
#: What the others get once rank 0 has ended.
FOLLOWERS_GRACE_S = 1.0
WORKER = ("-P", "-m", "muai_deepspeed.worker")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_HOST = "127.0.0.1"


class Ranks:
    """The processes of one replica, each watched through a pidfd."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()

    def start(self, command: list[str], count: int) -> None:
        """`command` and `--rank N` for each rank. Raises OSError and SubprocessError."""
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
                process_group=0,
            )
            self._processes.append(process)
            self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, rank)

    def watch(self, wakeup_fd: int) -> None:
        """Also returns from `ended` when this descriptor can be read."""
        self._selector.register(wakeup_fd, selectors.EVENT_READ, None)

    def ended(self, timeout_s: float | None = None) -> dict[int, int]:
        """Ranks that have ended since the last call, with exit status (negative: the signal).

        Waits for the first one; empty: woken up, or none in time.
        """
        ended = {}
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                self._selector.unregister(key.fileobj)
                os.close(key.fd)
                ended[key.data] = self._processes[key.data].wait()
        return ended

    def alive(self) -> list[int]:
        return [rank for rank, process in enumerate(self._processes) if process.returncode is None]

    def signal_leader(self, number: int) -> None:
        """To rank 0, if it is still there."""
        self._processes[0].send_signal(number)

    def kill(self) -> None:
        """Every rank that is left; returns when they are gone."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def main(argv: list[str]) -> int:
    """The exit status: 0 after a stop, 2 for wrong arguments, else that of the rank that was lost.

    128 and the number of the signal where one killed it, as shells count.
    """
    parser = argparse.ArgumentParser(prog="muai_deepspeed.launcher", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    count = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
    command = [sys.executable, *WORKER, *argv]
    command += ["--world-size", str(count), "--master-port", str(_free_port())]
    stop_fd = _stop_signals()
    ranks = Ranks()
    try:
        ranks.watch(stop_fd)
        try:
            ranks.start(command, count)
        except (OSError, subprocess.SubprocessError) as error:
            _say(f"rank {len(ranks.alive())} could not be started: {error}")
            return 1
        return _wait(ranks, stop_fd)
    finally:
        ranks.kill()


def _wait(ranks: Ranks, stop_fd: int) -> int:
    while True:
        ended = ranks.ended()
        if signals := _signals(stop_fd):
            return _stop(ranks, stop_fd, signals)
        if ended:
            break
    # Where several end at once, one that was killed is the cause, and not what it did to others.
    rank, status = min(ended.items(), key=lambda item: (item[1] >= 0, item[0]))
    words = f"was killed by {_name(-status)}" if status < 0 else f"ended with status {status}"
    _say(f"rank {rank} {words}; the others are killed")
    return 128 - status if status < 0 else status or 1


def _stop(ranks: Ranks, stop_fd: int, signals: bytes) -> int:
    give_up_at_s = time.monotonic() + STOP_GRACE_S
    led = True
    while left := ranks.alive():
        if 0 in left:
            for number in signals:
                ranks.signal_leader(number)
        elif led:
            led = False
            give_up_at_s = min(give_up_at_s, time.monotonic() + FOLLOWERS_GRACE_S)
        left_s = give_up_at_s - time.monotonic()
        if left_s <= 0:
            _say(f"did not end when told to: ranks {', '.join(map(str, left))}; they are killed")
            break
        ranks.ended(left_s)
        signals = _signals(stop_fd)
    return 0


def _stop_signals() -> int:
    """A descriptor that can be read once the process is told to stop: the signals' numbers."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return read_fd


def _signals(stop_fd: int) -> bytes:
    try:
        return os.read(stop_fd, 64)
    except BlockingIOError:
        return b""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _say(words: str) -> None:
    """Into the replica's log; a full disk must not end the replica in another way than meant."""
    with contextlib.suppress(OSError):
        os.write(2, f"muai_deepspeed: {words}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
