"""From what is known of the GPUs to an inventory: devices, findings, links, or a host fault."""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from muai_core.model.device import (
    Device,
    DeviceLink,
    DeviceMeasurements,
    DeviceReading,
    HostFault,
    Inventory,
)
from muai_core.model.health import Finding, Health
from muai_nvml.conditions import conditions
from muai_nvml.happenings import unresponsive
from muai_nvml.return_codes import HOST_WIDE, finding_of, host_fault_of, name_of
from muai_nvml.slots import Slot
from muai_nvml.thresholds import Thresholds
from muai_nvml.wire import Described

_VANISHED = Finding(
    kind="vanished",
    severity=Health.FAILED,
    recovery="reboot",
    reason="the driver does not list it any more",
    advice="reboot the node; if it stays away, have the GPU and its slot checked",
    clears="checked",
)
_NO_ANSWER_YET = Finding(
    kind="no_answer_yet",
    severity=Health.UNKNOWN,
    reason="it has not answered yet; the driver may be waking it",
    clears="at_once",
)
_OUT_OF_SIGHT = Finding(
    kind="no_answer_yet",
    severity=Health.UNKNOWN,
    reason="the numbers of the GPUs have changed, and it may be one that does not say who it is",
    advice="look at nvidia-smi",
    clears="at_once",
)
_SAME_UUID = Finding(
    kind="nvml_error",
    severity=Health.UNKNOWN,
    reason="the driver gives it the UUID of another GPU",
    advice="look at nvidia-smi -L",
    clears="at_once",
)
_MIG_WITHOUT_INSTANCES = Finding(
    kind="mig_without_instances",
    severity=Health.UNKNOWN,
    reason="MIG mode is on, but there are no MIG instances to run anything on",
    advice="create instances (nvidia-smi mig -cgi ... -C) or turn MIG off (nvidia-smi -mig 0)",
    clears="at_once",
)


class Settings(Struct, frozen=True, kw_only=True):
    """What an inventory depends on beside the GPUs."""

    source: str
    node: str
    thresholds: Thresholds
    misses_until_failed: int


class Assembler:
    """Remembers every GPU that was ever seen: one that vanishes stays listed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, Described] = {}

    @property
    def knows_devices(self) -> bool:
        """Whether any GPU was ever seen."""
        return bool(self._known)

    def inventory(
        self,
        slots: Iterable[Slot],
        links: tuple[DeviceLink, ...],
        *,
        asked_at_s: float,
        observed_at_s: float,
        fault: HostFault | None,
        undead: Mapping[int, int],
    ) -> Inventory:
        """`asked_at_s` is on the probes' clock, `observed_at_s` the same moment on the
        controller's. `fault`: NVML does not work at all."""
        slots = list(slots)
        for slot in slots:
            if slot.described is not None:
                self._known[slot.described.gpu_uuid] = slot.described
        there = self._identify(slots)
        fault = fault or host_fault(slots, len(self._known))
        offset_s = observed_at_s - asked_at_s
        devices: list[Device] = []
        readings: list[DeviceReading] = []
        measurements: list[DeviceMeasurements] = []
        for uuid, described in self._known.items():
            its = there.get(uuid)
            findings = () if fault else self._findings(its, described, undead)
            if its is None and not fault and len(there) < len(slots):
                findings = (_OUT_OF_SIGHT,)
            devices += described.devices
            readings += _readings(its, described, findings, asked_at_s, offset_s)
            if its is not None and its.sampled is not None and _speaks(its):
                measurements += its.sampled.measurements
        identified = {slot.index for slot in there.values()}
        for nameless in slots:
            if nameless.index not in identified:
                device = self._placeholder(nameless)
                findings = () if fault else self._findings(nameless, None, undead)
                devices.append(device)
                readings.append(DeviceReading(uuid=device.uuid, findings=findings))
        return Inventory(
            source=self._settings.source,
            observed_at_s=observed_at_s,
            devices=_numbered(_on_islands(devices, links, self._known), self._vanished(there)),
            readings=tuple(readings),
            links=_between_devices(links, devices),
            fault=fault,
            measurements=tuple(measurements),
        )

    def _identify(self, slots: list[Slot]) -> dict[str, Slot]:
        """GPU UUID → its slot. A GPU whose handle fails is known by its number from before; if
        the numbers have moved, the missing ones are taken in their order."""
        there = {slot.described.gpu_uuid: slot for slot in slots if slot.described is not None}
        nameless = [slot for slot in slots if slot.described is None]
        missing = [uuid for uuid in self._known if uuid not in there]
        missing.sort(key=lambda uuid: self._known[uuid].index)
        if len(nameless) == len(missing):
            there |= dict(zip(missing, nameless, strict=True))
        return there

    def _vanished(self, there: Mapping[str, Slot]) -> frozenset[str]:
        return frozenset(uuid for uuid in self._known if uuid not in there)

    def _findings(
        self, slot: Slot | None, described: Described | None, undead: Mapping[int, int]
    ) -> tuple[Finding, ...]:
        if slot is None:
            return (_VANISHED,)
        found: list[Finding] = []
        if slot.stuck is not None:
            found.append(
                unresponsive(
                    slot.stuck, self._settings.misses_until_failed, undead.get(slot.index, 0)
                )
            )
        if slot.failure is not None:
            found.append(finding_of(slot.failure))
        elif slot.sampled is not None and described is None:
            found.append(_SAME_UUID)
        elif slot.sampled is not None:
            facts = slot.sampled.facts
            found += conditions(facts, slot.history, self._settings.thresholds)
        elif slot.stuck is None:
            found.append(_NO_ANSWER_YET)
        if described is not None and described.mig_without_instances:
            found.append(_MIG_WITHOUT_INSTANCES)
        return tuple(found)

    def _placeholder(self, slot: Slot) -> Device:
        return Device(
            uuid=f"GPU-unknown-{slot.index}",
            node=self._settings.node,
            index=slot.index,
            kind="gpu",
            platform="cuda",
            name="NVIDIA GPU",
            memory_total_bytes=0,
            vendor="NVIDIA",
        )


