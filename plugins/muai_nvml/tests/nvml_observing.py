"""What the tests of the source share: observing until something holds, and what it told."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fake_nvml import FakeNvml
from muai_nvml.source import NvmlSource

from muai_core.model.device import DeviceReading, Inventory
from muai_core.plugin.device_source import Happening

Open = Callable[..., NvmlSource]
Make = Callable[..., FakeNvml]
#: Generous: it only bounds how long a failing test takes.
WAIT_S = 30.0


class Told:
    """What the source told between observations."""

    def __init__(self) -> None:
        self.happenings: list[Happening] = []
        self._changed = threading.Condition()

    def __call__(self, happening: Happening) -> None:
        with self._changed:
            self.happenings.append(happening)
            self._changed.notify_all()

    def wait(self, matches: Callable[[Happening], bool], many: int = 1) -> list[Happening]:
        """Those that match, as soon as there are so many."""
        with self._changed:
            found: list[Happening] = []

            def enough() -> bool:
                found[:] = filter(matches, self.happenings)
                return len(found) >= many

            assert self._changed.wait_for(enough, WAIT_S), self.happenings
            return found


def observe(source: NvmlSource) -> Inventory:
    return source.observe(time.monotonic())


def readings(source: NvmlSource) -> list[DeviceReading]:
    return list(observe(source).readings)


def observe_until(source: NvmlSource, reached: Callable[[Inventory], bool]) -> Inventory:
    give_up_at_s = time.monotonic() + WAIT_S
    while True:
        inventory = observe(source)
        if reached(inventory):
            return inventory
        assert time.monotonic() < give_up_at_s, (inventory.fault, inventory.readings)
        time.sleep(0.05)


def kinds(reading: DeviceReading) -> list[str]:
    return [finding.kind for finding in reading.findings]


def probe_pids() -> list[int]:
    """The children of this process that are probes."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if is_probe(pid)]


def is_probe(pid: int) -> bool:
    try:
        return b"muai_nvml.probe" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
