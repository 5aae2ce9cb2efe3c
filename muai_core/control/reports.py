"""What people are told about health: each change once, with its cause, evidence and advice."""

from muai_core.control import actions as act
from muai_core.control.health import HOST_FAULT, decisive
from muai_core.control.state import DeviceHealth
from muai_core.control.turn import Turn
from muai_core.model.device import HostFault
from muai_core.model.health import Health

#: So many findings are quoted.
_MOST_EVIDENCE = 10


def report_health(
    turn: Turn, uuid: str, before: DeviceHealth, after: DeviceHealth, ended: str | None
) -> bool:
    """Tell of a change of state or of its cause; `ended` says in words what is over.

    What is the matter with its host is left out: that is told once for all. Returns whether there
    was anything to tell.
    """
    was, now = decisive(before, of_its_own=True), decisive(after, of_its_own=True)
    if now is None:
        if was is None:
            return False
        cause = ended or "nothing speaks against it any more"
    elif was is not None and (was.severity, was.key) == (now.severity, now.key):
        return False
    else:
        cause = now.reason
    own = [one.finding for one in after.open if one.finding.kind != HOST_FAULT]
    own.sort(key=lambda finding: -finding.severity.rank)
    turn.actions.append(
        act.ReportHealth(
            uuid=uuid,
            before=Health.HEALTHY if was is None else was.severity,
            after=Health.HEALTHY if now is None else now.severity,
            cause=cause,
            evidence=tuple(finding.reason for finding in own[:_MOST_EVIDENCE]),
            advice="" if now is None else now.advice,
            recovery=None if now is None else now.recovery,
        )
    )
    return True


def report_fault(
    turn: Turn, source: str, before: HostFault | None, after: HostFault | None
) -> None:
    """Tell of a host fault that begins, becomes another one, or is over."""
    told = after or before
    if told is None or (before is not None and after is not None and before.kind == after.kind):
        return
    turn.actions.append(
        act.ReportHostFault(
            source=source,
            kind=told.kind,
            reason=told.reason,
            advice=told.advice,
            ended=after is None,
        )
    )
