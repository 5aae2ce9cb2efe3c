"""What follows from an XID or another event of the driver's, as tables: event → action → finding.

An action is a word that the config may use in `xid_actions`. The catalogue's resolution decides
unless `EXCEPTIONS` names the XID; the config decides over both.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from msgspec import Struct

from muai_core.model.health import Clears, Finding, Health, Recovery
from muai_nvml import driver_events
from muai_nvml.xid_catalogue import CATALOGUE, Resolution

XidAction = Literal[
    "ignore",
    "restart_app",
    "degrade",
    "suspect",
    "fail_reset",
    "fail_reboot",
    "fail_service",
]
XID_ACTIONS: tuple[str, ...] = get_args(XidAction)


class Consequence(Struct, frozen=True, kw_only=True):
    """What an action makes of the device."""

    severity: Health
    recovery: Recovery | None = None
    clears: Clears = "clean"
    repeat_limit: int = 0
    advice: str


#: So many of the same XID on one GPU within a day speak against the GPU rather than its software
#: (NVSentinel's rule for XIDs 13 and 31).
_REPEATS = 2

CONSEQUENCES: dict[XidAction, Consequence] = {
    "ignore": Consequence(severity=Health.HEALTHY, advice=""),
    "restart_app": Consequence(
        severity=Health.HEALTHY,
        repeat_limit=_REPEATS,
        advice="restart what ran on it; if it recurs, suspect the GPU",
    ),
    "degrade": Consequence(
        severity=Health.DEGRADED, clears="clean", advice="drain it and reset it when convenient"
    ),
    "suspect": Consequence(
        severity=Health.SUSPECT, clears="checked", advice="check it before it is used again"
    ),
    "fail_reset": Consequence(
        severity=Health.FAILED,
        recovery="reset",
        clears="repaired",
        advice="end its processes and reset it: nvidia-smi --gpu-reset -i <GPU>",
    ),
    "fail_reboot": Consequence(
        severity=Health.FAILED, recovery="reboot", clears="repaired", advice="reboot the node"
    ),
    "fail_service": Consequence(
        severity=Health.FAILED,
        recovery="service",
        clears="repaired",
        advice="have the GPU and its slot checked",
    ),
}

_BY_RESOLUTION: dict[Resolution, XidAction] = {
    "IGNORE": "ignore",
    "RESTART_APP": "restart_app",
    "RESET_GPU": "fail_reset",
    "RESTART_BM": "fail_reboot",
    "RESTART_VM": "fail_reboot",
    "CHECK_MECHANICALS": "fail_service",
    "CHECK_UVM": "suspect",
    "UPDATE_SWFW": "ignore",
    "CONTACT_SUPPORT": "suspect",
    "WORKFLOW": "suspect",
    "NONE": "ignore",
}

#: Where MuAI does otherwise than the catalogue's resolution, and why.
EXCEPTIONS: dict[int, XidAction] = {
    14: "ignore",
    # Follows another XID, and is never the root cause alone.
    45: "ignore",
    # The workflow ends in a reset wherever the error was not contained; DCGM fails the GPU too.
    48: "fail_reset",
    # The remapping needs a reset to take effect; running work is not affected.
    63: "degrade",
    # DCGM fails the GPU: its links cannot be trusted until they are trained again.
    74: "fail_reset",
    # More corrected errors than usual.
    92: "degrade",
    # The driver says what it wants in field 230, which is read at once.
    154: "ignore",
    # Reports about power smoothing, no faults.
    164: "degrade",
    165: "degrade",
    167: "fail_reboot",
    168: "degrade",
    169: "fail_reset",
    # They come with an XID 48.
    171: "fail_reset",
    172: "fail_reset",
}

#: nvml.h, nvmlEventType*: kind, words, and the action of the XID that means the same.
OTHER_EVENTS: dict[int, tuple[str, str, XidAction]] = {
    driver_events.DOUBLE_BIT_ECC: (
        "ecc_double_bit",
        "double-bit memory error",
        "fail_reset",
    ),
    driver_events.SINGLE_BIT_ECC_STORM: (
        "ecc_single_bit_storm",
        "high rate of single-bit memory errors",
        "degrade",
    ),
    driver_events.DRAM_RETIREMENT: (
        "dram_retirement",
        "faulty memory was retired or remapped",
        "degrade",
    ),
    driver_events.DRAM_RETIREMENT_FAILURE: (
        "dram_retirement_failure",
        "faulty memory could not be retired or remapped",
        "fail_reset",
    ),
    driver_events.NON_FATAL_POISON: (
        "poison_contained",
        "corrupt data was stopped before it spread",
        "restart_app",
    ),
    driver_events.FATAL_POISON: ("poison_fatal", "corrupt data has spread", "fail_reset"),
    driver_events.GPU_UNAVAILABLE: (
        "gpu_unavailable",
        "the driver cannot use it any more",
        "fail_reboot",
    ),
    driver_events.GPU_RECOVERY_ACTION: (
        "recovery_action_changed",
        "the recovery action that the driver asks for has changed",
        "ignore",
    ),
}


def action_of(xid: int, overrides: Mapping[int, XidAction]) -> XidAction:
    """An XID that no table knows makes the GPU suspect: better checked than trusted."""
    if xid in overrides:
        return overrides[xid]
    if xid in EXCEPTIONS:
        return EXCEPTIONS[xid]
    return _BY_RESOLUTION[CATALOGUE[xid].resolution] if xid in CATALOGUE else "suspect"


def finding_of_event(event_type: int, data: int, overrides: Mapping[int, XidAction]) -> Finding:
    """What an event of the driver's says about its GPU."""
    if event_type == driver_events.XID:
        name = CATALOGUE[data].name if data in CATALOGUE else "not in the catalogue"
        return _finding("xid", data, f"XID {data}: {name}", action_of(data, overrides))
    if event_type in OTHER_EVENTS:
        kind, words, action = OTHER_EVENTS[event_type]
        return _finding(kind, None, words, action)
    return _finding("driver_event", event_type, f"event {event_type:#x} of the driver", "ignore")


def _finding(kind: str, code: int | None, reason: str, action: XidAction) -> Finding:
    consequence = CONSEQUENCES[action]
    return Finding(
        kind=kind,
        code=code,
        severity=consequence.severity,
        recovery=consequence.recovery,
        reason=reason,
        advice=consequence.advice,
        clears=consequence.clears,
        repeat_limit=consequence.repeat_limit,
    )
