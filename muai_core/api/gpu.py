"""What a program is told of one GPU."""

from msgspec import Struct

from muai_core.control.state import DeviceRecord, State
from muai_core.model.device import DeviceReading
from muai_core.model.health import Finding, Health
from muai_core.telemetry.devices import SILENT

MIB = 1024**2


class UnknownGPU(LookupError):
    """No GPU has this device id; the text says which ids there are."""


class GPUInfo(Struct, frozen=True, kw_only=True):
    """One GPU at one moment. None means that the GPU does not tell, never zero."""

    #: Its index on the node, or the next free number where several GPUs share an index (several
    #: nodes, MIG). Stays the same as long as the manager lives.
    device_id: int
    #: Its identity.
    uuid: str
    node: str
    index: int
    name: str
    memory_total_bytes: int | None
    #: Held by processes, whoever they belong to.
    memory_used_bytes: int | None
    #: Used by nobody.
    memory_available_bytes: int | None
    #: 0 to 100.
    utilization_percent: float | None
    temperature_celsius: float | None
    power_watts: float | None
    health: Health
    #: Why it is not healthy, and what to do about it.
    health_reason: str | None = None
    advice: str | None = None
    pci_bus_id: str | None = None
    compute_capability: str | None = None
    driver_version: str | None = None
    #: GPUs of one island reach each other over NVLink or the like.
    island: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it may get new work: healthy or degraded."""
        return self.health.placeable

    @property
    def memory_total_mb(self) -> float | None:
        """In units of 2**20 bytes, as `nvidia-smi` counts."""
        return _mb(self.memory_total_bytes)

    @property
    def memory_used_mb(self) -> float | None:
        return _mb(self.memory_used_bytes)

    @property
    def memory_available_mb(self) -> float | None:
        return _mb(self.memory_available_bytes)

    @property
    def utilization(self) -> float | None:
        """Short for `utilization_percent`."""
        return self.utilization_percent

    @property
    def temperature(self) -> float | None:
        """Short for `temperature_celsius`."""
        return self.temperature_celsius


class HealthReport(Struct, frozen=True, kw_only=True):
    """How one GPU is, and all that counts against it."""

    device_id: int
    #: Whether it may get new work: healthy or degraded.
    healthy: bool
    health: Health
    reason: str | None
    advice: str | None
    findings: tuple[Finding, ...]
    #: What the self-test that was asked for did and found, in words. None: none was asked for.
    self_test: str | None = None


def gpu_info(device_id: int, record: DeviceRecord, state: State) -> GPUInfo:
    """A GPU as it was at the last look; what it said before it fell silent is no longer told."""
    device = record.device
    silent = DeviceReading(uuid=device.uuid)
    reading = record.reading if _answers(record, state) else silent
    used, free = reading.memory_used_bytes, reading.memory_free_bytes
    if free is None and used is not None:
        reserved = reading.memory_reserved_bytes or 0
        free = max(0, device.memory_total_bytes - used - reserved)
    return GPUInfo(
        device_id=device_id,
        uuid=device.uuid,
        node=device.node,
        index=device.index,
        name=device.name,
        memory_total_bytes=device.memory_total_bytes or None,
        memory_used_bytes=used,
        memory_available_bytes=free,
        utilization_percent=reading.utilization_percent,
        temperature_celsius=reading.temperature_celsius,
        power_watts=reading.power_watts,
        health=record.health,
        health_reason=record.health_reason,
        advice=record.condition.advice or None,
        pci_bus_id=device.pci_bus_id,
        compute_capability=device.compute_capability,
        driver_version=device.driver_version,
        island=device.island,
    )


def _answers(record: DeviceRecord, state: State) -> bool:
    source = state.sources[record.source]
    if not record.present or source.failure is not None or source.fault is not None:
        return False
    findings = record.reading.findings
    return not any(finding.kind in SILENT or finding.key in SILENT for finding in findings)


def _mb(memory_bytes: int | None) -> float | None:
    return None if memory_bytes is None else memory_bytes / MIB
