"""Processes that a crashed controller left behind: recorded at every spawn, reclaimed at start.

The parent-death signal ends a replica's leader with its controller, but not what the leader had
started. Such a process is recognised by its (pid, start time) in a record of the same boot or by
the marker in its environment; a pid alone, which may belong to a stranger by now, proves nothing.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from muai_core.runtime.process_table import (
    Process,
    find_members,
    kill_exactly,
    read_boot_id,
    read_marker,
    read_processes,
)
from muai_core.runtime.shared_memory import remove_unused

_log = logging.getLogger(__name__)
_POLL_S = 0.02
_LAST_LOOK_S = 1.0


class Marker(Struct, frozen=True):
    """Names one incarnation of one replica in its processes' environment."""

    instance_id: str
    replica_id: str
    epoch: int

    @property
    def text(self) -> str:
        return f"{self.instance_id}/{self.replica_id}/{self.epoch}"

    @classmethod
    def parse(cls, text: str) -> "Marker | None":
        instance_id, _, rest = text.partition("/")
        replica_id, _, epoch = rest.rpartition("/")
        if not (instance_id and replica_id and epoch.isascii() and epoch.isdigit()):
            return None
        return cls(instance_id, replica_id, int(epoch))


class SpawnRecord(Struct, frozen=True, kw_only=True):
    """What is known on disk about a replica's processes. Start times are ticks since boot."""

    replica_id: str
    epoch: int
    instance_id: str
    boot_id: str
    pid: int
    start_ticks: int
    program: str
    devices: tuple[str, ...] = ()
    #: Every process seen of it so far, by (pid, start_ticks); the leader leads session `pid`.
    members: tuple[tuple[int, int], ...] = field(default=())
    #: Files under /dev/shm that they were seen to use, and that may be removed after them.
    shared_memory: tuple[str, ...] = ()

    @property
    def marker(self) -> Marker:
        return Marker(self.instance_id, self.replica_id, self.epoch)


class Orphan(Struct, frozen=True, kw_only=True):
    """One replica of a dead controller, and what became of its processes."""

    replica_id: str
    epoch: int
    devices: tuple[str, ...]
    killed_pids: tuple[int, ...]
    #: In words; while any is left, the devices are not free.
    survivors: tuple[str, ...]

    @property
    def words(self) -> str:
        pids = ", ".join(map(str, self.killed_pids))
        found = f"replica {self.replica_id} (epoch {self.epoch}) was left by a controller that died"
        if not self.survivors:
            return f"{found}: killed pid {pids}"
        devices = ", ".join(dict.fromkeys(self.devices)) or "unknown"
        return f"{found} and does not die: {'; '.join(self.survivors)}; it may hold {devices}"


class SpawnRecords:
    """The records below `state_dir`/replicas, one file per incarnation of a replica."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "replicas"

    def write(self, record: SpawnRecord) -> None:
        """Replaces the incarnation's record. A full disk is logged: the marker remains."""
        path = self._path(record.replica_id, record.epoch)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            draft.write_bytes(msgspec.json.encode(record))
            draft.replace(path)
        except OSError as error:
            _log.warning("cannot record replica %s in %s: %s", record.replica_id, path, error)

    def remove(self, replica_id: str, epoch: int) -> None:
        """Forgets an incarnation whose processes are proven gone. Idempotent."""
        with contextlib.suppress(OSError):
            self._path(replica_id, epoch).unlink(missing_ok=True)

    def read_all(self) -> list[SpawnRecord]:
        """Every readable record; a damaged one is logged and removed, since markers remain."""
        records = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                records.append(msgspec.json.decode(path.read_bytes(), type=SpawnRecord))
            except (OSError, msgspec.MsgspecError) as error:
                _log.warning("removing the damaged record %s: %s", path, error)
                with contextlib.suppress(OSError):
                    path.unlink()
        return records

    def _path(self, replica_id: str, epoch: int) -> Path:
        return self._directory / f"{quote(replica_id, safe='')}-{epoch}.json"


def reclaim_orphans(
    state_dir: Path, instance_id: str, *, kill_wait_s: float = 5.0
) -> tuple[Orphan, ...]:
    """Kills what earlier controllers of this instance left; blocks for kill_wait_s and a second.

    Call it before the first spawn, off the event loop, while holding the instance's lock.
    """
    orphans: list[Orphan] = []
    deadline = time.monotonic() + kill_wait_s
    # In a thread, because another process's environment may not be readable for ever so long.
    work = threading.Thread(
        target=_reclaim, args=(state_dir, instance_id, deadline, orphans), daemon=True
    )
    work.start()
    work.join(kill_wait_s + _LAST_LOOK_S)
    if work.is_alive():
        _log.error("looking for orphans takes too long: a process is stuck in the kernel (ps, D)")
    return tuple(orphans)


def _reclaim(state_dir: Path, instance_id: str, deadline: float, orphans: list[Orphan]) -> None:
    records = SpawnRecords(state_dir)
    boot_id = read_boot_id()
    remembered = {record.marker: record for record in records.read_all()}
    markers = set(_live_markers(read_processes(), instance_id))
    for marker in sorted(markers | set(remembered), key=lambda marker: marker.text):
        record = remembered.get(marker)
        usable = record if record is not None and record.boot_id == boot_id else None
        killed, left = _kill_members(marker, usable, deadline)
        if killed or left:
            orphans.append(
                Orphan(
                    replica_id=marker.replica_id,
                    epoch=marker.epoch,
                    devices=record.devices if record is not None else (),
                    killed_pids=tuple(sorted(killed)),
                    survivors=tuple(process.words for process in left),
                )
            )
        if not left:
            if usable is not None:
                remove_unused(usable.shared_memory)
            records.remove(marker.replica_id, marker.epoch)


def _live_markers(table: Iterable[Process], instance_id: str) -> Iterable[Marker]:
    for process in table:
        if process.alive:
            marker = Marker.parse(read_marker(process.pid) or "")
            if marker is not None and marker.instance_id == instance_id:
                yield marker


def _kill_members(
    marker: Marker, record: SpawnRecord | None, deadline: float
) -> tuple[set[int], list[Process]]:
    """Kills one replica's processes: the pids that were found, and what is left at the deadline."""
    known: set[tuple[int, int]] = set()
    leader: tuple[int, int] | None = None
    if record is not None:
        leader = (record.pid, record.start_ticks)
        known = {leader, *record.members}
    found: set[int] = set()
    while True:
        table = read_processes()
        # A session's id means our session for sure only while its leader is still there.
        leader_is_there = leader is not None and any(p.identity == leader for p in table)
        members = find_members(
            table,
            marker=marker.text,
            since_ticks=leader[1] if leader is not None else 0,
            session=leader[0] if leader is not None and leader_is_there else None,
            known=known,
        )
        known.update(process.identity for process in members)
        alive = [process for process in members if process.alive]
        found.update(process.pid for process in alive)
        if not alive or time.monotonic() >= deadline:
            survivors = {process.pid for process in alive}
            return found - survivors, alive
        for process in alive:
            kill_exactly(process.identity)
        time.sleep(_POLL_S)
