"""Looking at the devices once, for commands that start nothing."""

import time
from collections.abc import Mapping
from typing import Any

from muai_core.control.events import DeviceSourceFailed, Event
from muai_core.control.plane import ControlPlane
from muai_core.control.recovery import Ladder
from muai_core.control.state import ControlSettings, State
from muai_core.planning.balanced import Balanced
from muai_core.plugin.device_source import DeviceSource
from muai_core.runtime.monitor import SourceThread

#: How long all sources together may take to answer.
OBSERVE_DEADLINE_S = 10.0
_CLOSE_DEADLINE_S = 1.0
#: Longer than any command lives: one observation is all.
_NEVER_S = 3600.0


def observe_once(
    sources: Mapping[DeviceSource, Mapping[str, Any]], deadline_s: float = OBSERVE_DEADLINE_S
) -> list[Event]:
    """What each source sees, in the order given; blocks for `deadline_s` seconds at most.

    A source that raises or does not answer in time becomes a `DeviceSourceFailed`. Times are those
    of `time.monotonic`.
    """
    facts: dict[str, Event] = {}
    threads = []
    for source, options in sources.items():

        def note(fact: Event, name: str = source.name) -> None:
            facts.setdefault(name, fact)

        threads.append(SourceThread(source, options, _NEVER_S, time.monotonic, note))
    for thread in threads:
        thread.start()
    give_up_at_s = time.monotonic() + deadline_s
    for thread in threads:
        if not thread.answered.wait(max(0.0, give_up_at_s - time.monotonic())):
            reason = f"no answer within {deadline_s:g} s"
            note(DeviceSourceFailed(source=thread.source.name, reason=reason), thread.source.name)
        thread.stop()
    close_by_s = time.monotonic() + _CLOSE_DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, close_by_s - time.monotonic()))
    return [facts[source.name] for source in sources]


def devices_in(facts: list[Event]) -> State:
    """The control plane's view of devices that were observed, with nothing to place on them."""
    plane = ControlPlane(ControlSettings(), Balanced(), Ladder())
    plane.step(time.monotonic(), facts)
    return plane.state
