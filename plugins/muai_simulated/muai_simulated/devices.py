"""The device source `simulated`: GPUs that react like real ones to what runs on them."""

import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from muai_core.model.cards import CARDS, Card
from muai_core.model.device import Device, DeviceProcess, DeviceReading, Inventory
from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import DeviceSource, SelfTest
from muai_simulated import holdings
from muai_simulated.holdings import Holding, Tenant

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_simulated.config import DeviceGroup, DeviceState
    from muai_simulated.state_file import DeviceStates

_UUID_NAMESPACE = uuid.UUID("5f3c6bd0-54a6-5d1c-9a51-6f0f2c1f3a10")
_IDLE_CELSIUS = 30.0
_FULL_LOAD_CELSIUS = 70.0
#: A GPU that decodes for one request already shows most of its utilization.
_ONE_REQUEST_PERCENT = 50.0
#: What the self-test of a real GPU takes.
_SELF_TEST_BYTES = 2**30
_SELF_TEST_TIMEOUT_S = 10.0


class _SimulatedGpu(Struct, frozen=True):
    device: Device
    profile: Card
    memory_foreign_bytes: int


class SimulatedDevices(DeviceSource):
    """N simulated GPUs. What runs on them is read from the holdings of the simulated engines.

    What an engine of a dead controller still holds is foreign memory.
    """

    name = "simulated"
    on_by_default = False

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or holdings.default_directory()
        self._gpus: tuple[_SimulatedGpu, ...] = ()
        self._idle: dict[str, DeviceReading] = {}
        self._states: DeviceStates | None = None

    def options_model(self) -> "type[BaseModel]":
        from muai_simulated.config import DeviceOptions

        return DeviceOptions

    def open(self, options: Mapping[str, Any]) -> None:
        """Raises pydantic's ValidationError (a ValueError) on wrong options."""
        from muai_simulated.config import DeviceOptions

        validated = DeviceOptions.model_validate(dict(options))
        self._gpus = simulated_gpus(validated.device_groups())
        self._idle = {gpu.device.uuid: _reading(gpu, []) for gpu in self._gpus}
        self._states = None
        if validated.state_file is not None:
            from muai_simulated.state_file import DeviceStates

            path = Path(validated.state_file).expanduser().absolute()
            self._states = DeviceStates(path, tuple(gpu.device for gpu in self._gpus))

    def observe(self, now_s: float) -> Inventory:
        """Raises StateFileError, with file, place and what is allowed, on a broken state file."""
        states = self._states.read() if self._states else {}
        tenants = self._tenants()
        devices: list[Device] = []
        readings: list[DeviceReading] = []
        for gpu in self._gpus:
            device = gpu.device
            state = states.get(device.uuid)
            if state is not None and state.lost:
                continue
            here = tenants.get(device.uuid, [])
            if here or state is not None:
                reading = _reading(gpu, here, state)
            else:
                reading = self._idle[device.uuid]
            devices.append(device)
            readings.append(reading)
        return Inventory(
            source=self.name,
            observed_at_s=now_s,
            devices=tuple(devices),
            readings=tuple(readings),
        )

    def self_test(self, device: Device) -> SelfTest:
        """A process that ends as the state file says. Raises StateFileError on a broken one."""
        state = self._states.read().get(device.uuid) if self._states else None
        outcome = "pass" if state is None else state.self_test
        return SelfTest(
            argv=(sys.executable, "-P", "-m", "muai_simulated.self_test", outcome),
            timeout_s=_SELF_TEST_TIMEOUT_S,
            memory_bytes=_SELF_TEST_BYTES,
        )

    def _tenants(self) -> dict[str, list[Tenant]]:
        """Device UUID → who holds memory there."""
        found: dict[str, list[Tenant]] = {}
        for tenant in holdings.tenants(self._directory, os.getpid()):
            for device_uuid in tenant.holding.memory_bytes:
                found.setdefault(device_uuid, []).append(tenant)
        return found


