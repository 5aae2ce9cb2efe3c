"""Device sources in threads of their own: whatever one does, the others and the loop go on."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from muai_core.control.events import DevicesObserved, DeviceSourceFailed, Event
from muai_core.model.device import Inventory
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.monitor import DeviceMonitor
from muai_core.runtime.observation import observe_once


class FakeSource(DeviceSource):
    """Does what the test says at each call."""

    def __init__(self, name: str, act: Callable[[int, float], Any]) -> None:
        self.name = name
        self.calls = 0
        self.closed = threading.Event()
        self._act = act

    def observe(self, now_s: float) -> Inventory:
        self.calls += 1
        found: Inventory = self._act(self.calls, now_s)
        return found

    def close(self) -> None:
        self.closed.set()


def empty(name: str) -> Callable[[int, float], Inventory]:
    return lambda _, now_s: Inventory(source=name, observed_at_s=now_s, devices=())


def raising(call: int, now_s: float) -> Inventory:
    raise OSError(f"no driver at call {call}")


class Watched:
    """A running monitor and everything it has emitted."""

    def __init__(self, *sources: DeviceSource, interval_s: float = 0.02) -> None:
        self.events: list[Event] = []
        self.monitor = DeviceMonitor(
            {key: {} for key in sources}, interval_s, time.monotonic, self.events.append
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)

    def failures(self, source: str) -> list[str]:
        return [
            event.reason
            for event in self.events
            if isinstance(event, DeviceSourceFailed) and event.source == source
        ]

    def inventories(self, source: str) -> int:
        return sum(
            isinstance(event, DevicesObserved) and event.inventory.source == source
            for event in self.events
        )


async def test_a_source_that_raises_is_reported_and_asked_again() -> None:
    watched = Watched(FakeSource("bad", raising), FakeSource("good", empty("good")))
    watched.monitor.start()
    await watched.until(lambda: len(watched.failures("bad")) > 2)
    await watched.until(lambda: watched.inventories("good") > 2)
    await watched.monitor.close()
    assert watched.failures("bad")[1] == "OSError: no driver at call 2"


async def test_a_source_that_recovers_is_heard_again() -> None:
    def once_bad(call: int, now_s: float) -> Inventory:
        return raising(call, now_s) if call == 1 else empty("shaky")(call, now_s)

    watched = Watched(FakeSource("shaky", once_bad))
    watched.monitor.start()
    await watched.until(lambda: watched.inventories("shaky") > 0)
    await watched.monitor.close()
    assert watched.failures("shaky") == ["OSError: no driver at call 1"]


async def test_a_stuck_source_delays_nobody(monkeypatch: Any) -> None:
    monkeypatch.setattr("muai_core.runtime.monitor._PATIENCE_S", 0.1)
    released = threading.Event()

    def stuck(call: int, now_s: float) -> Inventory:
        released.wait(60)
        return empty("stuck")(call, now_s)

    watched = Watched(FakeSource("stuck", stuck), FakeSource("good", empty("good")))
    watched.monitor.start()
    await watched.until(lambda: watched.inventories("good") > 3)
    await watched.until(lambda: bool(watched.failures("stuck")))
    before = watched.inventories("good")
    await watched.until(lambda: watched.inventories("good") > before)
    assert watched.inventories("stuck") == 0
    assert len(watched.failures("stuck")) == 1
    await watched.monitor.close(timeout_s=0.05)
    released.set()


async def test_answers_that_make_no_sense_are_failures() -> None:
    wrong = FakeSource("wrong", lambda _, __: "two GPUs")
    lying = FakeSource("lying", empty("somebody else"))
    watched = Watched(wrong, lying)
    watched.monitor.start()
    await watched.until(lambda: bool(watched.failures("wrong") and watched.failures("lying")))
    await watched.monitor.close()
    assert "not Inventory" in watched.failures("wrong")[0]
    assert "somebody else" in watched.failures("lying")[0]


async def test_closing_closes_the_sources() -> None:
    source = FakeSource("good", empty("good"))
    watched = Watched(source, interval_s=60)
    watched.monitor.start()
    await watched.monitor.first_answers(60)
    await watched.monitor.close()
    assert source.closed.is_set()
    assert source.calls == 1


async def test_the_first_look_is_bounded() -> None:
    released = threading.Event()
    source = FakeSource("slow", lambda _, __: released.wait(60))
    watched = Watched(source)
    watched.monitor.start()
    assert await watched.monitor.first_answers(0.05) == ["slow"]
    assert watched.events == []
    released.set()
    await watched.monitor.close()


async def test_first_answers_have_been_emitted_when_they_are_there() -> None:
    asked_again = threading.Event()

    def answer(call: int, now_s: float) -> Inventory:
        if call == 2:
            asked_again.set()
        return empty("quick")(call, now_s)

    watched = Watched(FakeSource("quick", answer))
    watched.monitor.start()
    try:
        # Keeps the loop busy until the source has answered.
        assert asked_again.wait(60)
        assert await watched.monitor.first_answers(60) == []
        assert any(isinstance(event, DevicesObserved) for event in watched.events)
    finally:
        await watched.monitor.close()


def test_one_look_reports_every_source_in_order() -> None:
    released = threading.Event()
    sources: dict[DeviceSource, dict[str, Any]] = {
        FakeSource("good", empty("good")): {},
        FakeSource("bad", raising): {},
        FakeSource("stuck", lambda _, __: released.wait(60)): {},
    }
    facts = observe_once(sources, deadline_s=1)
    released.set()
    kinds = [type(fact).__name__ for fact in facts]
    assert kinds == ["DevicesObserved", "DeviceSourceFailed", "DeviceSourceFailed"]
