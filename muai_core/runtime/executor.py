"""Carrying out intents: each action goes to the driver that can do it, and the outcome comes back
as an event. Nothing here decides anything."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from copy import deepcopy
from typing import Any

import msgspec
from msgspec import structs

from muai_core.control import actions as act
from muai_core.control.events import Event, ReplicaDrained, ReplicaReleased
from muai_core.gateway.server import Gateway
from muai_core.model.routing import RoutingTable
from muai_core.plugin.engine import Engine, LaunchRequest, LaunchSpec
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.environment import device_environment
from muai_core.runtime.launches import Launches
from muai_core.runtime.memory_return import MemoryReturn
from muai_core.runtime.ports import PortAllocator
from muai_core.runtime.self_tests import SelfTests
from muai_core.runtime.supervisor import Supervisor
from muai_core.runtime.verdicts import Verdicts

_log = logging.getLogger(__name__)
_HOST = "127.0.0.1"
_LOOK_AGAIN_S = 0.2


class EngineRunner:
    """Turns an order to start a replica into its launch description."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        pythons: Mapping[str, str],
        environments: Mapping[str, Mapping[str, str]],
        ports: PortAllocator,
        launches: Launches | None = None,
    ) -> None:
        """`pythons` and `environments` go by engine name and come from `engines.<name>`.

        `launches` is told of every answer.
        """
        self._engines = engines
        self._pythons = pythons
        self._environments = environments
        self._ports = ports
        self._launches = launches or Launches()

    def verdicts(self, action: act.StartReplica) -> Verdicts:
        """What the engine will say of this incarnation; `prepare` tells it what was asked for."""
        return Verdicts(self._engines[action.deployment.engine])

    async def prepare(self, action: act.StartReplica, verdicts: Verdicts) -> LaunchSpec:
        """Ask the engine how to start. Raises whatever the engine raises.

        Raises TypeError or ValueError, too, when what it answers cannot be used.
        """
        name = action.deployment.engine
        request = LaunchRequest(
            # Its options are part of the control plane's state, and a plugin could change them.
            deployment=deepcopy(action.deployment),
            replica_id=action.replica_id,
            epoch=action.epoch,
            devices=action.devices,
            stages=action.placement.stages,
            layers=action.placement.layers,
            ranks=action.deployment.ranks(action.placement),
            python=self._pythons[name],
            host=_HOST,
            port=self._ports.free_port(),
        )
        engine = self._engines[name]
        verdicts.request = request
        answer = await in_daemon_thread(lambda: engine.launch(request), f"muai-launch-{name}")
        launch = _well_formed(answer)
        env = {
            **device_environment(action.devices),
            **launch.env,
            **self._environments.get(name, {}),
        }
        launch = structs.replace(launch, env=env)
        self._launches.add(action.replica_id, action.epoch, launch)
        return launch


def _well_formed(answer: object) -> LaunchSpec:
    """What a plugin answered, every field of the right type. Raises TypeError and ValueError."""
    if not isinstance(answer, LaunchSpec):
        raise TypeError(f"launch() returned {type(answer).__name__}, not LaunchSpec")
    launch = msgspec.convert(structs.asdict(answer), LaunchSpec)
    if not 0 < launch.port < 2**16:
        raise ValueError(f"LaunchSpec.port is {launch.port}, not one of 1 to 65535")
    return launch


class Executor:
    """Starts the work of each action and returns at once."""

    def __init__(
        self,
        supervisor: Supervisor,
        gateway: Gateway,
        runner: EngineRunner,
        publish: Callable[[RoutingTable], None],
        emit: Callable[[Event], None],
        clock: Callable[[], float],
        memory: MemoryReturn,
        self_tests: SelfTests,
    ) -> None:
        self._supervisor = supervisor
        self._gateway = gateway
        self._runner = runner
        self._publish = publish
        self._emit = emit
        self._clock = clock
        self._memory = memory
        self._self_tests = self_tests
        self._tasks: set[asyncio.Task[None]] = set()

    def execute(self, action: act.Action) -> None:
        """Begin the action; what is only told to people is the narrator's."""
        match action:
            case act.StartReplica():
                incarnation = (action.replica_id, action.epoch)
                self._memory.started(incarnation, action.placement.devices)
                verdicts = self._runner.verdicts(action)
                self._supervisor.start(
                    action.replica_id,
                    action.epoch,
                    lambda: self._runner.prepare(action, verdicts),
                    devices=action.placement.devices,
                    verdicts=verdicts,
                )
            case act.DrainReplica():
                self._spawn(self._drain(action))
            case act.StopReplica():
                self._supervisor.stop(action.replica_id, action.epoch, grace_s=action.grace_s)
            case act.ConfirmRelease():
                self._spawn(self._confirm_release(action))
            case act.PublishRoutes():
                self._publish(action.table)
            case act.CheckDevice():
                self._self_tests.start(action)

    async def close(self) -> None:
        """Abandon what is still under way. Call it when every replica is gone, or must be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, action: act.DrainReplica) -> None:
        await self._gateway.drained(action.replica_id, action.epoch)
        self._emit(ReplicaDrained(replica_id=action.replica_id, epoch=action.epoch))

    async def _confirm_release(self, action: act.ConfirmRelease) -> None:
        incarnation = (action.replica_id, action.epoch)
        release = await self._supervisor.confirm_gone(*incarnation, wait_s=self._left_s(action))
        left = release.survivors
        if release.proven:
            left = await self._memory.still_held(incarnation, self._left_s(action))
            # A driver takes a moment to give back the memory of a process that was killed.
            while left and self._left_s(action) > _LOOK_AGAIN_S:
                await asyncio.sleep(_LOOK_AGAIN_S)
                left = await self._memory.still_held(incarnation, self._left_s(action))
            if not left:
                self._memory.released(incarnation)
                self._emit(ReplicaReleased(replica_id=action.replica_id, epoch=action.epoch))
                return
        _log.warning("%s cannot be released yet: %s", action.replica_id, ", ".join(left))

    def _left_s(self, action: act.ReplicaIntent) -> float:
        """Seconds until the action's deadline."""
        return max(0.0, action.deadline_at_s - self._clock())

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 - whatever a driver raised
                # The plane's deadline for the action brings it back.
                _log.exception("an action failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
