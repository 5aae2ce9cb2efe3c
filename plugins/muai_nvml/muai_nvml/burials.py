"""Killed probe processes until they are gone: nobody ever waits for one."""

import logging
from collections.abc import Callable

from msgspec import Struct

from muai_nvml.probe_process import ProbeProcess

_log = logging.getLogger(__name__)

#: A killed process that is still there after this long is stuck in the kernel.
_DIES_WITHIN_S = 5.0


class _Dying(Struct, kw_only=True, eq=False):
    process: ProbeProcess
    only: int | None
    killed_at_s: float
    #: It has outlived its kill, and that was said.
    undead: bool = False


class Burials:
    """Kills, remembers, reaps."""

    def __init__(self, stop_reading: Callable[[ProbeProcess], None]) -> None:
        self._stop_reading = stop_reading
        self._dying: list[_Dying] = []

    @property
    def pids(self) -> list[int]:
        """Those that are still there."""
        return [dying.process.pid for dying in self._dying]

    def bury(self, process: ProbeProcess, only: int | None, now_s: float) -> None:
        """`only`: the GPU that it looked at, if it was but one."""
        self._stop_reading(process)
        process.kill()
        self._dying.append(_Dying(process=process, only=only, killed_at_s=now_s))

    def waiting(self, index: int) -> int:
        """Killed probes of this GPU alone that are still there."""
        return sum(dying.only == index for dying in self._dying)

    def undead(self, index: int) -> int:
        """Those of them that were killed long ago."""
        return sum(dying.undead and dying.only == index for dying in self._dying)

    def reap(self, now_s: float) -> None:
        """Forgets those that are gone; says once of each other one that it does not end."""
        for dying in list(self._dying):
            if dying.process.reap():
                self._dying.remove(dying)
            elif not dying.undead and now_s - dying.killed_at_s >= _DIES_WITHIN_S:
                dying.undead = True
                _log.warning(
                    "the killed NVML probe process %d does not end: it is stuck in the driver",
                    dying.process.pid,
                )

    def next_due_s(self) -> float | None:
        """When `reap` has something to say."""
        due = [dying.killed_at_s for dying in self._dying if not dying.undead]
        return min(due) + _DIES_WITHIN_S if due else None
