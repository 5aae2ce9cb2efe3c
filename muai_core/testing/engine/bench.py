"""Replicas of one engine, started as `muai run` starts them, driven from synchronous code."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from muai_core.control import events as ev
from muai_core.control.actions import StartReplica
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.placement import Placement
from muai_core.plugin.engine import Engine, LaunchSpec
from muai_core.runtime.bring_up import StageDeadlines
from muai_core.runtime.executor import EngineRunner
from muai_core.runtime.instance import Instance
from muai_core.runtime.orphans import Marker
from muai_core.runtime.ports import PortAllocator
from muai_core.runtime.process import Release
from muai_core.runtime.supervisor import Supervisor
from muai_core.testing.clauses import ClauseFailure

ResultT = TypeVar("ResultT")
EventT = TypeVar("EventT", bound=ev.ReplicaFact)

#: What the supervisor may take to kill and to prove, beside the grace that it is told.
PROOF_S = 20.0
#: How long a process may be stopped here.
STOPPED_LIMIT_S = 1.0
_Ended = (ev.ReplicaExited, ev.ReplicaStartFailed)


class GivenPort(PortAllocator):
    """Hands out one port, taken or not."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def free_port(self) -> int:
        return self._port


class Replica:
    """One incarnation: what it was started with and what was told of it."""

    def __init__(self, replica_id: str, marker: str, devices: tuple[Device, ...]) -> None:
        self.replica_id = replica_id
        self.epoch = 1
        self.marker = marker
        self.devices = devices
        #: As the engine answered; None until it has.
        self.launch: LaunchSpec | None = None
        #: With the time on `time.monotonic` at which each was told.
        self.told: list[tuple[float, ev.ReplicaFact]] = []
        self.news = asyncio.Event()

    def events(self, kind: type[EventT] | tuple[type[EventT], ...]) -> list[EventT]:
        return [event for _, event in self.told if isinstance(event, kind)]

    @property
    def pid(self) -> int | None:
        """Of the leader."""
        spawned = self.events(ev.ReplicaSpawned)
        return spawned[0].pid if spawned else None

    @property
    def ended(self) -> ev.ReplicaExited | ev.ReplicaStartFailed | None:
        ends: list[Any] = self.events(_Ended)
        return ends[0] if ends else None

    @property
    def ended_at_s(self) -> float:
        return next(at_s for at_s, event in self.told if isinstance(event, _Ended))

    @property
    def serves(self) -> bool:
        return bool(self.events(ev.ReplicaReady)) and self.ended is None

    @property
    def endpoint(self) -> str:
        return self.events(ev.ReplicaReady)[0].endpoint


