"""What a GPU's own counts and flags say about its health, as findings. Pure.

The names of the kinds are stable. What a condition makes of the device over time is the control
plane's business; here is only what holds now.
"""

from collections.abc import Iterator

from msgspec import Struct

from muai_core.model.health import RECOVERY_ACTION, Finding, Health, Recovery
from muai_nvml.thresholds import Thresholds
from muai_nvml.wire import Facts

_HW_SLOWDOWN, _HW_THERMAL, _HW_POWER_BRAKE = 0x8, 0x40, 0x80
#: The most specific first: the driver sets HW_SLOWDOWN beside the other two.
_SLOWDOWNS = (
    (_HW_THERMAL, "hw_thermal_slowdown", "it runs hot", "check the cooling: fans, air flow, paste"),
    (
        _HW_POWER_BRAKE,
        "hw_power_brake",
        "an external power brake holds it back",
        "check the power supply",
    ),
    (
        _HW_SLOWDOWN,
        "hw_slowdown",
        "its hardware slows it down",
        "check its cooling and power supply",
    ),
)


class RecoveryAction(Struct, frozen=True):
    """What the driver asks for, in words and consequences."""

    asked: str
    severity: Health
    recovery: Recovery | None
    advice: str


#: NVML field 230. Docs: "GPU error recovery and response flags" in NVIDIA's GPU memory error
#: management guide. With DRAIN_P2P and DRAIN_AND_RESET the running work goes on.
RECOVERY_ACTIONS = {
    1: RecoveryAction(
        "a reset of the GPU",
        Health.FAILED,
        "reset",
        "end its processes and reset it: nvidia-smi --gpu-reset -i <GPU>",
    ),
    2: RecoveryAction("a reboot of the node", Health.FAILED, "reboot", "reboot the node"),
    3: RecoveryAction(
        "peer-to-peer traffic to end",
        Health.DEGRADED,
        None,
        "drain what uses several GPUs with this one, then reset it",
    ),
    4: RecoveryAction(
        "the GPU to be drained and reset", Health.DEGRADED, None, "drain it, then reset it"
    ),
    5: RecoveryAction(
        "the IMEX domain to be recovered",
        Health.DEGRADED,
        None,
        "restart the IMEX service of the NVLink domain",
    ),
    6: RecoveryAction(
        "a reset of the bus",
        Health.FAILED,
        "reboot",
        "reset its PCIe slot (secondary bus reset) or reboot the node",
    ),
    7: RecoveryAction("a reboot of the system", Health.FAILED, "reboot", "reboot the node"),
}


class History(Struct):
    """What earlier samples of a GPU said."""

    #: In a row.
    slowdown_readings: int = 0
    most_nvlinks_active: int = 0

    def note(self, facts: Facts) -> None:
        """Called with each new sample, not with repeated ones."""
        slowed = (facts.throttle_bits or 0) & (_HW_SLOWDOWN | _HW_THERMAL | _HW_POWER_BRAKE)
        self.slowdown_readings = self.slowdown_readings + 1 if slowed else 0
        self.most_nvlinks_active = max(self.most_nvlinks_active, facts.nvlinks_active or 0)


def conditions(facts: Facts, history: History, limits: Thresholds) -> Iterator[Finding]:
    """The findings that hold now, in no order that matters."""
    action = recovery_action(facts)
    if action is not None:
        yield action
    yield from _memory(facts, limits)
    yield from _ecc(facts, limits)
    yield from _slowdown(facts, history, limits)
    if facts.nvlinks_active is not None:
        # On bridges only some links are ever up: those that were, must be. A switch takes all.
        yield from _nvlink(facts.nvlinks or history.most_nvlinks_active, facts.nvlinks_active)