def simulated_gpus(groups: "Iterable[DeviceGroup]") -> tuple[_SimulatedGpu, ...]:
    """The GPUs of all groups. Indices count up within a node; UUIDs depend on nothing else than
    profile, node and index, so they are the same at every start.
    """
    gpus: list[_SimulatedGpu] = []
    next_index: dict[str, int] = {}
    for group in groups:
        for number in range(group.nodes):
            node = group.node if group.nodes == 1 else f"{group.node}-{number}"
            first = next_index.get(node, 0)
            next_index[node] = first + group.gpus
            gpus.extend(_gpu(group, node, first, offset) for offset in range(group.gpus))
    return tuple(gpus)


def _gpu(group: "DeviceGroup", node: str, first: int, offset: int) -> _SimulatedGpu:
    profile = CARDS[group.profile]
    index = first + offset
    island = None
    if profile.nvlink:
        # Named after its first GPU, which no other island of the node has.
        leader = first + offset - offset % (group.island_size or profile.island_size or group.gpus)
        island = f"{node}/nvlink-{leader}"
    device = Device(
        uuid=f"GPU-{uuid.uuid5(_UUID_NAMESPACE, f'{group.profile}/{node}/{index}')}",
        node=node,
        index=index,
        kind="gpu",
        platform="simulated",
        name=profile.marketing_name,
        memory_total_bytes=profile.memory_total_bytes,
        island=island,
        pci_bus_id=f"{index // 255:08X}:{index % 255 + 1:02X}:00.0",
        compute_capability=profile.compute_capability,
    )
    return _SimulatedGpu(device, profile, int(group.foreign_memory_gib * 2**30))


def _reading(
    gpu: _SimulatedGpu,
    tenants: list[Tenant],
    state: "DeviceState | None" = None,
) -> DeviceReading:
    """A reading that follows from what runs now alone: no chance, no memory of the past."""
    total = gpu.device.memory_total_bytes
    held = [(t.holding.memory_bytes[gpu.device.uuid], t) for t in tenants]
    foreign = gpu.memory_foreign_bytes
    if state is not None and state.memory_foreign_bytes is not None:
        foreign = state.memory_foreign_bytes
    own = sum(held_bytes for held_bytes, tenant in held if not tenant.is_orphan)
    foreign += sum(held_bytes for held_bytes, tenant in held if tenant.is_orphan)
    utilization = min(100.0, sum((_utilization_percent(t.holding) for t in tenants), 0.0))
    if state is not None and state.utilization_percent is not None:
        utilization = state.utilization_percent
    share = utilization / 100
    reading = DeviceReading(
        uuid=gpu.device.uuid,
        memory_used_bytes=min(total, own + foreign),
        memory_foreign_bytes=min(total, foreign),
        utilization_percent=utilization,
        temperature_celsius=_IDLE_CELSIUS + share * (_FULL_LOAD_CELSIUS - _IDLE_CELSIUS),
        power_watts=gpu.profile.idle_watts
        + share * (gpu.profile.power_limit_watts - gpu.profile.idle_watts),
        processes=tuple(
            DeviceProcess(tenant.holding.pid, held_bytes) for held_bytes, tenant in held
        ),
    )
    if state is None:
        return reading
    return msgspec.structs.replace(
        reading,
        findings=_findings(state),
        temperature_celsius=reading.temperature_celsius
        if state.temperature_celsius is None
        else state.temperature_celsius,
    )


def _findings(state: "DeviceState") -> tuple[Finding, ...]:
    severity = Health(state.health or Health.HEALTHY)
    if severity is Health.HEALTHY:
        return ()
    reason = state.health_reason or f"{severity.value} by the state file"
    return (Finding(kind="simulated", severity=severity, reason=reason, clears="at_once"),)


def _utilization_percent(holding: Holding) -> float:
    if not holding.requests_running:
        return 0.0
    return _ONE_REQUEST_PERCENT + (100 - _ONE_REQUEST_PERCENT) * holding.load
