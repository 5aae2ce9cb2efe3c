"""What replicas hold once they are ready, beside what was predicted.

Followed step by step, as the narrator follows the plane: after a replica has become ready, the next
inventories show what its processes hold on each of its devices, and its log what it told of its
memory. Both are shown as long as the replica is there, and kept for the estimate of the next start.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from msgspec import structs

from muai_core.control import actions as act
from muai_core.control import events as ev
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import State
from muai_core.model.device import DeviceReading, Inventory
from muai_core.planning.calibration import deviations, needed_bytes
from muai_core.planning.measured import MeasuredStart, ToldTerms, told_terms
from muai_core.planning.wording import gib
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.measured_starts import MeasuredStarts, MemoryBasis
from muai_core.runtime.memory_terms import read_terms
from muai_core.runtime.replica_memory import (
    ReplicaMemory,
    metric_rows,
    planned_ranks,
    starts_to_keep,
)
from muai_core.telemetry.memory import MemoryRow

_log = logging.getLogger(__name__)


class ReplicaProcesses(Protocol):
    """What has to be known of the processes; the supervisor knows it."""

    def pids(self, replica_id: str, epoch: int) -> Collection[int]:
        """All that are known of an incarnation."""

    def log_path(self, replica_id: str, epoch: int) -> Path:
        """Where an incarnation's output goes."""


class _Watch:
    """Waits for readings of a replica's devices that are fit to be believed."""

    def __init__(self, uuids: Iterable[str], ready_at_s: float, settled_after_s: float) -> None:
        self._open = set(uuids)
        self._ready_at_s = ready_at_s
        self._settled_at_s = ready_at_s + settled_after_s
        self._last: dict[str, int] = {}
        self.held: dict[str, int] = {}

    @property
    def complete(self) -> bool:
        return not self._open

    def look(self, inventory: Inventory, pids: Callable[[], Collection[int]]) -> None:
        """Take the second of two readings that agree, or the first that is late enough."""
        for reading in inventory.readings:
            sampled_at_s = reading.sampled_at_s
            if sampled_at_s is None:
                sampled_at_s = inventory.observed_at_s
            if reading.uuid not in self._open or sampled_at_s <= self._ready_at_s:
                continue
            held = _held_bytes(reading, pids())
            settled = sampled_at_s >= self._settled_at_s
            if settled or (held is not None and self._last.get(reading.uuid) == held):
                self._open.discard(reading.uuid)
                if held is not None:
                    self.held[reading.uuid] = held
            elif held is not None:
                self._last[reading.uuid] = held


