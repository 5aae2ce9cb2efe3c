"""What is listed under another name has not vanished."""

from msgspec import structs

from muai_core.control import events as ev
from muai_core.control.actions import ReportHealth
from muai_core.control.invariants import violations
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.planning.balanced import Balanced

WHOLE = Device(
    uuid="GPU-0",
    node="n1",
    index=0,
    kind="gpu",
    platform="cuda",
    name="GPU",
    memory_total_bytes=80 * 1024**3,
    pci_bus_id="0000:18:00.0",
)
PARTS = tuple(
    structs.replace(WHOLE, uuid=f"MIG-{n}", parent_uuid="GPU-0", mig_index=n) for n in range(2)
)
NAMELESS = structs.replace(WHOLE, uuid="GPU-unknown-0", memory_total_bytes=0, pci_bus_id=None)
UNKNOWN = Finding(kind="k", severity=Health.UNKNOWN, reason="no answer", clears="at_once")


class Fleet:
    def __init__(self) -> None:
        self.plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
        self.now_s = 0.0

    def lists(self, *devices: Device, finding: Finding | None = None) -> list[ReportHealth]:
        """What is told about health after an inventory of these."""
        self.now_s += 1.0
        findings = () if finding is None else (finding,)
        readings = tuple(DeviceReading(uuid=one.uuid, findings=findings) for one in devices)
        inventory = Inventory(
            source="nvml", observed_at_s=self.now_s, devices=devices, readings=readings
        )
        actions = self.plane.step(self.now_s, [ev.DevicesObserved(inventory=inventory)])
        assert violations(self.plane.state) == []
        return [action for action in actions if isinstance(action, ReportHealth)]

    @property
    def health(self) -> dict[str, str]:
        return {uuid: one.health.value for uuid, one in self.plane.state.devices.items()}


def test_a_gpu_that_is_divided_and_put_together_again_has_not_failed() -> None:
    fleet = Fleet()
    fleet.lists(WHOLE)
    assert fleet.lists(*PARTS) == []
    assert fleet.health == {"MIG-0": "healthy", "MIG-1": "healthy"}
    assert fleet.lists(PARTS[0]) == []
    assert fleet.health == {"MIG-0": "healthy"}
    assert fleet.lists(WHOLE) == []
    assert fleet.health == {"GPU-0": "healthy"}


def test_a_place_of_which_nothing_was_known_is_not_missed_once_it_has_a_name() -> None:
    fleet = Fleet()
    fleet.lists(NAMELESS, finding=UNKNOWN)
    assert fleet.health == {"GPU-unknown-0": "unknown"}
    assert fleet.lists(WHOLE) == []
    assert fleet.health == {"GPU-0": "healthy"}


def test_a_gpu_that_a_replica_holds_is_missed_until_it_is_released() -> None:
    fleet = Fleet()
    chat = Deployment(name="chat", source="m", engine="simulated", platforms=("cuda",))
    fleet.lists(WHOLE)
    fleet.plane.step(fleet.now_s, [ev.DeploymentsDesired(deployments=(chat,))])
    assert fleet.plane.state.ledger.on("GPU-0")
    (told,) = fleet.lists(*PARTS)
    assert (told.uuid, told.after) == ("GPU-0", Health.FAILED)


def test_a_gpu_that_is_nowhere_has_vanished() -> None:
    fleet = Fleet()
    fleet.lists(WHOLE)
    (told,) = fleet.lists()
    assert (told.uuid, told.after) == ("GPU-0", Health.FAILED)
