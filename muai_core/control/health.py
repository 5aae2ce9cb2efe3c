"""The health of a device as a state machine.

    healthy    fit; gets new claims
    degraded   works, with something to be looked at: gets new claims
    unknown    nobody can say: no reading, or its host is at fault; no new claims
    suspect    may be broken: no new claims, a self-test is asked for
    failed     broken, to be brought back by a reset, a reboot or service: no new claims

A device is in the state of its worst *open finding*, and it is healthy without one. So the machine
has no table of its own states; what has one is the life of a finding:

    opens      when a reading shows it (a condition), when it happened (an XID), or when an engine
               or a self-test found it
    holds      while the last reading shows it: no self-test and no patience ends a condition that
               is there
    ends       by one of the endings below, if `ENDS` allows it for that finding

`ENDS` is where latching and hysteresis are. What flickers is held for a few readings (`clean`);
what made a device failed stays until a self-test that began later has passed (`checked`), or until
the driver or an operator says that the repair was made (`repaired`). A reading is evidence of its
absence only if its sample is newer than the last one and newer than the finding: a source repeats
its last sample of a device that does not answer.

Everything here is a pure function from one `DeviceHealth` to the next. Who calls them, and what is
told to people, is in `devices`; how often something happened is counted in `tally`.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum

from msgspec import structs

from muai_core.control import tally
from muai_core.control.state import DeviceHealth, HealthSettings, OpenFinding
from muai_core.model.health import RECOVERY_ACTION, Clears, Finding, Health, worst

#: How many findings of one device are kept; of more the worst.
MOST_OPEN = 32

#: The plane's own conditions: it opens and closes them itself, no reading shows them.
HOST_FAULT = "host_fault"
VANISHED = "vanished"
OWN = (HOST_FAULT, VANISHED)


class Ending(StrEnum):
    """How a finding stops counting; the value says it to people."""

    ABSENT = "the last reading does not show it any more"
    CLEAN = "readings in a row did not show it any more"
    PASSED = "a self-test passed"
    REPAIRED = "the driver asks for no repair any more, and a self-test passed"
    REINSTATED = "reinstated by an operator"


_E = Ending

#: (how it clears, whether it makes the device failed) → what ends it, once it does not hold.
ENDS: dict[tuple[Clears, bool], frozenset[Ending]] = {
    ("at_once", False): frozenset({_E.ABSENT, _E.CLEAN, _E.PASSED, _E.REINSTATED}),
    ("at_once", True): frozenset({_E.ABSENT, _E.CLEAN, _E.PASSED, _E.REINSTATED}),
    ("clean", False): frozenset({_E.CLEAN, _E.REINSTATED}),
    ("clean", True): frozenset({_E.CLEAN, _E.REINSTATED}),
    ("checked", False): frozenset({_E.CLEAN, _E.PASSED, _E.REINSTATED}),
    ("checked", True): frozenset({_E.PASSED, _E.REINSTATED}),
    ("tested", False): frozenset({_E.PASSED, _E.REINSTATED}),
    ("tested", True): frozenset({_E.PASSED, _E.REINSTATED}),
    ("repaired", False): frozenset({_E.REPAIRED, _E.REINSTATED}),
    ("repaired", True): frozenset({_E.REPAIRED, _E.REINSTATED}),
}


def ends(finding: Finding, ending: Ending) -> bool:
    """Whether `ending` ends the finding, once it does not hold any more."""
    return ending in ENDS[finding.clears, finding.severity is Health.FAILED]


def decisive(health: DeviceHealth, *, of_its_own: bool = False) -> Finding | None:
    """The open finding that decides about the state; None: healthy.

    `of_its_own`: leave out what is the matter with its host.
    """
    found = worst(
        one.finding for one in health.open if not (of_its_own and one.finding.kind == HOST_FAULT)
    )
    return None if found is None or found.severity is Health.HEALTHY else found


# --- what readings say --------------------------------------------------------------------------


def read(
    health: DeviceHealth,
    findings: Iterable[Finding],
    at_s: float,
    sampled_at_s: float | None,
    now_s: float,
    settings: HealthSettings,
) -> tuple[DeviceHealth, Ending | None]:
    """After a reading, observed at `at_s`, that shows `findings`.

    `sampled_at_s` is None if its sample was counted before, or there is none: then what it does not
    show may still be there. Also returns what ended a finding, if that happened.
    """
    shown: dict[str, Finding] = {}
    for finding in findings:
        rival = shown.get(finding.key)
        shown[finding.key] = finding if rival is None else worst((rival, finding)) or finding
    open_now: list[OpenFinding] = []
    ended: Ending | None = None
    for one in health.open:
        if one.finding.key in shown:
            finding = shown.pop(one.finding.key)
            open_now.append(_still_there(health, one, finding, at_s))
        elif sampled_at_s is None or sampled_at_s <= one.last_at_s or one.finding.kind in OWN:
            open_now.append(one)
        else:
            absent = structs.replace(one, present=False, clean_readings=one.clean_readings + 1)
            ending = _ended_by_reading(health, absent, settings)
            if ending is None:
                open_now.append(absent)
            ended = ending or ended
    counts = health.counts
    for finding in shown.values():
        open_now.append(_opened(health, finding, at_s, present=True))
        counts = tally.counted(counts, finding.key)
    if same_findings(health.open, open_now):
        # Only times have changed: of 10,000 degraded devices, too, each must cost next to nothing.
        return structs.replace(health, open=tuple(open_now)), ended
    return _settled(structs.replace(health, counts=counts), open_now, now_s), ended


def same_findings(before: Sequence[OpenFinding], after: Sequence[OpenFinding]) -> bool:
    """Whether nothing was found, nothing ended and nothing changed its words."""
    return len(before) == len(after) and all(
        one.finding is other.finding for one, other in zip(before, after, strict=True)
    )


def _ended_by_reading(
    health: DeviceHealth, absent: OpenFinding, settings: HealthSettings
) -> Ending | None:
    finding = absent.finding
    if finding.kind == RECOVERY_ACTION and any(
        one.finding.clears == "repaired" for one in health.open
    ):
        # Withdrawn: the self-test that ends the others ends it, too.
        return None
    if ends(finding, Ending.ABSENT):
        return Ending.ABSENT
    test = health.self_test
    if finding.clears == "checked" and test is not None and test.verdict is None:
        # What knows better is under way.
        return None
    if absent.clean_readings >= settings.clean_readings and ends(finding, Ending.CLEAN):
        return Ending.CLEAN
    return None


def _still_there(
    health: DeviceHealth, one: OpenFinding, finding: Finding, at_s: float
) -> OpenFinding:
    """A condition may change its words and its severity, but not unlatch itself that way."""
    kept = one.finding
    if finding != kept and (not _latched(kept) or finding.severity.rank >= kept.severity.rank):
        kept = finding
    return structs.replace(
        one,
        finding=kept,
        last_at_s=max(one.last_at_s, at_s),
        present=True,
        clean_readings=0,
        checks_before=_checks(health),
    )


def _latched(finding: Finding) -> bool:
    return not ends(finding, Ending.ABSENT) and not ends(finding, Ending.CLEAN)


# --- what happens between them ------------------------------------------------------------------


def happened(
    health: DeviceHealth,
    finding: Finding,
    at_s: float,
    now_s: float,
    settings: HealthSettings,
    *,
    elsewhere: bool = False,
) -> DeviceHealth:
    """After something that was found once, e.g. an XID, a line in a log, a failed self-test.

    `elsewhere`: another device of its node has shown the same lately. Then its repetition is no
    evidence against this one: what goes wrong on several devices is the software.
    """
    key = finding.key
    if tally.begins_burst(health.bursts.get(key, ()), at_s, settings):
        health = structs.replace(
            health, bursts=tally.with_burst(health.bursts, key, at_s, settings)
        )
    health = structs.replace(health, counts=tally.counted(health.counts, key))
    if not elsewhere:
        finding = _repeated(finding, len(health.bursts[key]), settings)
    open_now = list(health.open)
    for place, one in enumerate(open_now):
        if one.finding.key == key:
            open_now[place] = _again(health, one, finding, at_s)
            return _settled(health, open_now, now_s)
    if finding.severity is not Health.HEALTHY:
        open_now.append(_opened(health, finding, at_s))
    return _settled(health, open_now, now_s)


def _repeated(finding: Finding, bursts: int, settings: HealthSettings) -> Finding:
    """What it makes of the device, now that it came so often within the window."""
    limit = finding.repeat_limit
    if not limit or bursts < min(limit, tally.MOST_BURSTS):
        return finding
    if finding.severity.rank >= Health.SUSPECT.rank:
        return finding
    times = f"{bursts} times within {settings.repeat_window_s / 3600:g} h"
    return structs.replace(
        finding,
        severity=Health.SUSPECT,
        reason=f"{finding.reason}; {times}, on no other device",
        clears="checked",
    )


def _again(health: DeviceHealth, one: OpenFinding, finding: Finding, at_s: float) -> OpenFinding:
    heavier = finding.severity.rank >= one.finding.severity.rank
    return structs.replace(
        one,
        finding=finding if heavier else one.finding,
        last_at_s=max(one.last_at_s, at_s),
        count=one.count + 1,
        clean_readings=0,
        checks_before=_checks(health),
    )


def forgiven(health: DeviceHealth, keys: Iterable[str]) -> DeviceHealth:
    """Without the bursts of these findings: a device that was proven fit starts afresh."""
    gone = set(keys)
    bursts = {key: times for key, times in health.bursts.items() if key not in gone}
    return structs.replace(health, bursts=bursts)


# --- what ends a finding otherwise --------------------------------------------------------------


def passed(health: DeviceHealth, check: int, now_s: float) -> tuple[DeviceHealth, Ending | None]:
    """After self-test number `check` has passed. Also returns what ended a finding, if any."""
    withdrawn_s = _withdrawn_at_s(health, check)
    ending = Ending.PASSED if withdrawn_s is None else Ending.REPAIRED

    def over(one: OpenFinding) -> bool:
        return one.checks_before < check and _cleared_by_test(one, withdrawn_s)

    return _without(health, over, ending, now_s)


def _withdrawn_at_s(health: DeviceHealth, check: int) -> float | None:
    """When the driver last asked for a recovery action; None unless it did and, by the time of
    self-test number `check`, did no more."""
    asked_for = [one for one in health.open if one.finding.kind == RECOVERY_ACTION]
    if not asked_for or any(one.present or one.checks_before >= check for one in asked_for):
        return None
    return max(one.last_at_s for one in asked_for)


def _cleared_by_test(one: OpenFinding, withdrawn_s: float | None) -> bool:
    """Whether a self-test clears it, that began when the driver had withdrawn what it asked for.

    What happened after the driver asked for the last time was not repaired by what it asked for.
    """
    if one.present:
        return False
    if withdrawn_s is not None and one.last_at_s <= withdrawn_s:
        return (
            one.finding.kind == RECOVERY_ACTION
            or ends(one.finding, Ending.REPAIRED)
            or ends(one.finding, Ending.PASSED)
        )
    return ends(one.finding, Ending.PASSED)


def swallows_processes(health: DeviceHealth) -> bool:
    """Whether a self-test is a waste: with such a condition there, it might not even end."""
    return any(
        one.present and one.finding.severity.rank > Health.DEGRADED.rank for one in health.open
    )


def can_be_cleared(health: DeviceHealth) -> bool:
    """Whether a self-test that is asked for now and passes would make it fitter."""
    withdrawn_s = _withdrawn_at_s(health, _checks(health) + 1)
    return any(
        one.finding.severity.rank >= Health.SUSPECT.rank and _cleared_by_test(one, withdrawn_s)
        for one in health.open
    )


def reinstated(health: DeviceHealth, now_s: float) -> tuple[DeviceHealth, Ending | None]:
    """After an operator said that the device is fit: what holds will show in the next reading."""
    health, ending = _without(health, lambda one: one.finding.kind not in OWN, _E.REINSTATED, now_s)
    return structs.replace(health, bursts={}, reinstated_at_s=now_s), ending


def opened(health: DeviceHealth, finding: Finding, now_s: float) -> DeviceHealth:
    """With one of the plane's own conditions, put into the words of `finding`."""
    for one in health.open:
        if one.finding.kind == finding.kind:
            if one.finding == finding:
                return health
            open_now = [
                structs.replace(other, finding=finding) if other is one else other
                for other in health.open
            ]
            return _settled(health, open_now, now_s)
    condition = _opened(health, finding, now_s, present=True)
    return _settled(health, [*health.open, condition], now_s)


