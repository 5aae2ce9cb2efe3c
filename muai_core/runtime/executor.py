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
from muai_core.model.device import Device
from muai_core.model.routing import RoutingTable
from muai_core.plugin.engine import Engine, LaunchRequest, LaunchSpec
from muai_core.runtime.daemon_thread import in_daemon_thread
from muai_core.runtime.ports import PortAllocator
from muai_core.runtime.supervisor import Supervisor

_log = logging.getLogger(__name__)
_HOST = "127.0.0.1"


class EngineRunner:
    """Turns an order to start a replica into its launch description."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        pythons: Mapping[str, str],
        environments: Mapping[str, Mapping[str, str]],
        ports: PortAllocator,
    ) -> None:
        """`pythons` and `environments` go by engine name and come from `engines.<name>`."""
        self._engines = engines
        self._pythons = pythons
        self._environments = environments
        self._ports = ports

    async def prepare(self, action: act.StartReplica) -> LaunchSpec:
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
            python=self._pythons[name],
            host=_HOST,
            port=self._ports.free_port(),
        )
        engine = self._engines[name]
        answer = await in_daemon_thread(lambda: engine.launch(request), f"muai-launch-{name}")
        launch = _well_formed(answer)
        env = {
            **device_environment(action.devices),
            **launch.env,
            **self._environments.get(name, {}),
        }
        return structs.replace(launch, env=env)


def _well_formed(answer: object) -> LaunchSpec:
    """What a plugin answered, every field of the right type. Raises TypeError and ValueError."""
    if not isinstance(answer, LaunchSpec):
        raise TypeError(f"launch() returned {type(answer).__name__}, not LaunchSpec")
    launch = msgspec.convert(structs.asdict(answer), LaunchSpec)
    if not 0 < launch.port < 2**16:
        raise ValueError(f"LaunchSpec.port is {launch.port}, not one of 1 to 65535")
    return launch


def device_environment(devices: tuple[Device, ...]) -> dict[str, str]:
    """What makes a process see exactly its devices, by UUID and in rank order."""
    cuda = [device.uuid for device in devices if device.platform == "cuda"]
    return {"CUDA_VISIBLE_DEVICES": ",".join(cuda)}


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
    ) -> None:
        self._supervisor = supervisor
        self._gateway = gateway
        self._runner = runner
        self._publish = publish
        self._emit = emit
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def execute(self, action: act.Action) -> None:
        match action:
            case act.StartReplica():
                self._supervisor.start(
                    action.replica_id,
                    action.epoch,
                    lambda: self._runner.prepare(action),
                    devices=action.placement.devices,
                )
            case act.DrainReplica():
                self._spawn(self._drain(action))
            case act.StopReplica():
                self._supervisor.stop(action.replica_id, action.epoch, grace_s=action.grace_s)
            case act.ConfirmRelease():
                self._spawn(self._confirm_release(action))
            case act.PublishRoutes():
                self._publish(action.table)

    async def close(self) -> None:
        """Abandon what is still under way. Call it when every replica is gone, or must be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, action: act.DrainReplica) -> None:
        await self._gateway.drained(action.replica_id, action.epoch)
        self._emit(ReplicaDrained(replica_id=action.replica_id, epoch=action.epoch))

    async def _confirm_release(self, action: act.ConfirmRelease) -> None:
        wait_s = action.deadline_at_s - self._clock()
        release = await self._supervisor.confirm_gone(
            action.replica_id, action.epoch, wait_s=max(0.0, wait_s)
        )
        if release.proven:
            self._emit(ReplicaReleased(replica_id=action.replica_id, epoch=action.epoch))
            return
        left = ", ".join(release.survivors)
        _log.warning("%s cannot be released yet: %s", action.replica_id, left)

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
