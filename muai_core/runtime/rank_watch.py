"""The processes without which a replica is dead: found by their title, watched by pidfd."""

import asyncio
import os
import re
from pathlib import Path

from muai_core.planning.wording import one_line
from muai_core.runtime.process import ReplicaProcess

#: Ranks appear in the first seconds of a start, and late ones are found within this time.
_LOOK_EVERY_S = 1.0


class RankWatch:
    """The ranks of one replica. Raises re.error for a pattern that is none."""

    def __init__(self, process: ReplicaProcess, pattern: str) -> None:
        self._process = process
        self._pattern = re.compile(pattern)
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        #: pid → its pidfd, or -1 once it has ended.
        self._watched: dict[int, int] = {}

    async def first_lost(self) -> str:
        """Returns, in words, when a rank has ended. Cancel it to stop watching."""
        try:
            while not self._lost.done():
                await self.look()
                await asyncio.wait({self._lost}, timeout=_LOOK_EVERY_S)
            return self._lost.result()
        finally:
            self._close()

    async def look(self) -> None:
        """Finds the ranks that there are by now."""
        for pid, _ in await self._process.observe_members():
            if pid != self._process.pid and pid not in self._watched:
                self._consider(pid)

    def _consider(self, pid: int) -> None:
        title = _title(pid)
        if not self._pattern.search(title):
            return  # it may still get its title
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        self._watched[pid] = fd
        self._loop.add_reader(fd, self._ended, pid, one_line(title, 80))

    def _ended(self, pid: int, title: str) -> None:
        self._forget(pid)
        if not self._lost.done():
            self._lost.set_result(f"rank process {pid} ({title}) ended")

    def _forget(self, pid: int) -> None:
        fd, self._watched[pid] = self._watched[pid], -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _close(self) -> None:
        for pid in self._watched:
            self._forget(pid)
        self._lost.cancel()


def _title(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace")
