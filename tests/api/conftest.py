import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import structs

from muai_core.api import GPUManager
from muai_core.model.device import Device, DeviceReading, HostFault, Inventory
from muai_core.plugin.device_source import DeviceSource, Happening

GIB = 1024**3
DEADLINE_S = 30.0


def wait_until(condition: Callable[[], Any]) -> Any:
    """The first value of `condition` that is not None or False."""
    give_up_at_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < give_up_at_s:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {DEADLINE_S:g} s")


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], Any]], Any]:
    return wait_until


class Box(DeviceSource):
    """A box of GPUs whose readings a test writes."""

    name = "box"

    def __init__(self, gpus: int, **facts: Any) -> None:
        self.devices = {
            number: Device(
                uuid=f"GPU-{number}",
                node=facts.get("node", "box"),
                index=number,
                kind="gpu",
                platform="cuda",
                name="G",
                memory_total_bytes=80 * GIB,
                island="box/nvlink",
            )
            for number in range(gpus)
        }
        self.readings = {number: DeviceReading(uuid=f"GPU-{number}") for number in range(gpus)}
        self.failure: BaseException | None = None
        self.fault: HostFault | None = None
        self.absence: str | None = None
        self.tell: Callable[[Happening], None] = lambda happening: None
        self.opened = self.closed = self.observed = 0

    def reads(self, number: int, **fields: Any) -> None:
        """From now on this GPU reads so."""
        self.readings[number] = structs.replace(self.readings[number], **fields)

    def open(self, options: Any) -> None:
        self.opened += 1

    def listen(self, tell: Callable[[Happening], None]) -> None:
        self.tell = tell

    def observe(self, now_s: float) -> Inventory:
        self.observed += 1
        if self.failure is not None:
            raise self.failure
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=tuple(self.devices.values()),
            readings=tuple(self.readings[number] for number in self.devices),
            fault=self.fault,
        )

    def explain_absence(self) -> str | None:
        return self.absence

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def box() -> Box:
    """Four GPUs of 80 GiB."""
    return Box(4)


@pytest.fixture
def make_box() -> type[Box]:
    return Box


@pytest.fixture
def manager(box: Box) -> Iterator[GPUManager]:
    with GPUManager(sources=[box]) as made:
        yield made


@pytest.fixture
def simulated_config(tmp_path: Path) -> Path:
    """A config with four simulated GPUs and a state file for their faults."""
    state = tmp_path / "gpus.yaml"
    state.write_text("{}\n")
    config = tmp_path / "muai.yaml"
    simulated = {"gpus": 4, "profile": "A100-80GB", "node": "box", "state_file": str(state)}
    config.write_text(
        yaml.safe_dump(
            {
                "devices": {"sources": ["simulated"], "simulated": simulated},
                "models": {"chat": {"source": "simulated:chat", "engine": "simulated"}},
            }
        )
    )
    return config
