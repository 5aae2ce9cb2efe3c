"""What device sources tell between two observations, on its way to the control plane."""

import threading
from collections.abc import Callable

import msgspec

from muai_core.control.events import DeviceFaulted, DeviceSourceFailed, Event
from muai_core.model.health import Finding
from muai_core.planning.wording import one_line
from muai_core.plugin.device_source import Happening

#: More than this within one second are not passed on, unless they are the first of their kind on
#: their device: a GPU in trouble may send thousands, and must not drown what another one says.
_MOST_PER_SECOND = 200
#: So many kinds, each on one device, are told apart within one second.
_MOST_KINDS = 2000


class HappeningQueue:
    """Turns one source's happenings into events. Safe from any thread; neither blocks nor raises.

    Of a storm the first of each second are passed on, and the first of each kind on each device;
    how many were not is told as a failure of the source, so that nothing is dropped silently.
    """

    def __init__(
        self, source: str, clock: Callable[[], float], emit: Callable[[Event], None]
    ) -> None:
        self._source = source
        self._clock = clock
        self._emit = emit
        self._lock = threading.Lock()
        self._second_began_s = clock()
        self._passed = 0
        self._dropped = 0
        #: What was passed on in this second, so that it comes first no more.
        self._kinds: set[tuple[str, str]] = set()

    def put(self, happening: Happening) -> None:
        """Pass it on, unless too many have come."""
        now_s = self._clock()
        with self._lock:
            dropped = 0
            if now_s - self._second_began_s >= 1.0:
                dropped, self._dropped = self._dropped, 0
                self._second_began_s, self._passed = now_s, 0
                self._kinds.clear()
            first = self._comes_first(happening)
            over = not first and self._passed >= _MOST_PER_SECOND
            self._passed += not over
            self._dropped += over
            # The first that is dropped is told at once, the number of all with the next.
            told = self._dropped if over and self._dropped == 1 else dropped
        if told:
            self._fail(f"too much happens at once: {told} or more happenings were dropped")
        if not over:
            self._emit(self._event(happening, now_s))

    def _comes_first(self, happening: object) -> bool:
        """With the lock held. What no field of has been checked may be of any type."""
        if not isinstance(happening, Happening) or not isinstance(happening.finding, Finding):
            return False
        uuid, kind = happening.uuid, happening.finding.kind
        if not isinstance(uuid, str | None) or not isinstance(kind, str):
            return False
        place = (uuid or "", happening.finding.key)
        if place in self._kinds or len(self._kinds) >= _MOST_KINDS:
            return False
        self._kinds.add(place)
        return True

    def _event(self, happening: object, now_s: float) -> Event:
        if not isinstance(happening, Happening):
            return self._failure(f"it told of a {type(happening).__name__}, not of a Happening")
        event = DeviceFaulted(
            source=self._source,
            uuid=happening.uuid,
            observed_at_s=now_s,
            finding=happening.finding,
        )
        try:
            # No field has been checked yet.
            return msgspec.json.decode(msgspec.json.encode(event), type=DeviceFaulted)
        except (ValueError, TypeError, OverflowError) as error:
            return self._failure(f"it told of a Happening that is malformed: {error}")

    def _fail(self, reason: str) -> None:
        self._emit(self._failure(reason))

    def _failure(self, reason: str) -> DeviceSourceFailed:
        return DeviceSourceFailed(source=self._source, reason=one_line(reason, 500))
