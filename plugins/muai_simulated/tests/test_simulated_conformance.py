"""The simulated engine keeps the contract of all engines."""

from pathlib import Path

import pytest
from muai_simulated.devices import SimulatedDevices
from muai_simulated.engine import SimulatedEngine

from muai_core import Deployment, Device, DeviceSource, Shape
from muai_core.testing import EngineConformance


class TestSimulatedEngine(EngineConformance):
    @pytest.fixture(autouse=True)
    def _holdings(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls = type(self)
        if not hasattr(cls, "holdings"):
            cls.holdings = tmp_path_factory.mktemp("holdings")
            cls.devices = SimulatedDevices(cls.holdings)
            cls.devices.open({"gpus": 4})

    def make_engine(self) -> SimulatedEngine:
        return SimulatedEngine(self.holdings)

    def make_deployment(self, tmp_path: Path) -> Deployment:
        return Deployment(
            name="sim",
            source="simulated:sim",
            engine="simulated",
            platforms=("simulated",),
            engine_options={"tokens_per_second": 500, "memory_gib": 10},
        )

    def make_devices(self) -> tuple[Device, ...]:
        return self.devices.observe(0).devices

    def make_device_source(self) -> DeviceSource:
        return self.devices

    def make_shapes(self) -> tuple[Shape, ...]:
        return (Shape(2, 1), Shape(1, 2))
