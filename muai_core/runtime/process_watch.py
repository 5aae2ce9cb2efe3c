"""Watching a replica's processes: the ranks without which it is dead, and any that is stopped."""

import asyncio
import logging
import os
import re
from pathlib import Path

from msgspec import Struct

from muai_core.planning.wording import one_line
from muai_core.plugin.failure import FailureKind
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.process_table import read_process
from muai_core.runtime.shared_memory import SharedMemory

_log = logging.getLogger(__name__)
#: Ranks appear in the first seconds of a start; the last look is when it is ready.
_FIRST_LOOK_S = 1.0
_LAST_LOOK_S = 60.0
_STATES_EVERY_S = 1.0
_TITLE_CHARACTERS = 80
#: The state of a process that got SIGSTOP; a debugger's is "t".
_STOPPED = "T"


class Trouble(Struct, frozen=True):
    """Why a replica whose leader still runs is taken down, in one line."""

    kind: FailureKind
    words: str


class ProcessWatch:
    """All processes of one replica; with a pattern that is none, its ranks are not watched."""

    def __init__(
        self,
        process: ReplicaProcess,
        rank_pattern: str | None,
        *,
        shared_memory: SharedMemory,
        stopped_limit_s: float,
    ) -> None:
        self._process = process
        self._shared_memory = shared_memory
        self._pattern = _compiled(rank_pattern, process.marker)
        self._stopped_limit_s = stopped_limit_s
        self._loop = asyncio.get_running_loop()
        self._trouble: asyncio.Future[Trouble] = self._loop.create_future()
        #: pid → its pidfd, or -1 once it has ended.
        self._watched: dict[int, int] = {}
        #: (pid, start time) → since when it is seen stopped.
        self._stopped: dict[tuple[int, int], float] = {}

    async def first_trouble(self) -> Trouble:
        """Returns when a rank has ended or a process stays stopped. Cancel it to stop watching."""
        looks = asyncio.ensure_future(self._look_again())
        try:
            while not self._trouble.done():
                await asyncio.wait({self._trouble}, timeout=_STATES_EVERY_S)
                self._see_states()
            return self._trouble.result()
        finally:
            self._trouble.cancel()  # what swallows a cancellation sees this
            looks.cancel()
            await asyncio.gather(looks, return_exceptions=True)
            self._close()

    async def look(self) -> None:
        """Finds the processes that there are by now, and the shared memory that they use."""
        pids = [pid for pid, _ in await self._process.observe_members()]
        for pid in pids:
            if pid != self._process.pid and pid not in self._watched:
                self._consider(pid)
        # The memory map of a large engine takes milliseconds to read.
        await in_daemon_thread(lambda: self._shared_memory.note(pids), "muai-shared-memory")

    async def _look_again(self) -> None:
        """Less and less often, because each look reads the whole process table."""
        wait_s = _FIRST_LOOK_S
        while self._pattern is not None and not self._trouble.done():
            await self.look()
            await asyncio.wait({self._trouble}, timeout=wait_s)
            wait_s = min(2 * wait_s, _LAST_LOOK_S)

    def _consider(self, pid: int) -> None:
        title = _title(pid)
        if self._pattern is None or not self._pattern.search(title):
            return  # it may still get its title
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        self._watched[pid] = fd
        self._loop.add_reader(fd, self._ended, pid, title)

    def _ended(self, pid: int, title: str) -> None:
        self._forget(pid)
        self._tell(Trouble("rank_died", f"rank process {pid} ({title}) ended"))

    def _see_states(self) -> None:
        now_s = self._loop.time()
        for key in tuple(self._process.known):
            pid, start_ticks = key
            try:
                seen = read_process(pid)
            except OSError:
                return  # out of descriptors: nothing is known, the next look may tell
            if seen is None or seen.start_ticks != start_ticks or seen.state != _STOPPED:
                self._stopped.pop(key, None)
            elif now_s - self._stopped.setdefault(key, now_s) >= self._stopped_limit_s:
                words = f"process {pid} ({_title(pid)}) has been stopped by SIGSTOP for "
                self._tell(Trouble("stalled", f"{words}{self._stopped_limit_s:g} s"))

    def _tell(self, trouble: Trouble) -> None:
        if not self._trouble.done():
            self._trouble.set_result(trouble)

    def _forget(self, pid: int) -> None:
        fd, self._watched[pid] = self._watched[pid], -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _close(self) -> None:
        for pid in self._watched:
            self._forget(pid)


def _compiled(pattern: str | None, marker: str) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        _log.warning("%s: its ranks are not watched: %s: %s", marker, pattern, error)
        return None


def _title(pid: int) -> str:
    """The command line, which a process may have replaced; empty when it cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return one_line(raw.replace(b"\0", b" ").decode(errors="replace"), _TITLE_CHARACTERS)
