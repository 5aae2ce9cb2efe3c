"""Counting what happens, and telling repetition from noise.

A fault rarely comes alone: one crash can raise the same XID a thousand times within a second. So
what follows the first of its kind within `burst_s` is counted but belongs to the same burst, and
only bursts say how often something came back.
"""

from collections.abc import Mapping

from muai_core.control.state import HealthSettings

#: How many different keys are counted apart on one device or source; the others are summed.
MOST_KEYS = 64
#: How many bursts of one key are remembered.
MOST_BURSTS = 20
#: Under this key what is beyond the limit is summed.
OTHERS = "other"


def counted(counts: Mapping[str, int], key: str) -> dict[str, int]:
    """`counts` with one more of `key`."""
    if key not in counts and len(counts) >= MOST_KEYS:
        key = OTHERS
    return {**counts, key: counts.get(key, 0) + 1}


def begins_burst(times: tuple[float, ...], at_s: float, settings: HealthSettings) -> bool:
    """Whether what happened at `at_s` is the first of its kind in a while."""
    return not times or at_s >= times[-1] + settings.burst_s


def with_burst(
    bursts: Mapping[str, tuple[float, ...]], key: str, at_s: float, settings: HealthSettings
) -> dict[str, tuple[float, ...]]:
    """`bursts` with the beginning of one more, without those that are too long ago to matter."""
    earliest_s = at_s - settings.repeat_window_s
    kept = {name: times for name, times in bursts.items() if times and times[-1] > earliest_s}
    times = kept.pop(key, ())
    if len(kept) >= MOST_KEYS:
        del kept[next(iter(kept))]
    recent = [time_s for time_s in times if time_s > earliest_s]
    return {**kept, key: (*recent[1 - MOST_BURSTS :], at_s)}


def seen_elsewhere(
    seen_on: tuple[tuple[str, float], ...], uuid: str, at_s: float, settings: HealthSettings
) -> bool:
    """Whether another device showed the same within the window: then it is the software's."""
    return any(
        where != uuid and when_s > at_s - settings.repeat_window_s for where, when_s in seen_on
    )


def with_sight(
    seen_on: tuple[tuple[str, float], ...], uuid: str, at_s: float
) -> tuple[tuple[str, float], ...]:
    """`seen_on` with one more sight; two devices are enough to know of another one."""
    others = [sight for sight in seen_on if sight[0] != uuid]
    return (*others[-1:], (uuid, at_s))