def recovery_action(facts: Facts) -> Finding | None:
    """What the driver asks for; None when it asks for nothing or cannot tell."""
    code = facts.recovery_action
    if not code:
        return None
    action = RECOVERY_ACTIONS.get(code)
    if action is None:
        return Finding(
            kind=RECOVERY_ACTION,
            code=code,
            severity=Health.SUSPECT,
            reason=f"the driver asks for recovery action {code}, which is not known here",
            advice="look at nvidia-smi -q, GPU Recovery Action",
            clears="checked",
        )
    return Finding(
        kind=RECOVERY_ACTION,
        code=code,
        severity=action.severity,
        recovery=action.recovery,
        reason=f"the driver asks for {action.asked}",
        advice=action.advice,
        clears="checked",
    )


def _memory(facts: Facts, limits: Thresholds) -> Iterator[Finding]:
    if facts.row_remap_failure:
        yield _failed(
            "row_remap_failure",
            "service",
            "a faulty memory row could not be remapped",
            "have the GPU replaced",
        )
    if facts.row_remap_pending:
        yield _degraded(
            "row_remap_pending",
            "faulty memory rows are remapped at the next reset",
            "reset the GPU when it is idle",
        )
    rows = facts.rows_remapped_uncorrectable
    if limits.rows_remapped and rows is not None and rows >= limits.rows_remapped:
        yield _failed(
            "rows_remapped",
            "service",
            f"{rows} memory rows are remapped after uncorrectable errors; "
            f"{limits.rows_remapped} are too many",
            "have the GPU replaced",
        )
    pages = facts.pages_retired
    if limits.pages_retired and pages is not None and pages >= limits.pages_retired:
        yield _failed(
            "pages_retired",
            "service",
            f"{pages} memory pages are retired; {limits.pages_retired} are too many",
            "have the GPU replaced",
        )
    if facts.pages_pending:
        yield _degraded(
            "page_retirement_pending",
            "faulty memory pages are retired at the next reset",
            "reset the GPU when it is idle",
        )


def _ecc(facts: Facts, limits: Thresholds) -> Iterator[Finding]:
    if facts.sram_threshold_exceeded:
        yield _failed(
            "sram_ecc",
            "service",
            "its SRAM has had more uncorrectable errors than its maker allows",
            "have the GPU replaced",
        )
    count = facts.ecc_uncorrected
    if not limits.ecc_uncorrected or count is None or count < limits.ecc_uncorrected:
        return
    reason = f"{count} uncorrectable memory errors since the driver was loaded"
    if facts.recovery_action == 0:
        # The driver contained them: it says that new work may start. An error that it could not
        # contain comes as an XID, or as a recovery action.
        yield _degraded(
            "ecc_uncorrected", f"{reason}, all contained", "reset the GPU when it is idle"
        )
    else:
        yield _failed("ecc_uncorrected", "reset", reason, "reset the GPU; watch whether it recurs")


def _slowdown(facts: Facts, history: History, limits: Thresholds) -> Iterator[Finding]:
    if not limits.slowdown_readings or history.slowdown_readings < limits.slowdown_readings:
        return
    for bit, kind, reason, advice in _SLOWDOWNS:
        if (facts.throttle_bits or 0) & bit:
            lasting = f"{reason}, for {history.slowdown_readings} readings in a row"
            yield _degraded(kind, lasting, advice)
            return


def _nvlink(links: int, active: int) -> Iterator[Finding]:
    # None at all: a GPU that was given to this machine without its switch. That is no fault.
    if 0 < active < links:
        yield _degraded(
            "nvlink_down",
            f"{links - active} of {links} NVLinks are down",
            "check the NVLink bridges, or the fabric manager and the switches",
        )


def _failed(kind: str, recovery: Recovery, reason: str, advice: str) -> Finding:
    return Finding(
        kind=kind,
        severity=Health.FAILED,
        recovery=recovery,
        reason=reason,
        advice=advice,
        clears="repaired" if recovery == "service" else "checked",
    )


def _degraded(kind: str, reason: str, advice: str) -> Finding:
    return Finding(
        kind=kind, severity=Health.DEGRADED, reason=reason, advice=advice, clears="clean"
    )
