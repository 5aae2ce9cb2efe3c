"""A device is free again when its memory is back, not when the process is gone."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from muai_core.model.device import Device, DeviceProcess, DeviceReading, Inventory
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.memory_return import MemoryReturn, unowned_bytes
from muai_core.runtime.monitor import DeviceMonitor

GIB = 1024**3
REPLICA = ("chat.0", 1)
OURS = DeviceProcess(pid=10, memory_bytes=40 * GIB, own=True)
THEIRS = DeviceProcess(pid=11, memory_bytes=5 * GIB, own=False)


class OneGpu(DeviceSource):
    """A GPU that reads as the test says."""

    name = "one"

    def __init__(self) -> None:
        self.used_bytes = 0
        self.processes: tuple[DeviceProcess, ...] = ()
        self.silent = False

    def observe(self, now_s: float) -> Inventory:
        device = Device(
            uuid="GPU-1",
            node="n1",
            index=0,
            kind="gpu",
            platform="cuda",
            name="GPU",
            memory_total_bytes=80 * GIB,
        )
        reading = DeviceReading(
            uuid="GPU-1",
            sampled_at_s=0.0 if self.silent else now_s,
            memory_used_bytes=self.used_bytes,
            processes=self.processes,
        )
        return Inventory(
            source=self.name, observed_at_s=now_s, devices=(device,), readings=(reading,)
        )

    def read(self, used_gib: float, *processes: DeviceProcess) -> None:
        self.used_bytes, self.processes = int(used_gib * GIB), processes


@pytest.fixture
def gpu() -> OneGpu:
    return OneGpu()


@pytest.fixture
async def monitor(gpu: OneGpu) -> AsyncIterator[DeviceMonitor]:
    # The interval is never awaited: what is read is what was asked for.
    watching = DeviceMonitor({gpu: {}}, 3600, time.monotonic, lambda _: None)
    watching.start()
    await watching.first_answers(60)
    yield watching
    await watching.close()


async def lived(gpu: OneGpu, monitor: DeviceMonitor, *beside: DeviceProcess) -> MemoryReturn:
    """A replica has started, was seen on the GPU with 40 GiB, and its process is gone."""
    memory = MemoryReturn(monitor, time.monotonic)
    beside_gib = sum(process.memory_bytes or 0 for process in beside) / GIB
    gpu.read(beside_gib, *beside)
    await monitor.fresh_readings(["GPU-1"], 60)
    memory.started(REPLICA, ["GPU-1"])
    gpu.read(beside_gib + 40, OURS, *beside)
    await monitor.fresh_readings(["GPU-1"], 60)
    return memory


async def test_memory_that_a_dead_process_left_in_use_is_not_back(
    gpu: OneGpu, monitor: DeviceMonitor
) -> None:
    memory = await lived(gpu, monitor)
    gpu.read(40)
    assert await memory.still_held(REPLICA, 60) == (
        "40.0 GiB of GPU-1 are in use, but no process owns them",
    )
    gpu.read(0.4)
    assert await memory.still_held(REPLICA, 60) == ()


async def test_memory_of_others_is_no_reason_to_wait(gpu: OneGpu, monitor: DeviceMonitor) -> None:
    memory = await lived(gpu, monitor, THEIRS)
    grown = DeviceProcess(pid=12, memory_bytes=60 * GIB, own=False)
    gpu.read(65, THEIRS, grown)
    assert await memory.still_held(REPLICA, 60) == ()


async def test_a_driver_that_does_not_show_whose_memory_it_is_proves_nothing(
    gpu: OneGpu, monitor: DeviceMonitor
) -> None:
    memory = await lived(gpu, monitor)
    gpu.read(40, DeviceProcess(pid=13, memory_bytes=None, own=None))
    assert await memory.still_held(REPLICA, 60) == ()


async def test_a_device_that_never_showed_our_process_proves_nothing(
    gpu: OneGpu, monitor: DeviceMonitor
) -> None:
    memory = MemoryReturn(monitor, time.monotonic)
    memory.started(REPLICA, ["GPU-1"])
    gpu.read(40)
    assert await memory.still_held(REPLICA, 60) == ()


async def test_a_device_that_does_not_answer_holds_nothing_up(
    gpu: OneGpu, monitor: DeviceMonitor
) -> None:
    memory = await lived(gpu, monitor)
    gpu.read(40)
    gpu.silent = True
    assert await memory.still_held(REPLICA, 0.05) == ()


async def test_fresh_readings_are_taken_after_they_are_asked_for(
    gpu: OneGpu, monitor: DeviceMonitor
) -> None:
    for used_gib in range(1, 6):
        gpu.read(used_gib)
        async with asyncio.timeout(60):
            readings = await monitor.fresh_readings(["GPU-1"], 60)
        assert readings["GPU-1"].memory_used_bytes == used_gib * GIB


def test_memory_without_an_owner_is_what_the_processes_do_not_hold() -> None:
    reading = DeviceReading(uuid="g", memory_used_bytes=50 * GIB, processes=(OURS, THEIRS))
    assert unowned_bytes(reading) == 5 * GIB
    assert unowned_bytes(DeviceReading(uuid="g")) is None
