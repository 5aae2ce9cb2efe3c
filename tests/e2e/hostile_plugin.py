"""Plugins of every kind that misbehave, each in its first turn, for `test_hostile_plugins.py`."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import structs
from muai_simulated.engine import SimulatedEngine

from muai_core import (
    AllocationStrategy,
    Device,
    DeviceReading,
    DeviceSource,
    Fleet,
    GiveUp,
    Inventory,
    LaunchRequest,
    LaunchSpec,
    MetricSink,
    Placement,
    PlacementRequest,
    RecoveryPolicy,
    ReplicaLoss,
    RestartAfter,
    Unplaceable,
    hookimpl,
)


def _raise(error: BaseException) -> Any:
    raise error


#: By the model's name: what the first launch of its replica does instead of answering well.
FAULTS: dict[str, Callable[[LaunchSpec], Any]] = {
    "raises": lambda _: _raise(RuntimeError("two\nlines")),
    "exits": lambda _: _raise(SystemExit(3)),
    "interrupts": lambda _: _raise(KeyboardInterrupt("here")),
    "cancels": lambda _: _raise(asyncio.CancelledError("here")),
    "iterates": lambda _: _raise(StopIteration("here")),
    "nothing": lambda _: None,
    "port": lambda good: structs.replace(good, port=10**6),
    "argv": lambda good: structs.replace(good, argv=(1, 2)),
}


class HostileEngine(SimulatedEngine):
    name = "hostile"

    def launch(self, request: LaunchRequest) -> LaunchSpec:
        good = super().launch(request)
        request.deployment.engine_options["changed"] = object()
        if request.epoch > 1:
            return good
        answer: LaunchSpec = FAULTS[request.deployment.name](good)
        return answer


class HostileSource(DeviceSource):
    name = "hostile"

    def __init__(self) -> None:
        self._turn = 0

    def observe(self, now_s: float) -> Inventory:
        self._turn += 1
        if self._turn == 1:
            raise SystemExit("no driver")
        memory: Any = "80 GiB" if self._turn == 2 else 80 * 2**30
        device = Device(
            uuid="H-0",
            node="box",
            index=0,
            kind="gpu",
            platform="simulated",
            name="hostile",
            memory_total_bytes=memory,
        )
        reading = DeviceReading(uuid="H-0", utilization_percent=float("nan"))
        late_s = 1e9 if self._turn == 3 else 0.0
        return Inventory(
            source=self.name, observed_at_s=now_s + late_s, devices=(device,), readings=(reading,)
        )


class HostileStrategy(AllocationStrategy):
    name = "hostile"

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        request.deployment.engine_options.clear()
        return request.placement_on(fleet.devices)


class HostilePolicy(RecoveryPolicy):
    name = "hostile"

    def decide(
        self, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float
    ) -> RestartAfter | GiveUp:
        raise asyncio.CancelledError("no decision")


class HostileSink(MetricSink):
    name = "hostile"

    def open(self, options: Any) -> None:
        pass

    def location(self) -> str | None:
        raise SystemExit("no location")

    def publish(self, families: Any) -> None:
        raise KeyboardInterrupt

    def close(self) -> None:
        raise KeyboardInterrupt


@hookimpl
def muai_engines() -> list[HostileEngine]:
    return [HostileEngine()]


@hookimpl
def muai_device_sources() -> list[HostileSource]:
    return [HostileSource()]


@hookimpl
def muai_allocation_strategies() -> list[HostileStrategy]:
    return [HostileStrategy()]


@hookimpl
def muai_recovery_policies() -> list[HostilePolicy]:
    return [HostilePolicy()]


@hookimpl
def muai_metric_sinks() -> list[HostileSink]:
    return [HostileSink()]
