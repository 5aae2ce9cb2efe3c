"""One incarnation of one replica, from the order to start it until nothing of it is left."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from muai_core.control import events as ev
from muai_core.planning.wording import described, one_line
from muai_core.plugin.engine import LaunchSpec
from muai_core.plugin.exit_rules import general_failure
from muai_core.plugin.failure import ExitEvidence, Failure
from muai_core.runtime.bring_up import LOAD, SPAWN, StartError, bring_up
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.environment import compose_environment
from muai_core.runtime.log_stages import follow_stages
from muai_core.runtime.log_tail import log_tail
from muai_core.runtime.orphans import Marker, SpawnRecord
from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.process_watch import ProcessWatch, Trouble
from muai_core.runtime.shared_memory import SharedMemory
from muai_core.runtime.spawning import SpawnError
from muai_core.runtime.surroundings import Surroundings
from muai_core.runtime.verdicts import Verdicts, disk_failure

_log = logging.getLogger(__name__)

SERVING = "serving"
#: What a start that missed a deadline gets to unlink its shared memory before it is killed.
_FAILED_START_GRACE_S = 2.0
_FIRST_CLEANUP_RETRY_S = 1.0
_LAST_CLEANUP_RETRY_S = 30.0
_CAUSE_LIMIT_CHARACTERS = 500
#: What a leader gets to say why one of its ranks died, before all are killed.
_LAST_WORDS_S = 0.2
#: How much of a log an engine gets to see of a start, and of an end.
_START_LINES, _START_BYTES = 20_000, 2**20
_END_LINES, _END_BYTES = 5_000, 2**19
_VERIFY_WITHIN_S = 10.0
#: The end is told only then, so an engine that takes its time delays its own replacement.
_CLASSIFY_WITHIN_S = 0.2
_STALLED_ADVICE = "somebody stopped it: look for kill -STOP, a debugger or a suspended container"

#: Makes the launch description; called once, and awaited under the deadline of the spawn stage.
Prepare = Callable[[], Awaitable[LaunchSpec]]


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
        verdicts: Verdicts | None = None,
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
        self._verdicts = verdicts
        self._trouble: Trouble | None = None
        self._not_as_planned = False
        self._shared_memory = SharedMemory()
        self._stopping = False
        #: Its start has failed; what ends from now on ends because of us.
        self._start_failed = False
        #: What a stop cancels while there is no process.
        self._preparing: asyncio.Future[Any] | None = None
        self._asked_again = asyncio.Event()
        #: What goes on at its side: stops, and the watch over its processes.
        self._beside: set[asyncio.Task[None]] = set()

    async def run(self, prepare: Prepare) -> None:
        """Returns when nothing of the replica is left; never raises but when cancelled."""
        try:
            await self._start_and_watch(prepare)
        except Exception as error:  # noqa: BLE001 - one replica's trouble must stay its own
            _log.exception("the supervision of %s failed", self._name)
            words = f"its supervision failed: {described(error)}"
            await self._end(one_line(words, _CAUSE_LIMIT_CHARACTERS))
        await self._clear_away()

    def stop(self, grace_s: float) -> None:
        """Politely for grace_s seconds, then by force. Repeat it with less grace to hurry."""
        self._stopping = True
        self._asked_again.set()
        if self._preparing is not None:
            self._preparing.cancel()
        if self.process is not None and not self.ended:
            self._begin(self._stop(self.process, grace_s))

    def forbid_start(self) -> None:
        """If it has no process yet, it gets none. For a controller that ends at once."""
        self._stopping = True

    @property
    def _name(self) -> str:
        return f"replica {self.replica_id} (epoch {self.epoch})"

    async def _start_and_watch(self, prepare: Prepare) -> None:
        try:
            launch = await self._prepare(prepare)
            self._shared_memory = SharedMemory(launch.shared_memory, launch.used_shared_memory)
            process = await self._bring_up(launch)
        except StartError as error:
            words = self._trouble.words if self._trouble is not None else str(error)
            await self._undo(one_line(words, _CAUSE_LIMIT_CHARACTERS))
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
        cause = self._trouble.words if self._trouble is not None else process.exit_words
        await self._end(f"stopped: {process.exit_words}" if self._stopping else cause)

    async def _bring_up(self, launch: LaunchSpec) -> ReplicaProcess:
        """Returns when it serves as planned. Raises StartError."""
        locked = self._devices if launch.exclusive_start else ()
        taking = asyncio.ensure_future(self._around.start_locks.take(locked, self._waits_for))
        self._preparing = taking
        try:
            locks = await taking
        except asyncio.CancelledError:
            self._refuse_when_stopping()
            raise
        try:
            self._refuse_when_stopping()
            process = self._spawn(launch)
            watch = self._watch(process, launch.rank_processes)
            await self._load(process, launch)
            await watch.look()  # so that no rank can be lost unseen from now on
        finally:
            for lock in locks:
                lock.release()
        return process

    async def _load(self, process: ReplicaProcess, launch: LaunchSpec) -> None:
        around = self._around
        following = asyncio.ensure_future(
            follow_stages(self.log_path, launch.log_stages, self._reached)
        )
        try:
            await bring_up(process, launch, around.deadlines, around.prober, self._progressed)
            await self._verify()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _waits_for(self, uuid: str) -> None:
        self._progressed(SPAWN, f"waits until another replica has loaded on {uuid}")

    def _reached(self, words: str) -> None:
        if self.stage == LOAD:
            self._progressed(LOAD, words)

    async def _verify(self) -> None:
        """Raises StartError when the engine says that it did not start as planned."""
        if self._verdicts is None or self._stopping:
            return
        log = log_tail(self.log_path, lines=_START_LINES, read_bytes=_START_BYTES)
        try:
            async with asyncio.timeout(_VERIFY_WITHIN_S):
                difference = await self._verdicts.difference(log)
        except TimeoutError:
            _log.warning("%s: the engine plugin does not say whether it is as planned", self._name)
            return
        if difference is not None:
            self._not_as_planned = True
            raise StartError(f"it did not start as planned: {difference}")

    def _watch(self, process: ReplicaProcess, pattern: str | None) -> ProcessWatch:
        watch = ProcessWatch(
            process,
            pattern,
            shared_memory=self._shared_memory,
            stopped_limit_s=self._around.stopped_limit_s,
        )
        self._begin(self._take_down_in_trouble(process, watch))
        return watch

    async def _take_down_in_trouble(self, process: ReplicaProcess, watch: ProcessWatch) -> None:
        """Takes the whole replica down when its processes are not what they must be."""
        looking = asyncio.ensure_future(watch.first_trouble())
        ended = asyncio.ensure_future(process.wait_exit())
        await asyncio.wait({looking, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not looking.done():
            looking.cancel()
        await asyncio.gather(looking, ended, return_exceptions=True)
        if self._ends_by_us or looking.cancelled():
            return
        trouble = looking.result()
        if trouble.kind == "rank_died":
            # Its leader may be about to say why; then it ends by itself.
            await process.wait_exit(_LAST_WORDS_S)
        if not self._ends_by_us:
            self._trouble = trouble
            await self._stop(process, 0)

    @property
    def _ends_by_us(self) -> bool:
        return self._stopping or self._start_failed

    async def _prepare(self, prepare: Prepare) -> LaunchSpec:
        self._refuse_when_stopping()
        deadline_s = self._around.deadlines.spawn_s
        preparing = asyncio.ensure_future(_guard(prepare))
        self._preparing = preparing
        try:
            async with asyncio.timeout(deadline_s):
                outcome = await preparing
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
                shared_memory=tuple(sorted(self._shared_memory.names)),
            )
        )

    async def _record_members(self, process: ReplicaProcess) -> None:
        await process.observe_members()
        self._record(process)

    def _progressed(self, stage: str, detail: str | None) -> None:
        self.stage = stage
        self._emit(ev.ReplicaProgressed, stage=stage, detail=detail)

    async def _undo(self, cause: str) -> None:
        self._start_failed = True
        if self.process is not None and self.process.exit is None:
            await self._stop(self.process, _FAILED_START_GRACE_S)
        if self._stopping:
            await self._end(f"stopped during its start; {cause}")
        elif not self.ended:
            self.ended = True
            failure = await self._failure(cause)
            tail = log_tail(self.log_path)
            self._emit(ev.ReplicaStartFailed, cause=cause, log_tail=tail, failure=failure)

    async def _end(self, cause: str) -> None:
        if self.ended:
            return
        self.ended = True
        if self._stopping:
            self._emit(ev.ReplicaExited, cause=cause)
            return
        failure = await self._failure(cause)
        tail = log_tail(self.log_path)
        self._emit(ev.ReplicaExited, cause=cause, log_tail=tail, failure=failure)

    async def _failure(self, cause: str) -> Failure | None:
        """What kind of end this was, as far as anything tells."""
        if self._not_as_planned:
            return Failure(kind="not_as_planned", reason=cause)
        trouble = self._trouble
        if trouble is not None and trouble.kind == "stalled":
            return Failure(kind=trouble.kind, reason=cause, advice=_STALLED_ADVICE)
        if self._verdicts is None:
            return None
        ended = self.process.exit if self.process is not None else None
        evidence = ExitEvidence(
            stage=self.stage,
            status=None if ended is None else ended.status,
            signal=None if ended is None else ended.signal,
            log_tail=log_tail(self.log_path, lines=_END_LINES, read_bytes=_END_BYTES),
        )
        try:
            async with asyncio.timeout(_CLASSIFY_WITHIN_S):
                failure = await self._verdicts.failure(evidence)
        except TimeoutError:
            failure = general_failure(evidence)
        # Without room for last words, nothing of them can tell.
        failure = failure or disk_failure(self.log_path.parent)
        if failure is None and trouble is not None:
            failure = Failure(kind=trouble.kind, reason=cause)
        return failure

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
        await in_daemon_thread(self._shared_memory.remove, "muai-shared-memory")
        if self._beside:
            await asyncio.wait(self._beside)
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
