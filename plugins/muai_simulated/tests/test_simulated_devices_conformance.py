"""The simulated GPUs keep the contract of all device sources."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from muai_simulated.devices import SimulatedDevices

from muai_core.testing import DeviceSourceConformance


class TestSimulatedDevices(DeviceSourceConformance):
    """A mixed fleet with a device that ails."""

    @pytest.fixture(autouse=True)
    def _holdings(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.holdings = tmp_path_factory.mktemp("holdings")

    def make_source(self) -> SimulatedDevices:
        return SimulatedDevices(self.holdings)

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        state = tmp_path / "state.yaml"
        state.write_text("devices: {sim/0: {health: degraded, health_reason: by the test}}\n")
        groups = [{"gpus": 2}, {"gpus": 1, "profile": "L4-24GB"}]
        return {"groups": groups, "state_file": str(state)}
