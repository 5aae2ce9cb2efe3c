"""Owns the processes of all replicas: starts, watches, stops and counts them.

What happens is told as control-plane events through one callback, on the event loop. What one
engine does, and what one engine plugin raises, stays with its own replica.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from msgspec import Struct

from muai_core.control import events as ev
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.instance import Instance
from muai_core.runtime.kill_all import kill_all
from muai_core.runtime.log_watch import WatchedLog
from muai_core.runtime.orphans import SpawnRecords
from muai_core.runtime.probe import Prober
from muai_core.runtime.process import Release
from muai_core.runtime.process_table import read_boot_id
from muai_core.runtime.replica_life import Prepare, ReplicaLife
from muai_core.runtime.surroundings import STOPPED_LIMIT_S, Surroundings
from muai_core.runtime.verdicts import Verdicts

_KEPT_LOGS = 5


class SupervisedReplica(Struct, frozen=True):
    """One incarnation that is not proven gone. `pid` is None before its process exists."""

    replica_id: str
    epoch: int
    pid: int | None
    #: spawn, load, ready, serving; or ended: its leader is gone, what it left is being killed.
    stage: str


class Supervisor:
    """Call it on the event loop of the main thread: replicas die with the thread that starts them.

    `emit` gets ReplicaSpawned, ReplicaProgressed, ReplicaReady, and exactly one ReplicaStartFailed
    or ReplicaExited per started incarnation. It must not raise and must not block.
    """

    def __init__(
        self,
        instance: Instance,
        emit: Callable[[ev.Event], None],
        *,
        deadlines: StageDeadlines | None = None,
        prober: Prober | None = None,
        stopped_limit_s: float = STOPPED_LIMIT_S,
    ) -> None:
        self._emit = emit
        self._log_dir = instance.state_dir / "logs"
        self._around = Surroundings(
            instance_id=instance.id,
            boot_id=read_boot_id(),
            records=SpawnRecords(instance.state_dir),
            prober=prober or Prober(),
            deadlines=deadlines or StageDeadlines(),
            emit=emit,
            stopped_limit_s=stopped_limit_s,
        )
        self._lives: dict[tuple[str, int], ReplicaLife] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(
        self,
        replica_id: str,
        epoch: int,
        prepare: Prepare,
        *,
        devices: tuple[str, ...] = (),
        verdicts: Verdicts | None = None,
    ) -> None:
        """Starts one incarnation; returns at once. Starting it again changes nothing.

        `prepare` returns the launch description; it is awaited here, under the deadline of the
        spawn stage, so that the incarnation is counted, and can be stopped, from this moment on.
        What it raises becomes a ReplicaStartFailed. `verdicts` tells whether it started as planned
        and why it ended; without, nothing tells.
        """
        if (replica_id, epoch) in self._lives:
            return
        if self._closed:
            cause = "the controller is ending"
            self._emit(ev.ReplicaStartFailed(replica_id=replica_id, epoch=epoch, cause=cause))
            return
        self._prune_logs(replica_id)
        life = ReplicaLife(
            replica_id,
            epoch,
            devices=devices,
            log_path=self.log_path(replica_id, epoch),
            surroundings=self._around,
            verdicts=verdicts,
        )
        self._lives[replica_id, epoch] = life
        task = asyncio.ensure_future(self._run(life, prepare))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self, replica_id: str, epoch: int, *, grace_s: float) -> None:
        """Ends one incarnation: SIGTERM, grace_s seconds, SIGKILL to all of it. Returns at once.

        Its ReplicaExited follows; one that does not run, or is unknown, has it emitted at once.
        May be repeated at any time; a call with less grace hurries an earlier one.
        """
        life = self._lives.get((replica_id, epoch))
        if life is not None and not life.ended:
            life.stop(grace_s)
            return
        cause = "no process of it runs"
        self._emit(ev.ReplicaExited(replica_id=replica_id, epoch=epoch, cause=cause))

    async def confirm_gone(self, replica_id: str, epoch: int, *, wait_s: float) -> Release:
        """Whether no process of an incarnation is left; kills what is, and waits for wait_s.

        An unknown incarnation has none: earlier controllers' were reclaimed before the first start.
        """
        life = self._lives.get((replica_id, epoch))
        if life is None:
            return Release(proven=True)
        life.stop(0)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(life.gone.wait(), wait_s)
            return Release(proven=True)
        return Release(proven=False, survivors=life.survivors or ("it is still being stopped",))

    def sightings(self) -> tuple[ev.ReplicaSighting, ...]:
        """All incarnations that run or are being started, for the periodic ReplicasObserved."""
        return tuple(
            ev.ReplicaSighting(life.replica_id, life.epoch)
            for life in self._lives.values()
            if not life.ended
        )

    def logs(self) -> tuple[WatchedLog, ...]:
        """The log of every incarnation that has a process."""
        return tuple(
            (life.replica_id, life.epoch, life.log_path)
            for life in self._lives.values()
            if life.process is not None and not life.ended
        )

    def pids(self, replica_id: str, epoch: int) -> frozenset[int]:
        """All processes of an incarnation that were seen so far; none once it has ended."""
        life = self._lives.get((replica_id, epoch))
        if life is None or life.process is None or life.ended:
            return frozenset()
        return frozenset(pid for pid, _ in life.process.known)

    def inventory(self) -> tuple[SupervisedReplica, ...]:
        """All incarnations that are not proven gone, for people."""
        return tuple(
            SupervisedReplica(
                life.replica_id,
                life.epoch,
                life.process.pid if life.process is not None else None,
                "ended" if life.ended else life.stage,
            )
            for life in self._lives.values()
        )

    def log_path(self, replica_id: str, epoch: int) -> Path:
        return self._log_dir / f"{quote(replica_id, safe='')}-{epoch}.log"

    def kill_all(self, *, wait_s: float = 1.0) -> tuple[str, ...]:
        """SIGKILL to everything, now; nothing is started afterwards. Blocks for wait_s at most.

        For a controller that is told twice to end. Returns what is left, in words.
        """
        self._closed = True
        for life in self._lives.values():
            life.forbid_start()
        return kill_all(
            [life.process for life in self._lives.values() if life.process is not None],
            wait_s=wait_s,
        )

    async def close(self, *, grace_s: float = 0.0, wait_s: float = 10.0) -> tuple[str, ...]:
        """Stops what still runs and waits until it is gone; what is left then, in words."""
        self._closed = True
        for life in list(self._lives.values()):
            life.stop(grace_s)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=grace_s + wait_s)
        left = [words for life in self._lives.values() for words in life.survivors]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._around.prober.close()
        return tuple(left)

    async def __aenter__(self) -> "Supervisor":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, life: ReplicaLife, prepare: Prepare) -> None:
        await life.run(prepare)
        del self._lives[life.replica_id, life.epoch]

    def _prune_logs(self, replica_id: str) -> None:
        """Keeps a crash loop from filling the directory: the newest few logs stay."""
        pattern = re.compile(re.escape(quote(replica_id, safe="")) + r"-(\d+)\.log")
        with contextlib.suppress(OSError):
            logs = [path for path in self._log_dir.iterdir() if pattern.fullmatch(path.name)]
            logs.sort(key=lambda path: path.stat().st_mtime)
            for path in logs[: 1 - _KEPT_LOGS]:
                path.unlink()