class StartMemory:
    """Call `follow` after every step of the plane, on the event loop. Never raises or blocks."""

    def __init__(
        self,
        processes: ReplicaProcesses,
        starts: MeasuredStarts,
        bases: Mapping[str, MemoryBasis],
        tell: Callable[[str], None],
        settled_after_s: float,
    ) -> None:
        """`bases` go by deployment. `tell` gets a line where something was not as predicted.

        A reading that began `settled_after_s` seconds after a replica became ready is believed.
        """
        self._processes = processes
        self._starts = starts
        self._bases = bases
        self._tell = tell
        self._settled_after_s = settled_after_s
        self._replicas: dict[str, ReplicaMemory] = {}
        self._rows: dict[str, tuple[MemoryRow, ...]] = {}
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(
        self, state: State, events: Sequence[ev.Event], actions: Sequence[act.Action], now_s: float
    ) -> None:
        for event in events:
            match event:
                case ev.ReplicaReady():
                    self._ready(state, event, now_s)
                case ev.DevicesObserved():
                    self._look(event.inventory)
                case ev.ReplicaStartFailed() | ev.ReplicaExited() | ev.ReplicaReleased():
                    self._forget_unless_held(state, event.replica_id)
        for action in actions:
            if isinstance(action, act.StartReplica):
                self._started(action)

    def rows(self) -> list[MemoryRow]:
        """All that is known, for the metrics."""
        return [row for rows in self._rows.values() for row in rows]

    def of(self, replica_id: str, epoch: int) -> ReplicaMemory | None:
        """One incarnation; None when nothing is known of it."""
        memory = self._replicas.get(replica_id)
        return memory if memory is not None and memory.epoch == epoch else None

    def incarnations(self) -> dict[tuple[str, int], ReplicaMemory]:
        """All that have devices."""
        return {(name, memory.epoch): memory for name, memory in self._replicas.items()}

    async def close(self) -> None:
        """Ends what is under way; a log that is being read is left behind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, action: act.StartReplica) -> None:
        self._watches.pop(action.replica_id, None)
        self._set(
            action.replica_id,
            ReplicaMemory(
                deployment=action.deployment.name,
                epoch=action.epoch,
                placement=action.placement,
                ranks=planned_ranks(action.deployment, action.placement, action.devices),
                basis=self._bases.get(action.deployment.name),
            ),
        )

    def _ready(self, state: State, event: ev.ReplicaReady, now_s: float) -> None:
        memory = self.of(event.replica_id, event.epoch)
        replica = state.replicas.get(event.replica_id)
        if memory is None or replica is None or replica.state is not ReplicaState.READY:
            return
        uuids = memory.placement.devices
        self._watches[event.replica_id] = _Watch(uuids, now_s, self._settled_after_s)

    def _look(self, inventory: Inventory) -> None:
        for replica_id, watch in list(self._watches.items()):
            memory = self._replicas[replica_id]
            watch.look(inventory, partial(self._processes.pids, replica_id, memory.epoch))
            if watch.complete:
                del self._watches[replica_id]
                task = asyncio.create_task(self._measure(replica_id, memory, watch.held))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _forget_unless_held(self, state: State, replica_id: str) -> None:
        """A replica that lost its processes is measured no more, one without devices is gone."""
        replica, memory = state.replicas.get(replica_id), self._replicas.get(replica_id)
        if memory is None or (replica is not None and replica.state is ReplicaState.READY):
            return
        self._watches.pop(replica_id, None)
        if replica is None or replica.placement is None or replica.epoch != memory.epoch:
            del self._replicas[replica_id], self._rows[replica_id]
        else:
            unmeasured = structs.replace(memory, held_bytes=None, told=ToldTerms())
            self._set(replica_id, unmeasured)

    async def _measure(
        self, replica_id: str, memory: ReplicaMemory, held_bytes: dict[str, int]
    ) -> None:
        try:
            await self._measured(replica_id, memory, held_bytes)
        except RuntimeError as error:  # no thread to be had
            _log.warning("the start of %s could not be measured: %s", replica_id, error)

    async def _measured(
        self, replica_id: str, memory: ReplicaMemory, held_bytes: dict[str, int]
    ) -> None:
        path = self._processes.log_path(replica_id, memory.epoch)
        patterns = () if memory.basis is None else memory.basis.log_patterns
        found = await in_daemon_thread(lambda: read_terms(path, patterns), "muai-log-terms")
        if self.of(replica_id, memory.epoch) is not memory:
            return
        memory = structs.replace(memory, held_bytes=held_bytes, told=told_terms(found))
        self._set(replica_id, memory)
        starts = starts_to_keep(memory, time.time())
        for start in starts:
            self._tell_surprises(replica_id, start)
        if starts:
            self._starts.add(*starts)
            await in_daemon_thread(self._starts.save, "muai-measured-starts")

    def _tell_surprises(self, replica_id: str, start: MeasuredStart) -> None:
        over = [
            (needed, rank)
            for rank in start.ranks
            if (needed := needed_bytes(rank, start)) is not None and needed > rank.claimed_bytes
        ]
        if over:
            needed, rank = max(over, key=lambda one: one[0] - one[1].claimed_bytes)
            self._tell(
                f"{replica_id}: needs {gib(needed)} of {start.kind.device}, "
                f"{gib(rank.claimed_bytes)} were claimed; the next estimate counts with it"
            )
        for words in deviations(start):
            self._tell(f"{replica_id}: {words}")

    def _set(self, replica_id: str, memory: ReplicaMemory) -> None:
        self._replicas[replica_id] = memory
        self._rows[replica_id] = metric_rows(replica_id, memory)


def _held_bytes(reading: DeviceReading, pids: Collection[int]) -> int | None:
    """What these processes hold; None when the device does not show it."""
    held = None
    for process in reading.processes:
        if process.pid in pids:
            if process.memory_bytes is None:
                return None
            held = (held or 0) + process.memory_bytes
    return held
