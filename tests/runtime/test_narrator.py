"""What `muai run` tells of devices: what ails one, once, and that it is well again."""

from muai_core.control.events import DeviceChecked, DeviceFaulted, DevicesObserved, Event
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.model.health import Clears, Finding, Health
from muai_core.planning.balanced import Balanced
from muai_core.runtime.narrator import Narrator

GPU = Device(
    uuid="GPU-1",
    node="box",
    index=3,
    kind="gpu",
    platform="cuda",
    name="NVIDIA H100",
    memory_total_bytes=80 * 1024**3,
)


class Told:
    """A narrator that follows a control plane, and its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.narrator = Narrator(lambda severity, line: self.lines.append((severity, line)))
        self.plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
        self.now_s = 0.0

    def observe(
        self, *readings: DeviceReading, fault: HostFault | None = None
    ) -> list[tuple[str, str]]:
        """The lines that one more observation leads to."""
        self.now_s += 1.0
        inventory = Inventory(
            source="gpus",
            observed_at_s=self.now_s,
            devices=(GPU,) if readings else (),
            readings=readings,
            fault=fault,
        )
        return self.step(DevicesObserved(inventory=inventory))

    def step(self, *events: Event) -> list[tuple[str, str]]:
        actions = self.plane.step(self.now_s, events)
        self.lines.clear()
        self.narrator.follow(self.plane.state, events, actions)
        return list(self.lines)


def reading(health: Health, reason: str = "") -> DeviceReading:
    finding = Finding(kind="seen", severity=health, reason=reason, clears="at_once")
    return DeviceReading(uuid=GPU.uuid, findings=() if health is Health.HEALTHY else (finding,))


def test_a_device_that_fails_is_told_once_and_so_is_its_return() -> None:
    told = Told()
    assert told.observe(reading(Health.HEALTHY)) == []
    failed = reading(Health.FAILED, "XID 79: fallen off\nthe bus")
    assert told.observe(failed) == [("bad", "box/gpu3: failed: XID 79: fallen off the bus")]
    assert told.observe(failed) == []
    assert told.observe(reading(Health.DEGRADED, "slow")) == [("info", "box/gpu3: degraded: slow")]
    assert told.observe(reading(Health.HEALTHY)) == [
        ("good", "box/gpu3: healthy again: the last reading does not show it any more")
    ]
    assert told.observe(reading(Health.HEALTHY)) == []


def test_a_device_that_left_and_came_back_unwell_is_told_again() -> None:
    told = Told()
    failed = reading(Health.SUSPECT, "XID 79")
    assert told.observe(failed)
    assert told.observe() == [
        (
            "bad",
            "box/gpu3: failed: no longer seen by its source; look for it in the kernel log; "
            "`muai reinstate` makes MuAI forget it",
        )
    ]
    assert told.observe() == []
    assert told.observe(failed) == [("info", "box/gpu3: suspect: XID 79")]


def test_the_advice_is_told_with_the_cause() -> None:
    told = Told()
    told.observe(reading(Health.HEALTHY))
    assert told.step(fault("xid", 79, Health.FAILED, "XID 79: off the bus", "reboot the node")) == [
        ("bad", "box/gpu3: failed: XID 79: off the bus; reboot the node")
    ]


def test_what_changes_no_health_is_told_once_per_burst() -> None:
    told = Told()
    told.observe(reading(Health.HEALTHY))
    benign = fault("xid", 43, Health.HEALTHY, "XID 43: an application stopped")
    assert told.step(benign) == [("info", "box/gpu3: XID 43: an application stopped")]
    assert told.step(*[benign] * 50) == []
    told.now_s += 200.0
    again = fault("xid", 43, Health.HEALTHY, "XID 43: an application stopped", at_s=told.now_s)
    assert told.step(again) == [
        ("info", "box/gpu3: XID 43: an application stopped (52 times so far)")
    ]


def test_a_host_fault_is_told_once_for_all_devices() -> None:
    told = Told()
    told.observe(reading(Health.HEALTHY))
    gone = HostFault(kind="no_driver", reason="the driver is gone", advice="load it")
    assert told.observe(reading(Health.HEALTHY), fault=gone) == [
        (
            "bad",
            "device source gpus: nothing is known of its devices: the driver is gone; load it",
        )
    ]
    assert told.observe(reading(Health.HEALTHY), fault=gone) == []
    assert told.observe(reading(Health.HEALTHY)) == [
        ("good", "device source gpus: sees its devices again (it was: the driver is gone)")
    ]


def test_a_self_test_that_proved_nothing_is_told_once() -> None:
    told = Told()
    told.observe(reading(Health.HEALTHY))
    told.step(fault("xid", 94, Health.SUSPECT, "XID 94", clears="checked"))
    told.observe(reading(Health.HEALTHY))
    nothing = DeviceChecked(uuid=GPU.uuid, check=1, inconclusive="no library")
    assert told.step(nothing) == [("info", "box/gpu3: the self-test proved nothing: no library")]
    assert told.step(nothing) == []


def fault(
    kind: str,
    code: int,
    health: Health,
    reason: str,
    advice: str = "",
    *,
    clears: Clears = "clean",
    at_s: float = 1.0,
) -> DeviceFaulted:
    finding = Finding(
        kind=kind, code=code, severity=health, reason=reason, advice=advice, clears=clears
    )
    return DeviceFaulted(source="gpus", uuid=GPU.uuid, observed_at_s=at_s, finding=finding)
