"""Clauses on the end of a device source, and on what it leaves behind."""

from muai_core.planning.wording import described
from muai_core.testing.clauses import ClauseFailure, clause
from muai_core.testing.device_source.subject import DeviceSourceSubject
from muai_core.testing.part_thread import within


@clause("D50", kind="device source", title="it closes in time")
def _(subject: DeviceSourceSubject) -> None:
    attempt = subject.endings().first
    if attempt.error is not None:
        raise ClauseFailure(f"close() raises {described(attempt.error)}")
    within(attempt, "close()", subject.limits.close_s)


@clause("D51", kind="device source", title="closing it twice is closing it once")
def _(subject: DeviceSourceSubject) -> None:
    attempt = subject.endings().again
    if attempt.error is not None:
        raise ClauseFailure(f"close() raises {described(attempt.error)} the second time")


@clause("D52", kind="device source", title="it tells nothing more once it is closed")
def _(subject: DeviceSourceSubject) -> None:
    if late := subject.endings().told_late:
        raise ClauseFailure(f"after close() has returned it tells {late[0]!r}")


@clause("D53", kind="device source", title="no thread is left after its end")
def _(subject: DeviceSourceSubject) -> None:
    if left := subject.endings().threads:
        raise ClauseFailure(f"after close() there still runs {', '.join(left)}")


@clause("D54", kind="device source", title="no process is left after its end")
def _(subject: DeviceSourceSubject) -> None:
    if left := subject.endings().processes:
        raise ClauseFailure(f"after close() there still is {'; '.join(left)}")


@clause("D55", kind="device source", title="no descriptor is left after its end")
def _(subject: DeviceSourceSubject) -> None:
    if left := subject.endings().descriptors:
        raise ClauseFailure(f"a round of use leaves open: {', '.join(left)}")


@clause("D56", kind="device source", title="it works again when it is opened again")
def _(subject: DeviceSourceSubject) -> None:
    endings = subject.endings()
    if endings.second is None:
        raise ClauseFailure(f"opened again, it fails: {endings.second_failure}")
    first, second = subject.inventories()[0][1], endings.second.observations[0].answer
    before = sorted(device.uuid for device in first.devices)
    after = sorted(device.uuid for device in getattr(second, "devices", ()))
    if before != after:
        raise ClauseFailure(
            f"opened again, it finds {', '.join(after) or 'nothing'} where there were "
            f"{', '.join(before) or 'none'}"
        )
