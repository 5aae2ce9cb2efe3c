"""What a hostile source says must not fill the state."""

from muai_core.control import events as ev
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings
from muai_core.model.device import DeviceReading, Inventory
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
