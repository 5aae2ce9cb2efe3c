"""What is told at once: events of the driver's, missed deadlines, recovery actions."""

from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from muai_core.model.health import Finding, Health
from muai_core.plugin.device_source import Happening
from muai_nvml.conditions import recovery_action
from muai_nvml.slots import Listener, Slot, Stuck
from muai_nvml.wire import Occurred
from muai_nvml.xid_policy import XidAction, finding_of_event

#: Two probes that both wait for events hear of the same one within this time of each other.
_SAME_WITHIN_S = 1.0
_EVENTS_REMEMBERED = 1024


class _Heard(Struct, frozen=True):
    probe_pid: int
    key: tuple[int | None, int | None, int, int]
    at_s: float


class Teller(Listener):
    """Turns what the fleet tells into happenings."""

    def __init__(
        self,
        tell: Callable[[Happening], None],
        xid_actions: Mapping[int, XidAction],
        misses_until_failed: int,
    ) -> None:
        self._tell = tell
        self._xid_actions = xid_actions
        self._misses_until_failed = misses_until_failed
        self._heard: deque[_Heard] = deque(maxlen=_EVENTS_REMEMBERED)

    def occurred(self, slot: Slot | None, event: Occurred, probe_pid: int) -> None:
        if self._heard_from_another(event, probe_pid):
            return
        finding = finding_of_event(event.event_type, event.data, self._xid_actions)
        for uuid in _uuids(slot, event.gpu_instance):
            self._tell(Happening(uuid=uuid, finding=finding))

    def unresponsive(self, slot: Slot) -> None:
        if slot.stuck is None or slot.described is None:
            return
        if slot.stuck.misses in (1, self._misses_until_failed):
            finding = unresponsive(slot.stuck, self._misses_until_failed)
            for device in slot.described.devices:
                self._tell(Happening(uuid=device.uuid, finding=finding))

    def rechecked(self, slot: Slot) -> None:
        if slot.sampled is None or slot.described is None:
            return
        finding = recovery_action(slot.sampled.facts)
        if finding is not None:
            for device in slot.described.devices:
                self._tell(Happening(uuid=device.uuid, finding=finding))

    def events_broken(self, text: str) -> None:
        finding = Finding(
            kind="events_broken",
            severity=Health.HEALTHY,
            reason=f"waiting for the driver's events fails, it is tried again: {text}",
        )
        self._tell(Happening(uuid=None, finding=finding))

    def _heard_from_another(self, event: Occurred, probe_pid: int) -> bool:
        """Each event of one probe answers for at most one of another's."""
        key = (event.index, event.gpu_instance, event.event_type, event.data)
        for heard in self._heard:
            near = abs(heard.at_s - event.at_s) <= _SAME_WITHIN_S
            if near and heard.key == key and heard.probe_pid != probe_pid:
                self._heard.remove(heard)
                return True
        self._heard.append(_Heard(probe_pid, key, event.at_s))
        return False


def unresponsive(stuck: Stuck, misses_until_failed: int, undead: int = 0) -> Finding:
    """The finding about a GPU that does not answer."""
    failed = stuck.misses >= misses_until_failed
    times = f", {stuck.misses} times in a row" if stuck.misses > 1 else ""
    reason = f"it does not answer: {stuck.words}{times}"
    if undead:
        reason += f"; {undead} probe processes are stuck in the driver and cannot be killed"
    return Finding(
        kind="unresponsive",
        severity=Health.FAILED if failed else Health.SUSPECT,
        recovery="reboot" if failed else None,
        reason=reason,
        advice="look into the kernel log for XIDs 119 and 120; reboot the node if it stays",
        clears="checked" if failed else "clean",
    )


def _uuids(slot: Slot | None, gpu_instance: int | None) -> tuple[str | None, ...]:
    """Of the MIG instance where the event names one, else of all of the GPU; (None,): unknown."""
    if slot is None or slot.described is None:
        return (None,)
    devices = slot.described.devices
    if gpu_instance in slot.described.gpu_instances:
        pairs = zip(devices, slot.described.gpu_instances, strict=True)
        return tuple(device.uuid for device, instance in pairs if instance == gpu_instance)
    return tuple(device.uuid for device in devices)
