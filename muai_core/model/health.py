"""Health: the states of a device, and the findings that put it there.

A device source reports findings: conditions that hold in a reading, and events that happened
between two readings. What follows from them over time is the control plane's business
(`muai_core.control.health`), so that every source gets the same latching and hysteresis.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from msgspec import Struct


class Health(StrEnum):
    """What is known of a device's fitness; only `healthy` and `degraded` devices get new claims."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    SUSPECT = "suspect"
    FAILED = "failed"

    @property
    def placeable(self) -> bool:
        return self in (Health.HEALTHY, Health.DEGRADED)

    @property
    def rank(self) -> int:
        """0 for healthy, up to 4 for failed: of several findings the highest decides."""
        return _RANKS[self]


_RANKS = {health: rank for rank, health in enumerate(Health)}

#: What brings a failed device back.
Recovery = Literal["reset", "reboot", "service"]
_REPAIRS: tuple[Recovery | None, ...] = (None, "reset", "reboot", "service")

#: When a finding stops counting:
#: `at_once`   with the first reading that does not show it;
#: `clean`     after `devices.health.clean_readings` readings in a row that do not show it;
#: `checked`   likewise, or at once by a passed self-test that began after it was last seen; if it
#:             made the device failed, only by such a self-test;
#: `tested`    by such a self-test only: what a self-test has found, no reading refutes;
#: `repaired`  when an operator reinstates the device, or the driver withdraws the recovery action
#:             that it asked for and a self-test passes afterwards.
Clears = Literal["at_once", "clean", "checked", "tested", "repaired"]

#: The kind of the finding with which a driver asks for a recovery action (NVML field 230).
RECOVERY_ACTION = "recovery_action"


class Finding(Struct, frozen=True, kw_only=True):
    """One piece of evidence about a device.

    `severity` is what it makes of the device; HEALTHY means that it is only counted and told.
    """

    #: A short, stable word: `xid`, `unresponsive`, `row_remap_pending`, ... With `code` it says
    #: whether two findings are the same one.
    kind: str
    #: The XID, the return code, or the like.
    code: int | None = None
    severity: Health
    #: Only for FAILED.
    recovery: Recovery | None = None
    #: What was seen, in words, without the device: "XID 79: fell off the bus".
    reason: str
    #: What to do, in words: "reboot the node". Empty: nothing.
    advice: str = ""
    clears: Clears = "clean"
    #: For what happens between readings: so many of the same on one device within
    #: `devices.health.repeat_window_s` make it SUSPECT (bursts count once). 0: they never do.
    repeat_limit: int = 0

    @property
    def key(self) -> str:
        """`kind` or `kind:code`."""
        return self.kind if self.code is None else f"{self.kind}:{self.code}"


def worst(findings: Iterable[Finding]) -> Finding | None:
    """The finding with the highest severity; None when there is none.

    Of several it is the one that needs the greatest repair, of these the first.
    """
    return max(findings, key=_weight, default=None)


def _weight(finding: Finding) -> tuple[int, int]:
    return finding.severity.rank, _REPAIRS.index(finding.recovery)
