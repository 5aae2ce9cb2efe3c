"""Looking at devices without a controller: on demand, with the sources open in between."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from muai_core.control.events import DeviceFaulted, DevicesObserved, DeviceSourceFailed
from muai_core.model.device import Device, DeviceMeasurements, Inventory, Measurement
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource, Happening
from muai_core.runtime.observation import DeviceObserver, observe_once


class Source(DeviceSource):
    """One GPU, or none, and a gate that a look may have to wait at."""

    def __init__(self, name: str = "one", gpus: int = 1) -> None:
        self.name = name
        self.gpus = gpus
        self.gate = threading.Event()
        self.gate.set()
        self.looking = threading.Event()
        self.looks = self.opened = self.closed = 0
        self.tell: Callable[[Happening], None] | None = None
        self.absence: str | Exception | None = None

    def open(self, options: Any) -> None:
        self.opened += 1

    def listen(self, tell: Callable[[Happening], None]) -> None:
        self.tell = tell

    def observe(self, now_s: float) -> Inventory:
        self.looking.set()
        assert self.gate.wait(60)
        self.looks += 1
        uuid = f"GPU-{self.name}"
        device = Device(
            uuid=uuid,
            node="n",
            index=0,
            kind="gpu",
            platform="cuda",
            name="G",
            memory_total_bytes=1,
        )
        values = (Measurement("gpu_power_limit_watts", float(self.looks)),)
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=(device,) * self.gpus,
            measurements=(DeviceMeasurements(uuid, values),),
        )

    def explain_absence(self) -> str | None:
        if isinstance(self.absence, Exception):
            raise self.absence
        return self.absence

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def observing() -> Iterator[Callable[..., DeviceObserver]]:
    made: list[DeviceObserver] = []

    def observe(*sources: Source, **options: Any) -> DeviceObserver:
        made.append(DeviceObserver({source: {} for source in sources}, **options))
        return made[-1]

    yield observe
    for observer in made:
        observer.close()


def test_a_source_is_opened_once_and_looked_at_on_demand(observing: Any) -> None:
    source = Source()
    observer = observing(source)
    for look in (1, 2, 3):
        (event,) = observer.observe()
        assert isinstance(event, DevicesObserved)
        assert source.looks == look
    assert (source.opened, source.closed) == (1, 0)
    observer.close()
    assert source.closed == 1


def test_measurements_are_those_of_the_last_look(observing: Any) -> None:
    observer = observing(Source())
    observer.observe()
    (event,) = observer.observe()
    assert event.inventory.measurements == ()
    assert observer.measurements["GPU-one"].values[0].value == 2.0


def test_events_come_source_by_source_in_the_order_given(observing: Any) -> None:
    slow, fast = Source("slow"), Source("fast")
    slow.gate.clear()
    observer = observing(slow, fast)
    opener = threading.Timer(0.05, slow.gate.set)
    opener.start()
    events = observer.observe()
    opener.join()
    assert [event.inventory.source for event in events] == ["slow", "fast"]


def test_a_late_answer_comes_with_the_next_look(observing: Any) -> None:
    source = Source()
    observer = observing(source)
    observer.observe()
    source.gate.clear()
    (failed,) = observer.observe(0.05)
    assert failed == DeviceSourceFailed(source="one", reason="no answer within 0.05 s")
    source.gate.set()
    events = observer.observe()
    assert isinstance(events[-1], DevicesObserved)
    assert not any(isinstance(event, DeviceSourceFailed) for event in events)


def test_happenings_between_two_looks_come_before_the_next_inventory(observing: Any) -> None:
    source = Source()
    observer = observing(source, happenings=True)
    observer.observe()
    finding = Finding(kind="xid", code=13, severity=Health.HEALTHY, reason="x")
    assert source.tell is not None
    source.tell(Happening(uuid="GPU-one", finding=finding))
    faulted, observed = observer.observe()
    assert isinstance(faulted, DeviceFaulted)
    assert faulted.finding == finding
    assert isinstance(observed, DevicesObserved)


def test_one_look_does_not_listen() -> None:
    source = Source()
    observe_once({source: {}})
    assert (source.tell, source.closed) == (None, 1)


def test_absences_are_told_by_those_that_found_nothing(observing: Any) -> None:
    empty, full, odd = Source("empty", 0), Source("full"), Source("odd", 0)
    empty.absence, full.absence = "no driver\nhere", "never asked"
    odd.absence = RuntimeError("cannot say")
    observer = observing(empty, full, odd)
    assert observer.absences() == []
    observer.observe()
    assert observer.absences() == [
        "no driver here",
        "device source odd found nothing; RuntimeError: cannot say",
    ]


def test_closing_does_not_wait_for_a_source_that_is_stuck(observing: Any) -> None:
    source = Source()
    source.gate.clear()
    observer = observing(source)
    observer.observe(0.05)
    observer.close(0.05)
    assert source.closed == 0
    source.gate.set()


def test_closing_before_the_first_look_opens_nothing(observing: Any) -> None:
    source = Source()
    observing(source).close()
    assert (source.opened, source.closed) == (0, 0)