class Bench:
    """A supervisor with its event loop, which runs while one of these methods does.

    Use it on the main thread, where replicas must be started.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        folder: Path,
        python: str,
        environment: Mapping[str, str],
        deadlines: StageDeadlines,
    ) -> None:
        self._engine = engine
        self._python = python
        self._environment = environment
        self._runner = asyncio.Runner()
        self._instance = Instance(folder)
        self._supervisor = Supervisor(
            self._instance, self._tell, deadlines=deadlines, stopped_limit_s=STOPPED_LIMIT_S
        )
        self._replicas: dict[str, Replica] = {}
        self._numbers = itertools.count()
        self._ports = PortAllocator()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of `work`; meanwhile the supervisor works, too.

        Ctrl-C cancels `work`, and no task of the supervisor's, then raises KeyboardInterrupt.
        """
        return self._runner.run(work)

    def start(
        self,
        deployment: Deployment,
        placement: Placement,
        devices: tuple[Device, ...],
        *,
        port: int | None = None,
        adapt: Callable[[LaunchSpec], LaunchSpec] | None = None,
    ) -> Replica:
        """Orders the start of one replica; it proceeds while the bench runs.

        `adapt` is called with what the engine wants launched, just before that is done.
        """
        replica_id = f"{deployment.name}.{next(self._numbers)}"
        marker = Marker(self._instance.id, replica_id, 1).text
        replica = self._replicas[replica_id] = Replica(replica_id, marker, devices)
        action = StartReplica(
            replica_id=replica_id,
            epoch=replica.epoch,
            deadline_at_s=time.monotonic(),
            deployment=deployment,
            placement=placement,
            devices=devices,
        )
        name = deployment.engine
        runner = EngineRunner(
            {name: self._engine},
            {name: self._python},
            {name: self._environment},
            self._ports if port is None else GivenPort(port),
        )

        verdicts = runner.verdicts(action)

        async def prepare() -> LaunchSpec:
            replica.launch = await runner.prepare(action, verdicts)
            return replica.launch if adapt is None else adapt(replica.launch)

        async def order() -> None:
            self._supervisor.start(
                replica_id,
                replica.epoch,
                prepare,
                devices=tuple(dict.fromkeys(placement.devices)),
                verdicts=verdicts,
            )

        self.run(order())
        return replica

    async def until(
        self, replica: Replica, condition: Callable[[], object], timeout_s: float
    ) -> bool:
        """Waits until what is told of the replica fulfils the condition; False: it did not."""
        async with asyncio.timeout(timeout_s) as limit:
            try:
                while not condition():
                    replica.news.clear()
                    await replica.news.wait()
            except asyncio.CancelledError:
                if not limit.expired():
                    raise
                return False
        return True

    async def ready(self, replica: Replica, timeout_s: float) -> None:
        """Waits until it serves. Raises ClauseFailure when it ended, or did not get there."""
        await self.until(replica, lambda: replica.serves or replica.ended, timeout_s)
        if replica.ended is not None:
            raise ClauseFailure(f"the replica did not start: {words_of(replica.ended)}")
        if not replica.serves:
            raise ClauseFailure(f"the replica was not ready within {timeout_s:g} s")

    async def stop(self, replica: Replica, grace_s: float) -> Release:
        """Stops one replica and waits until nothing of it is left, for grace_s and the proof."""
        self.order_stop(replica, grace_s)
        await self.until(replica, lambda: replica.ended, grace_s + PROOF_S)
        return await self._supervisor.confirm_gone(
            replica.replica_id, replica.epoch, wait_s=PROOF_S
        )

    def order_stop(self, replica: Replica, grace_s: float) -> None:
        """Returns at once. Call it while the bench runs."""
        self._supervisor.stop(replica.replica_id, replica.epoch, grace_s=grace_s)

    async def gone(self, replica: Replica) -> Release:
        """Proof that nothing of a replica that ended is left."""
        return await self._supervisor.confirm_gone(
            replica.replica_id, replica.epoch, wait_s=PROOF_S
        )

    def unknown(self, replica_id: str) -> Replica:
        """One that was never started."""
        self._replicas[replica_id] = Replica(replica_id, "", ())
        return self._replicas[replica_id]

    def log_of(self, replica: Replica) -> str:
        try:
            path = self._supervisor.log_path(replica.replica_id, replica.epoch)
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def close(self, grace_s: float) -> None:
        """Ends what runs and gives the event loop back."""
        self.run(self._supervisor.close(grace_s=grace_s))
        self._runner.close()
        self._instance.close()

    def _tell(self, event: ev.Event) -> None:
        if isinstance(event, ev.ReplicaFact):
            replica = self._replicas[event.replica_id]
            replica.told.append((time.monotonic(), event))
            replica.news.set()


def words_of(event: ev.ReplicaExited | ev.ReplicaStartFailed) -> str:
    """Why it ended, with the end of its log."""
    tail = " / ".join(event.log_tail.splitlines()[-6:])
    return f"{event.cause}; its log ends: {tail or '(empty)'}"


def reshaped(deployment: Deployment, tensor: int, pipeline: int) -> Deployment:
    return structs.replace(deployment, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
