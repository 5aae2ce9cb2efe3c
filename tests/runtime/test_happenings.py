"""What a source tells between two observations: nothing is lost silently, and no storm gets in."""

from typing import Any

from muai_core.control.events import DeviceFaulted, DeviceSourceFailed, Event
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import Happening
from muai_core.runtime.happenings import HappeningQueue

XID = Finding(kind="xid", code=79, severity=Health.FAILED, reason="XID 79")

XID_31 = Finding(kind="xid", code=31, severity=Health.HEALTHY, reason="XID 31")


class Told:
    """A queue on a clock of its own, and what came out."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events: list[Event] = []
        self.queue = HappeningQueue("nvml", lambda: self.now_s, self.events.append)

    def put(self, finding: Any = XID, times: int = 1, uuid: str = "GPU-1") -> None:
        for _ in range(times):
            self.queue.put(Happening(uuid=uuid, finding=finding))

    @property
    def faults(self) -> list[DeviceFaulted]:
        return [event for event in self.events if isinstance(event, DeviceFaulted)]

    @property
    def complaints(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, DeviceSourceFailed)]


def test_a_happening_is_an_event_with_its_time() -> None:
    told = Told()
    told.now_s = 12.5
    told.put()
    assert told.events == [
        DeviceFaulted(source="nvml", uuid="GPU-1", observed_at_s=12.5, finding=XID)
    ]


def test_a_storm_is_cut_and_every_dropped_happening_is_counted() -> None:
    told = Told()
    told.put(times=1000)
    passed = len(told.faults)
    assert 0 < passed < 1000
    assert len(told.complaints) == 1
    told.now_s = 1.5
    told.put()
    assert len(told.faults) == passed + 1
    assert f"{1000 - passed} or more" in told.complaints[1]


def test_a_storm_does_not_drown_what_is_new() -> None:
    told = Told()
    told.put(XID_31, times=1000)
    told.put(XID)
    told.put(XID_31, uuid="GPU-2")
    told.put(XID_31, times=1000)
    fresh = [(one.uuid, one.finding.code) for one in told.faults[-2:]]
    assert fresh == [("GPU-1", 79), ("GPU-2", 31)]
    assert len(told.faults) < 300


def test_a_storm_of_nothing_but_new_things_is_cut_too() -> None:
    told = Told()
    for code in range(20_000):
        told.put(Finding(kind="odd", code=code, severity=Health.HEALTHY, reason="odd"))
    assert len(told.faults) < 3_000
    assert len(told.complaints) == 1


def test_what_makes_no_sense_is_the_source_s_failure() -> None:
    told = Told()
    told.queue.put("XID 79")  # type: ignore[arg-type]
    told.put(finding="XID 79")
    told.put(finding=Finding(kind=7, severity=Health.FAILED, reason="x"))  # type: ignore[arg-type]
    assert not told.faults
    assert len(told.complaints) == 3
