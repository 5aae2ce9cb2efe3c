"""Watching what running engines say: a line of a log that speaks of a device in trouble is a fact.

An engine often survives, or takes minutes to die of, an error that its device caused; its log knows
first. Which lines those are is decided by `muai_core.control.engine_evidence`.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from muai_core.control.engine_evidence import device_trouble
from muai_core.control.events import Event, ReplicaComplained
from muai_core.planning.wording import gib
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.log_tail import plain

_log = logging.getLogger(__name__)

#: One incarnation of a replica, and the file that its process writes its log to.
WatchedLog = tuple[str, int, Path]

_INTERVAL_S = 1.0
_READ_LIMIT_BYTES = 1024 * 1024
#: A longer line is looked at piece by piece, and no more than a piece is told.
_LINE_CHARACTERS = 1000
_OVERLAP_CHARACTERS = 200
#: The same kind of trouble is told once in this time.
_QUIET_S = 10.0
#: Progress bars rewrite their line with carriage returns.
_LINE_BREAKS = re.compile(rb"[\r\n]")


class Complaint(Struct, frozen=True):
    """A line that speaks of a device in trouble; `kind` is the same for lines of the same kind."""

    kind: str
    line: str


class LogReader:
    """Reads one log as it grows. Blocks on the file; never raises."""

    def __init__(self, path: Path, limit_bytes: int = _READ_LIMIT_BYTES) -> None:
        """`limit_bytes` is how much one `read` looks at: of more, the end."""
        self.path = path
        #: Bytes that nobody looked at, because too many came at once.
        self.skipped_bytes = 0
        self._limit_bytes = limit_bytes
        self._file_id: tuple[int, int] | None = None
        self._offset = 0
        #: The beginning of a line whose end has not come yet.
        self._rest = b""

    def read(self) -> list[Complaint]:
        """The complaints in all whole lines that came since the last call."""
        appended = self._appended()
        *lines, self._rest = _LINE_BREAKS.split(self._rest + appended)
        if len(self._rest) > self._limit_bytes:
            # A line without an end is looked at as far as it goes.
            lines.append(self._rest)
            self._rest = b""
        found = (_complaint(line) for line in lines if line)
        return [complaint for complaint in found if complaint is not None]

    def _appended(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                file_id = (status.st_dev, status.st_ino)
                if file_id != self._file_id or status.st_size < self._offset:
                    # Another file took its place, or it was cut short: all of it is new.
                    self._file_id, self._offset, self._rest = file_id, 0, b""
                start = max(self._offset, status.st_size - self._limit_bytes)
                if start > self._offset:
                    self.skipped_bytes += start - self._offset
                    self._rest = b""
                file.seek(start)
                appended = file.read(self._limit_bytes)
        except OSError:
            # Not there yet, or no longer: whoever starts the replica tells what is wrong with it.
            return b""
        self._offset = start + len(appended)
        return appended


class LogWatch:
    """Reads the logs of all running replicas every second, in a thread beside the event loop.

    `emit` gets a `ReplicaComplained` for a line of trouble, of each kind at most one in 10 seconds
    and replica. It is called on the event loop, and must not raise or block.
    """

    def __init__(
        self,
        replicas: Callable[[], Iterable[WatchedLog]],
        emit: Callable[[Event], None],
        *,
        interval_s: float = _INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replicas` is called before each round, on the event loop: the incarnations that have a
        process now. One that is no longer among them has its log read a last time.
        """
        self._replicas = replicas
        self._emit = emit
        self._interval_s = interval_s
        self._clock = clock
        self._readers: dict[tuple[str, int], LogReader] = {}
        #: Incarnation and kind → when it was told last.
        self._told_at_s: dict[tuple[str, int, str], float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch; needs a running event loop."""
        self._task = asyncio.create_task(self._run(), name="log-watch")

    async def close(self) -> None:
        """End the watch; a read that hangs is left behind."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - the next round must come
                _log.exception("the engines' logs could not be read")
            await asyncio.sleep(self._interval_s)

    async def _look(self) -> None:
        watched = {(replica_id, epoch): path for replica_id, epoch, path in self._replicas()}
        for incarnation, path in watched.items():
            self._readers.setdefault(incarnation, LogReader(path))
        readers = dict(self._readers)
        found = await in_daemon_thread(lambda: _read_all(readers), "muai-log-watch")
        for incarnation, complaints in found.items():
            for complaint in complaints:
                self._tell(incarnation, complaint)
        for incarnation in readers.keys() - watched.keys():
            self._forget(incarnation)

    def _tell(self, incarnation: tuple[str, int], complaint: Complaint) -> None:
        key, now_s = (*incarnation, complaint.kind), self._clock()
        if now_s - self._told_at_s.get(key, -_QUIET_S) < _QUIET_S:
            return
        self._told_at_s[key] = now_s
        replica_id, epoch = incarnation
        self._emit(ReplicaComplained(replica_id=replica_id, epoch=epoch, line=complaint.line))

    def _forget(self, incarnation: tuple[str, int]) -> None:
        del self._readers[incarnation]
        for key in [key for key in self._told_at_s if key[:2] == incarnation]:
            del self._told_at_s[key]


def _read_all(
    readers: dict[tuple[str, int], LogReader],
) -> dict[tuple[str, int], list[Complaint]]:
    found = {}
    for incarnation, reader in readers.items():
        before = reader.skipped_bytes
        found[incarnation] = reader.read()
        if reader.skipped_bytes > before == 0:
            _log.warning(
                "%s grows so fast that %s of it were not watched for signs of device trouble",
                reader.path,
                gib(reader.skipped_bytes),
            )
    return found


def _complaint(line: bytes) -> Complaint | None:
    text = plain(line.decode("utf-8", errors="replace"))
    for piece in _pieces(text):
        finding = device_trouble(piece)
        if finding is not None:
            return Complaint(finding.key, piece)
    return None


def _pieces(text: str) -> Iterator[str]:
    """The text cut into pieces that can be told, each beginning with the end of the last one."""
    step = _LINE_CHARACTERS - _OVERLAP_CHARACTERS
    for start in range(0, max(1, len(text) - _OVERLAP_CHARACTERS), step):
        yield text[start : start + _LINE_CHARACTERS]
