"""One replica's processes: started so that they cannot outlive us, stopped until proven gone.

The leader is the process we start; it leads a session of its own. Its exit is learned from a pidfd
at once. It is reaped only after every process of the replica is gone: as long as it is a zombie,
its pid, and with it the session's id, cannot be reused, so no signal can hit a stranger.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.process_table import (
    Process,
    find_members,
    kill_exactly,
    read_process,
    read_processes,
)
from muai_core.runtime.spawning import Spawned, SpawnError, missing_interpreter, spawn

_STATUS_LIMIT_BYTES = 4096
#: Helpers of a dead leader (multiprocessing's resource tracker) unlink shared memory; let them.
_LINGER_S = 0.5
_KILL_WAIT_S = 5.0
_SCAN_WAIT_S = 2.0
#: A single look can miss a process that is being forked or is in the middle of an exec.
_EMPTY_SCANS_FOR_PROOF = 2
_FIRST_POLL_S = 0.01
_LAST_POLL_S = 0.1


class Exit(Struct, frozen=True):
    """How a process ended; both None when somebody else collected its exit status."""

    status: int | None = None
    signal: int | None = None

    @property
    def words(self) -> str:
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}"
        if self.status is not None:
            return f"exited with status {self.status}"
        return "exited, its status is unknown"


class Release(Struct, frozen=True):
    """Whether every process of a replica is proven gone, and if not, which remain, in words."""

    proven: bool
    survivors: tuple[str, ...] = ()


class ReplicaProcess:
    """A replica's leader and everything it started. Use it from one event loop only."""

    def __init__(
        self,
        spawned: Spawned,
        *,
        program: str,
        marker: str,
        log_path: Path,
    ) -> None:
        self.pid = spawned.popen.pid
        self.program = program
        self.marker = marker
        self.log_path = log_path
        self.exit: Exit | None = None
        leader = read_process(self.pid)
        self.start_ticks = leader.start_ticks if leader is not None else 0
        #: Every process ever seen of this replica, by (pid, start time).
        self.known: set[tuple[int, int]] = {(self.pid, self.start_ticks)}
        self._popen = spawned.popen
        self._pid_is_reserved = True
        self._gone = False
        self._killing = False
        self._loop = asyncio.get_running_loop()
        self._exited = asyncio.Event()
        self._executed: asyncio.Future[str] = self._loop.create_future()
        self._status = bytearray()
        self._status_fd: int | None = spawned.status_fd
        self._loop.add_reader(spawned.status_fd, self._on_exec_status)
        self._watch_exit()

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        log_path: Path,
        marker: str,
        stdout_fd: int | None = None,
    ) -> "ReplicaProcess":
        """Starts the program with exactly `env` and the marker, output appended to `log_path`.

        With `stdout_fd`, which stays the caller's, its stdout goes there instead.

        Returns as soon as the process exists; `executed` tells whether the program could be run.
        Call it on the main thread, in a running loop: the kernel kills the child when the
        *thread* that started it ends, and only the main thread lives as long as the controller.
        Raises SpawnError; RuntimeError on another thread.
        """
        spawned = spawn(
            argv, env=env, cwd=cwd, log_path=log_path, marker=marker, stdout_fd=stdout_fd
        )
        try:
            return cls(spawned, program=argv[0], marker=marker, log_path=log_path)
        except (OSError, RuntimeError) as error:
            # No descriptor or no thread is left to watch it with: nobody would ever end it.
            os.killpg(spawned.popen.pid, signal.SIGKILL)
            spawned.popen.wait()
            asyncio.get_running_loop().remove_reader(spawned.status_fd)
            os.close(spawned.status_fd)
            raise SpawnError(f"cannot watch {argv[0]}: {error}") from error

    async def executed(self) -> None:
        """Waits until the program runs. Raises SpawnError when it could not be run."""
        words = await asyncio.shield(self._executed)
        if words:
            raise SpawnError(
                f"cannot run {self.program}: {words}{missing_interpreter(self.program)}"
            )

    async def wait_exit(self, timeout_s: float | None = None) -> Exit | None:
        """How the leader ended, at once when it ends; None when it still runs after timeout_s."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), timeout_s)
        return self.exit

    async def observe_members(self) -> list[tuple[int, int]]:
        """Remembers by (pid, start time) what the replica consists of now, and returns it.

        A process that leaves the session, loses its parent and drops the marker is still found by
        `stop` when it was seen here once.
        """
        await self._scan()
        return sorted(self.known)

    async def stop(self, *, grace_s: float, kill_wait_s: float = _KILL_WAIT_S) -> Release:
        """SIGTERM, up to grace_s for the leader to end, SIGKILL to all, proof that none is left.

        Takes grace_s + kill_wait_s and a scan at most, also when a process refuses to die; then
        it returns unproven and may be called again. May be called at any time, repeatedly and
        concurrently: a second call with a shorter grace wins.
        """
        if grace_s > 0 and self.exit is None and not self._killing:
            # Before the leader can leave children behind that bear no mark of the replica.
            await self._scan()
            self._signal_session(signal.SIGTERM)
            await self.wait_exit(grace_s)
        return await self._clear(kill_wait_s)

    @property
    def exit_words(self) -> str:
        """How the leader ended, with a hint when somebody else killed it; "" while it runs."""
        if self.exit is None:
            return ""
        if self.exit.signal == signal.SIGKILL and not self._killing:
            return f"{self.exit.words} (not by us; the kernel does this when memory runs out)"
        return self.exit.words

    def kill(self) -> None:
        """SIGKILL to the leader's process group, now, without waiting. Never blocks."""
        self._killing = True
        self._signal_session(signal.SIGKILL)

    def collect(self) -> None:
        """Reaps the leader if it is dead, without waiting. For `kill_all`; else `stop` does it."""
        with contextlib.suppress(OSError):
            self._popen.poll()

    def members_in(self, table: Iterable[Process]) -> list[Process]:
        """The replica's processes in a process table, zombies included. May block on /proc."""
        return find_members(
            table,
            marker=self.marker,
            since_ticks=self.start_ticks,
            session=self.pid if self._pid_is_reserved else None,
            known=frozenset(self.known),
        )

    async def _clear(self, kill_wait_s: float) -> Release:
        deadline = self._loop.time() + kill_wait_s
        linger_until = self._loop.time() + (0 if self._killing or self.exit is None else _LINGER_S)
        poll_s = _FIRST_POLL_S
        empty_scans = 0
        while not self._gone:
            members = await self._scan()
            empty_scans = empty_scans + 1 if members == [] else 0
            if empty_scans == _EMPTY_SCANS_FOR_PROOF:
                self._reap()
                break
            if members != [] and self._loop.time() >= linger_until:
                self._kill_members(members or [])
            if members != [] and self._loop.time() >= deadline:
                return Release(proven=False, survivors=_describe(members))
            await self.wait_exit(poll_s) if self.exit is None else await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 2, _LAST_POLL_S)
        return Release(proven=True)

    async def _scan(self) -> list[Process] | None:
        """The replica's live processes; None when that cannot be told now."""
        scan = in_daemon_thread(lambda: self.members_in(read_processes()), "process-table")
        try:
            found = await asyncio.wait_for(scan, _SCAN_WAIT_S)
        except (OSError, RuntimeError):  # no answer in time, no descriptor, no thread
            return None
        self.known.update(process.identity for process in found)
        _collect_zombies(found, except_pid=self.pid)
        return [process for process in found if process.alive]

    def _kill_members(self, members: list[Process]) -> None:
        self.kill()
        for process in members:
            kill_exactly(process.identity)

    def _signal_session(self, number: signal.Signals) -> None:
        if self._pid_is_reserved:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._gone = True
        self._pid_is_reserved = False
        self.collect()

    def _on_exec_status(self) -> None:
        assert self._status_fd is not None
        try:
            chunk = os.read(self._status_fd, _STATUS_LIMIT_BYTES)
        except BlockingIOError:
            return
        self._status += chunk
        if not chunk or len(self._status) >= _STATUS_LIMIT_BYTES:
            self._loop.remove_reader(self._status_fd)
            os.close(self._status_fd)
            self._status_fd = None
            self._executed.set_result(self._status.decode("utf-8", errors="replace"))

    def _watch_exit(self) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            # No pidfd here (an old kernel, a sandbox): a thread waits instead.
            watch = threading.Thread(target=self._wait_in_thread, name="replica-exit", daemon=True)
            watch.start()
            return

        def on_exit() -> None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._on_exit(_read_exit(self.pid, os.WNOHANG))

        self._loop.add_reader(pidfd, on_exit)

    def _wait_in_thread(self) -> None:
        found = _read_exit(self.pid, 0)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested
            self._loop.call_soon_threadsafe(self._on_exit, found)

    def _on_exit(self, found: Exit) -> None:
        self._pid_is_reserved = found != Exit()
        self.exit = found
        self._exited.set()


def _read_exit(pid: int, flags: int) -> Exit:
    """The exit of a child, which stays a zombie. Blocks until it ends unless flags has WNOHANG."""
    try:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | flags)
    except ChildProcessError:
        return Exit()
    if result is None:
        return Exit()
    if result.si_code == os.CLD_EXITED:
        return Exit(status=result.si_status)
    return Exit(signal=result.si_status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _describe(members: list[Process] | None) -> tuple[str, ...]:
    if members is None:
        return ("unknown: the process table cannot be read, or not in time",)
    return tuple(process.words for process in members)


def _collect_zombies(found: list[Process], *, except_pid: int) -> None:
    """Reaps what became our child: where the controller is pid 1 (a container), orphans do."""
    own_pid = os.getpid()
    for process in found:
        ours = process.parent_pid == own_pid and process.pid != except_pid
        if ours and not process.alive:
            with contextlib.suppress(OSError):
                os.waitpid(process.pid, os.WNOHANG)