def host_fault(slots: list[Slot], known: int) -> HostFault | None:
    """Every GPU that answers fails with a code that may speak of the host: so it does."""
    if not slots and known > 1:
        return HostFault(
            kind="devices_gone",
            reason=f"the driver lists no GPU any more; there were {known}",
            advice="look at nvidia-smi and the kernel log; reboot the node if they stay away",
        )
    failures = [slot.failure for slot in slots if slot.stuck is None]
    codes = [failure.code for failure in failures if failure is not None]
    if not codes or len(codes) < len(failures) or not HOST_WIDE.issuperset(codes):
        return None
    first = next(failure for failure in failures if failure is not None)
    everyone = "the only GPU" if len(codes) == 1 else f"all {len(codes)} GPUs"
    return host_fault_of(first.code, f"{first.call} answers {name_of(first.code)} for {everyone}")


def _speaks(slot: Slot) -> bool:
    """Whether its last values are still about it. Unlike readings, measurements bear no time."""
    return slot.failure is None and slot.stuck is None


def _readings(
    slot: Slot | None,
    described: Described,
    findings: tuple[Finding, ...],
    asked_at_s: float,
    offset_s: float,
) -> list[DeviceReading]:
    """One for each device: with its last values, unless it answers that it has none, and when it
    last had some."""
    sampled = slot.sampled if slot is not None else None
    values: dict[str, DeviceReading] = {}
    sampled_at_s = None
    if slot is not None and sampled is not None:
        if slot.failure is None:
            values = {reading.uuid: reading for reading in sampled.readings}
        if sampled.at_s < asked_at_s:
            sampled_at_s = sampled.at_s + offset_s
    return [
        msgspec.structs.replace(
            values.get(device.uuid) or DeviceReading(uuid=device.uuid),
            findings=findings,
            sampled_at_s=sampled_at_s,
        )
        for device in described.devices
    ]


def _on_islands(
    devices: list[Device], links: tuple[DeviceLink, ...], known: Mapping[str, Described]
) -> list[Device]:
    """NVLink's connected components; a MIG instance has no NVLink."""
    index = {uuid: described.index for uuid, described in known.items()}
    leader = {uuid: uuid for uuid in known}

    def find(uuid: str) -> str:
        while leader[uuid] != uuid:
            uuid = leader[uuid]
        return uuid

    linked = set()
    for link in links:
        if link.kind == "NVL" and link.a in leader and link.b in leader:
            linked |= {link.a, link.b}
            a, b = find(link.a), find(link.b)
            first, last = sorted((a, b), key=lambda uuid: index[uuid])
            leader[last] = first
    return [
        msgspec.structs.replace(device, island=f"{device.node}/nvlink-{index[find(device.uuid)]}")
        if device.uuid in linked
        else device
        for device in devices
    ]


def _numbered(devices: list[Device], vanished: frozenset[str]) -> tuple[Device, ...]:
    """With CUDA's number: CUDA counts whole GPUs that are there by their PCI bus ids."""
    counted = sorted(
        (device.pci_bus_id, device.uuid)
        for device in devices
        if device.pci_bus_id and device.mig_index is None and device.uuid not in vanished
    )
    number = {uuid: rank for rank, (_, uuid) in enumerate(counted)}
    return tuple(
        msgspec.structs.replace(device, cuda_index=number.get(device.uuid))
        for device in sorted(devices, key=lambda device: (device.index, device.mig_index or 0))
    )


def _between_devices(
    links: tuple[DeviceLink, ...], devices: list[Device]
) -> tuple[DeviceLink, ...]:
    """Those between devices that are listed; a MIG instance is none of them."""
    listed = {device.uuid for device in devices}
    return tuple(link for link in links if link.a in listed and link.b in listed)