def closed(health: DeviceHealth, kinds: Collection[str], now_s: float) -> DeviceHealth:
    """Without these of the plane's own conditions."""
    return _without(health, lambda one: one.finding.kind in kinds, _E.ABSENT, now_s)[0]


# --- how it is done -----------------------------------------------------------------------------


def _opened(
    health: DeviceHealth, finding: Finding, at_s: float, *, present: bool = False
) -> OpenFinding:
    return OpenFinding(
        finding=finding,
        first_at_s=at_s,
        last_at_s=at_s,
        present=present,
        checks_before=_checks(health),
    )


def _checks(health: DeviceHealth) -> int:
    return 0 if health.self_test is None else health.self_test.check


def _without(
    health: DeviceHealth, over: Callable[[OpenFinding], bool], ending: Ending, now_s: float
) -> tuple[DeviceHealth, Ending | None]:
    open_now = [one for one in health.open if not over(one)]
    if len(open_now) == len(health.open):
        return health, None
    return _settled(health, open_now, now_s), ending


def _settled(health: DeviceHealth, open_now: list[OpenFinding], now_s: float) -> DeviceHealth:
    """With these open findings, in the state that follows from them."""
    if len(open_now) > MOST_OPEN:
        by_weight = sorted(open_now, key=lambda one: -one.finding.severity.rank)
        kept = {one.finding.key for one in by_weight[:MOST_OPEN]}
        open_now = [one for one in open_now if one.finding.key in kept]
    health = structs.replace(health, open=tuple(open_now))
    found = decisive(health)
    state = Health.HEALTHY if found is None else found.severity
    return structs.replace(
        health,
        state=state,
        since_s=health.since_s if state is health.state else now_s,
        cause=None if found is None else found.reason,
        advice="" if found is None else found.advice,
        recovery=None if found is None else found.recovery,
    )
