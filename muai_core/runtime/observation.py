"""Looking at the devices without a controller: once, or again and again."""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from muai_core.control.actions import Action
from muai_core.control.events import DevicesObserved, DeviceSourceFailed, Event
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings, State
from muai_core.model.device import DeviceMeasurements
from muai_core.planning.balanced import Balanced
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.monitor import SourceThread, explained_absence
from muai_core.runtime.narrator import Narrator, Tell

#: How long all sources together may take to answer.
OBSERVE_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 1.0
#: Longer than anybody watches: the sources look when they are asked.
_NEVER_S = 10 * 365 * 86400.0

Sources = Mapping[DeviceSource, Mapping[str, Any]]


class DeviceObserver:
    """Device sources that are looked at on demand and stay open in between.

    Times are those of `time.monotonic`. Not thread-safe: one look at a time.
    """

    def __init__(self, sources: Sources, *, happenings: bool = False) -> None:
        """Starts the sources' threads. With `happenings` they are listened to between looks."""
        self._lock = threading.Lock()
        self._events: list[tuple[str, Event]] = []
        self._measured: dict[str, tuple[DeviceMeasurements, ...]] = {}
        self._empty: dict[str, bool] = {}
        self._threads = [
            self._thread(source, options, happenings) for source, options in sources.items()
        ]
        self._started = False

    def observe(self, deadline_s: float = OBSERVE_DEADLINE_S) -> list[Event]:
        """What the sources see and have told since the last look, source by source.

        Blocks for `deadline_s` seconds at most. A source that raises or does not answer in time
        becomes a `DeviceSourceFailed`; a late answer comes with the next look.
        """
        give_up_at_s = time.monotonic() + deadline_s
        for thread in self._threads:
            if self._started:
                thread.answered.clear()
                thread.look_again()
            else:
                thread.start()
        self._started = True
        late: list[tuple[str, Event]] = []
        for thread in self._threads:
            if not thread.answered.wait(max(0.0, give_up_at_s - time.monotonic())):
                name, reason = thread.source.name, f"no answer within {deadline_s:g} s"
                late.append((name, DeviceSourceFailed(source=name, reason=reason)))
        with self._lock:
            told, self._events = [*self._events, *late], []
        order = {thread.source.name: place for place, thread in enumerate(self._threads)}
        return [event for _, event in sorted(told, key=lambda one: order[one[0]])]

    @property
    def measurements(self) -> dict[str, DeviceMeasurements]:
        """What was measured last, by device UUID."""
        return {one.uuid: one for measured in list(self._measured.values()) for one in measured}

    def absences(self) -> list[str]:
        """A line from each source that found nothing and can say why."""
        empty = [thread.source for thread in self._threads if self._empty.get(thread.source.name)]
        return [line for source in empty if (line := explained_absence(source)) is not None]

    def close(self, timeout_s: float = _CLOSE_DEADLINE_S) -> None:
        """Close the sources; one that is stuck is left behind after `timeout_s` seconds."""
        for thread in self._threads:
            thread.stop()
        close_by_s = time.monotonic() + timeout_s
        if self._started:
            for thread in self._threads:
                thread.join(max(0.0, close_by_s - time.monotonic()))

    def _thread(
        self, source: DeviceSource, options: Mapping[str, Any], happenings: bool
    ) -> SourceThread:
        name = source.name

        def take(event: Event) -> None:
            with self._lock:
                self._events.append((name, event))
                if isinstance(event, DevicesObserved):
                    self._empty[name] = not event.inventory.devices

        return SourceThread(
            source,
            options,
            _NEVER_S,
            time.monotonic,
            take,
            measured=self._measured.__setitem__,
            happenings=happenings,
        )


class DeviceWatch:
    """What a control plane with nothing to place makes of the devices, look by look.

    So a finding counts here as it does in a controller, with the same memory of what was before.
    """

    def __init__(
        self,
        sources: Sources,
        settings: ControlSettings | None = None,
        tell: Tell | None = None,
    ) -> None:
        """Without `settings` the defaults hold, and no self-test is asked for.

        `tell` gets the words of a narrator about everything that changes.
        """
        self.observer = DeviceObserver(sources, happenings=True)
        #: What the plane made of the last look.
        self.actions: list[Action] = []
        self._narrator = None if tell is None else Narrator(tell)
        self._plane = ControlPlane(settings or without_self_tests(), Balanced(), Ladder())

    @property
    def state(self) -> State:
        """As of the last look."""
        return self._plane.state

    def look(self, deadline_s: float = OBSERVE_DEADLINE_S) -> State:
        """Observe once; see `DeviceObserver.observe`."""
        return self.tell(self.observer.observe(deadline_s))

    def tell(self, events: Iterable[Event]) -> State:
        """Let the plane know of something; for what no source sees."""
        events = list(events)
        self.actions = self._plane.step(time.monotonic(), events)
        if self._narrator is not None:
            self._narrator.follow(self.state, events, self.actions)
        return self.state

    def close(self) -> None:
        """Close the sources; see `DeviceObserver.close`."""
        self.observer.close()


def without_self_tests(settings: ControlSettings | None = None) -> ControlSettings:
    """The same, for a plane whose actions nobody carries out."""
    settings = settings or ControlSettings()
    return structs.replace(settings, health=structs.replace(settings.health, self_test="off"))


def observe_once(sources: Sources, deadline_s: float = OBSERVE_DEADLINE_S) -> list[Event]:
    """What each source sees, in the order given; blocks for `deadline_s` seconds at most.

    A source that raises or does not answer in time becomes a `DeviceSourceFailed`. Times are those
    of `time.monotonic`.
    """
    observer = DeviceObserver(sources)
    try:
        return observer.observe(deadline_s)
    finally:
        observer.close()
