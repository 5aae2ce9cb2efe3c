"""Whether a replica's devices have their memory back after its processes are gone.

A driver can hold on to the memory of a process that died, and what is held by nobody is not there
for the next replica. Where the driver has shown the replica's processes, that can be seen: memory
in use that no living process owns, grown since the replica started.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from muai_core.model.device import DeviceReading
from muai_core.runtime.monitor import DeviceMonitor

#: A driver rounds, and keeps some hundred MiB per device for itself.
_SLACK_BYTES = 1024**3
#: A source that does not answer in this time has a device that gets no new claims anyway.
_ANSWER_WITHIN_S = 4.0

Incarnation = tuple[str, int]


class _Start(Struct, frozen=True):
    """When a replica started, and how much memory of its devices nobody owned then, by UUID."""

    at_s: float
    unowned_bytes: dict[str, int]


class MemoryReturn:
    """Remembers each start, and looks at the devices again after the end."""

    def __init__(self, monitor: DeviceMonitor, clock: Callable[[], float]) -> None:
        self._monitor = monitor
        self._clock = clock
        self._starts: dict[Incarnation, _Start] = {}

    def started(self, replica: Incarnation, uuids: Iterable[str]) -> None:
        """Call it before the replica has a process."""
        before = {}
        for uuid in uuids:
            reading = self._monitor.reading(uuid)
            unowned = None if reading is None else unowned_bytes(reading)
            if unowned is not None:
                before[uuid] = unowned
        self._starts[replica] = _Start(self._clock(), before)

    def released(self, replica: Incarnation) -> None:
        """Call it when the release is proven."""
        self._starts.pop(replica, None)

    async def still_held(self, replica: Incarnation, timeout_s: float) -> tuple[str, ...]:
        """What is not back, in words; call it when no process of the replica is left.

        Looks at the devices afresh. Nothing is said of a device that does not answer, or whose
        driver does not show whose memory is whose.
        """
        start = self._starts.get(replica)
        if start is None:
            return ()
        telling = {
            uuid: unowned
            for uuid, unowned in start.unowned_bytes.items()
            if self._monitor.own_processes_seen_since(uuid, start.at_s)
        }
        if not telling:
            return ()
        fresh = await self._monitor.fresh_readings(telling, min(timeout_s, _ANSWER_WITHIN_S))
        return tuple(
            f"{held / 1024**3:.1f} GiB of {uuid} are in use, but no process owns them"
            for uuid, held in _held(telling, fresh)
        )


def _held(
    before: Mapping[str, int], fresh: Mapping[str, DeviceReading]
) -> Iterable[tuple[str, int]]:
    for uuid, reading in fresh.items():
        unowned = unowned_bytes(reading)
        if unowned is not None and unowned - before[uuid] > _SLACK_BYTES:
            yield uuid, unowned - before[uuid]


def unowned_bytes(reading: DeviceReading) -> int | None:
    """Memory in use that none of the listed processes holds; None when that cannot be told.

    It cannot where the driver does not tell every process's memory, or shows host processes that
    are invisible here (a container with process ids of its own).
    """
    if reading.memory_used_bytes is None:
        return None
    held = 0
    for process in reading.processes:
        if process.memory_bytes is None or process.own is None:
            return None
        held += process.memory_bytes
    return max(0, reading.memory_used_bytes - held)
