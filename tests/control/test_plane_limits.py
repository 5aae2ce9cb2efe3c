"""What a hostile source says must not fill the state."""

from muai_core.control import events as ev
from muai_core.control.devices import MOST_ABSENT
from muai_core.control.invariants import violations
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.control.tally import MOST_KEYS
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.planning.balanced import Balanced


def test_reasons_without_end_are_summed() -> None:
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    for number in range(1000):
        reading = DeviceReading(uuid=f"GPU-{number}", memory_foreign_bytes=-1)
        inventory = Inventory(source="liar", observed_at_s=0.0, devices=(), readings=(reading,))
        plane.step(1.0, [ev.DevicesObserved(inventory=inventory)])
    assert len(plane.state.rejected) <= 201
    assert sum(plane.state.rejected.values()) == 1000
    assert plane.state.rejected["DevicesObserved: other reasons"] == 800


def gpu(number: int) -> Device:
    return Device(
        uuid=f"GPU-{number}",
        node="n1",
        index=number,
        kind="gpu",
        platform="cuda",
        name="GPU",
        memory_total_bytes=80 * 1024**3,
    )


def test_devices_that_come_and_go_without_end_are_forgotten_in_the_end() -> None:
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    for number in range(30):
        devices = tuple(gpu(100 * number + place) for place in range(100))
        inventory = Inventory(source="liar", observed_at_s=float(number), devices=devices)
        plane.step(float(number), [ev.DevicesObserved(inventory=inventory)])
    absent = [uuid for uuid, record in plane.state.devices.items() if not record.present]
    assert len(absent) == MOST_ABSENT
    # The oldest went first.
    assert absent[0] == "GPU-1900"
    assert violations(plane.state) == []


def test_happenings_without_end_are_summed() -> None:
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    readings = (DeviceReading(uuid="GPU-0"),)
    inventory = Inventory(source="liar", observed_at_s=0.0, devices=(gpu(0),), readings=readings)
    plane.step(0.0, [ev.DevicesObserved(inventory=inventory)])
    for number in range(3000):
        found = Finding(
            kind="k", code=number, severity=Health.HEALTHY, reason="?", repeat_limit=1000
        )
        for uuid in ("GPU-0", "GPU-9", None):
            fault = ev.DeviceFaulted(source="liar", uuid=uuid, observed_at_s=0.0, finding=found)
            plane.step(1.0, [fault])
    counts = plane.state.devices["GPU-0"].condition.counts
    assert (len(counts), sum(counts.values())) == (MOST_KEYS + 1, 3000)
    source = plane.state.sources["liar"]
    assert (len(source.counts), sum(source.counts.values())) == (MOST_KEYS + 1, 6000)
    assert len(source.bursts) <= MOST_KEYS
    assert len(plane.state.seen_on) <= 2000
    assert violations(plane.state) == []
