"""Devices as the world shows them: identity, readings, health."""

from enum import StrEnum
from typing import Literal

from msgspec import Struct

Platform = Literal["cpu", "cuda", "simulated"]
DeviceKind = Literal["cpu", "gpu"]


class Health(StrEnum):
    """What is known of a device's fitness; only `healthy` and `degraded` devices get new claims."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    SUSPECT = "suspect"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def placeable(self) -> bool:
        return self in (Health.HEALTHY, Health.DEGRADED)


class Device(Struct, frozen=True, kw_only=True):
    """One accelerator, or the host's CPU. Its identity is the UUID; the index is for display."""

    uuid: str
    node: str
    index: int
    kind: DeviceKind
    platform: Platform
    name: str
    memory_total_bytes: int
    #: Devices of one island reach each other over NVLink or the like; tensor parallelism stays
    #: inside. None: no fast link.
    island: str | None = None
    pci_bus_id: str | None = None
    compute_capability: str | None = None


class DeviceProcess(Struct, frozen=True):
    """A process that holds memory on a device."""

    pid: int
    memory_bytes: int | None = None


class DeviceReading(Struct, frozen=True, kw_only=True):
    """One sample of one device. None means the device does not tell, never zero or unhealthy."""

    uuid: str
    health: Health = Health.HEALTHY
    health_reason: str | None = None
    memory_used_bytes: int | None = None
    #: Held by processes that are not MuAI's: never available to a placement.
    memory_foreign_bytes: int | None = None
    #: In percent, 0 to 100.
    utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    processes: tuple[DeviceProcess, ...] = ()


class Inventory(Struct, frozen=True, kw_only=True):
    """Everything one device source sees at one moment; what it does not list is not there."""

    source: str
    #: Seconds on the controller's clock at which the observation began.
    observed_at_s: float
    devices: tuple[Device, ...]
    readings: tuple[DeviceReading, ...] = ()
