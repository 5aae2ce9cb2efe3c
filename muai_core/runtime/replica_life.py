"""One incarnation of one replica, from the order to start it until nothing of it is left."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec import Struct

from muai_core.control import events as ev
from muai_core.planning.wording import described, one_line
from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.bring_up import SPAWN, StageDeadlines, StartError, bring_up
from muai_core.runtime.environment import compose_environment
from muai_core.runtime.log_tail import log_tail
from muai_core.runtime.orphans import Marker, SpawnRecord, SpawnRecords
from muai_core.runtime.probe import Prober
from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.spawning import SpawnError

_log = logging.getLogger(__name__)

SERVING = "serving"
#: What a start that missed a deadline gets to unlink its shared memory before it is killed.
_FAILED_START_GRACE_S = 2.0
_FIRST_CLEANUP_RETRY_S = 1.0
_LAST_CLEANUP_RETRY_S = 30.0
_CAUSE_LIMIT_CHARACTERS = 500

#: Makes the launch description; called once, and awaited under the deadline of the spawn stage.
Prepare = Callable[[], Awaitable[LaunchSpec]]


class Surroundings(Struct, frozen=True, kw_only=True):
    """What all replicas of a controller share."""

    instance_id: str
    boot_id: str
    records: SpawnRecords
    prober: Prober
    deadlines: StageDeadlines
    emit: Callable[[ev.Event], None]


class ReplicaLife:
    """Drives one incarnation and tells its story, which ends in exactly one final event."""

    def __init__(
        self,
        replica_id: str,
        epoch: int,
        *,
        devices: tuple[str, ...],
        log_path: Path,
        surroundings: Surroundings,
    ) -> None:
        self.replica_id = replica_id
        self.epoch = epoch
        self.log_path = log_path
        self.stage = SPAWN
        self.process: ReplicaProcess | None = None
        #: The final event was emitted; what may be left is being killed.
        self.ended = False
        #: Set when every process is proven gone.
        self.gone = asyncio.Event()
        #: What did not die so far, in words.
        self.survivors: tuple[str, ...] = ()
        self._devices = devices
        self._around = surroundings
        self._stopping = False
        self._preparing: asyncio.Future[LaunchSpec | StartError] | None = None
        self._asked_again = asyncio.Event()
        self._stops: set[asyncio.Task[None]] = set()

    async def run(self, prepare: Prepare) -> None:
        """Returns when nothing of the replica is left; never raises but when cancelled."""
        try:
            await self._start_and_watch(prepare)
        except Exception as error:  # noqa: BLE001 - one replica's trouble must stay its own
            _log.exception("the supervision of %s failed", self._name)
            words = f"its supervision failed: {described(error)}"
            self._end(one_line(words, _CAUSE_LIMIT_CHARACTERS))
        await self._clear_away()

    def stop(self, grace_s: float) -> None:
        """Politely for grace_s seconds, then by force. Repeat it with less grace to hurry."""
        self._stopping = True
        self._asked_again.set()
        if self._preparing is not None:
            self._preparing.cancel()
        if self.process is not None and not self.ended:
            stopping = asyncio.ensure_future(self._stop(self.process, grace_s))
            self._stops.add(stopping)
            stopping.add_done_callback(self._stops.discard)

    def forbid_start(self) -> None:
        """If it has no process yet, it gets none. For a controller that ends at once."""
        self._stopping = True

    @property
    def _name(self) -> str:
        return f"replica {self.replica_id} (epoch {self.epoch})"

    async def _start_and_watch(self, prepare: Prepare) -> None:
        try:
            launch = await self._prepare(prepare)
            process = self._spawn(launch)
            around = self._around
            await bring_up(process, launch, around.deadlines, around.prober, self._progressed)
        except StartError as error:
            await self._undo(one_line(str(error), _CAUSE_LIMIT_CHARACTERS))
            return
        self.stage = SERVING
        if not self._stopping:
            endpoint = f"http://{launch.host}:{launch.port}"
            self._emit(ev.ReplicaReady, endpoint=endpoint)
        # At its side, so that an exit meanwhile is still told at once.
        observing = asyncio.ensure_future(self._record_members(process))
        await process.wait_exit()
        observing.cancel()
        await asyncio.gather(observing, return_exceptions=True)
        self._end(f"stopped: {process.exit_words}" if self._stopping else process.exit_words)

    async def _prepare(self, prepare: Prepare) -> LaunchSpec:
        self._refuse_when_stopping()
        deadline_s = self._around.deadlines.spawn_s
        self._preparing = asyncio.ensure_future(_guard(prepare))
        try:
            async with asyncio.timeout(deadline_s):
                outcome = await self._preparing
        except asyncio.CancelledError:
            self._refuse_when_stopping()
            raise
        except TimeoutError:
            raise StartError(
                f"stage {SPAWN} took longer than {deadline_s:g} s: the engine plugin has not said "
                "how to start it"
            ) from None
        self._refuse_when_stopping()
        if isinstance(outcome, StartError):
            raise outcome
        return outcome

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise StartError("it had no process yet")

    def _spawn(self, launch: LaunchSpec) -> ReplicaProcess:
        around = self._around
        marker = Marker(around.instance_id, self.replica_id, self.epoch)
        # An earlier controller may have used the same epoch: its log must not explain our failure.
        with contextlib.suppress(OSError):
            self.log_path.unlink(missing_ok=True)
        try:
            process = ReplicaProcess.spawn(
                launch.argv,
                env=compose_environment(os.environ, launch.env),
                cwd=Path(launch.cwd) if launch.cwd is not None else None,
                log_path=self.log_path,
                marker=marker.text,
            )
        except SpawnError as error:
            raise StartError(str(error)) from error
        self.process = process
        self._record(process)
        self._emit(ev.ReplicaSpawned, pid=process.pid)
        return process

    def _record(self, process: ReplicaProcess) -> None:
        self._around.records.write(
            SpawnRecord(
                replica_id=self.replica_id,
                epoch=self.epoch,
                instance_id=self._around.instance_id,
                boot_id=self._around.boot_id,
                pid=process.pid,
                start_ticks=process.start_ticks,
                program=process.program,
                devices=self._devices,
                members=tuple(sorted(process.known)),
            )
        )

    async def _record_members(self, process: ReplicaProcess) -> None:
        await process.observe_members()
        self._record(process)

    def _progressed(self, stage: str, detail: str | None) -> None:
        self.stage = stage
        self._emit(ev.ReplicaProgressed, stage=stage, detail=detail)

    async def _undo(self, cause: str) -> None:
        if self.process is not None and self.process.exit is None:
            await self._stop(self.process, _FAILED_START_GRACE_S)
        if self._stopping:
            self._end(f"stopped during its start; {cause}")
        elif not self.ended:
            self.ended = True
            tail = log_tail(self.log_path)
            self._emit(ev.ReplicaStartFailed, cause=cause, log_tail=tail)

    def _end(self, cause: str) -> None:
        if not self.ended:
            self.ended = True
            tail = "" if self._stopping else log_tail(self.log_path)
            self._emit(ev.ReplicaExited, cause=cause, log_tail=tail)

    async def _stop(self, process: ReplicaProcess, grace_s: float) -> None:
        release = await process.stop(grace_s=grace_s)
        self.survivors = release.survivors

    async def _clear_away(self) -> None:
        retry_s = _FIRST_CLEANUP_RETRY_S
        while self.process is not None:
            await self._stop(self.process, 0)
            if not self.survivors:
                break
            _log.error("%s does not die: %s", self._name, "; ".join(self.survivors))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked_again.wait(), retry_s)
            self._asked_again.clear()
            retry_s = min(retry_s * 2, _LAST_CLEANUP_RETRY_S)
        self._around.records.remove(self.replica_id, self.epoch)
        self.gone.set()

    def _emit(self, kind: Callable[..., ev.Event], **facts: object) -> None:
        self._around.emit(kind(replica_id=self.replica_id, epoch=self.epoch, **facts))


async def _guard(prepare: Prepare) -> LaunchSpec | StartError:
    """What a plugin raises becomes a value here, so that not even SystemExit ends the loop."""
    try:
        return await prepare()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything
        text = described(error)
        return StartError(f"the engine plugin could not say how to start it: {text}")
