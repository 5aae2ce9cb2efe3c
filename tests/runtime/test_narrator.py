"""What `muai run` tells of devices: what ails one, once, and that it is well again."""

from muai_core.control.events import DevicesObserved
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
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

    def observe(self, *readings: DeviceReading) -> list[tuple[str, str]]:
        """The lines that one more observation leads to."""
        self.now_s += 1.0
        inventory = Inventory(
            source="gpus",
            observed_at_s=self.now_s,
            devices=(GPU,) if readings else (),
            readings=readings,
        )
        event = DevicesObserved(inventory=inventory)
        actions = self.plane.step(self.now_s, [event])
        self.lines.clear()
        self.narrator.follow(self.plane.state, [event], actions)
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
    assert told.observe(reading(Health.DEGRADED)) == [("bad", "box/gpu3: degraded")]
    assert told.observe(reading(Health.HEALTHY)) == [("good", "box/gpu3: healthy again")]
    assert told.observe(reading(Health.HEALTHY)) == []


def test_a_device_that_left_and_came_back_unwell_is_told_again() -> None:
    told = Told()
    failed = reading(Health.FAILED, "XID 79")
    assert told.observe(failed)
    assert told.observe() == []
    assert told.observe(failed) == [("bad", "box/gpu3: failed: XID 79")]
