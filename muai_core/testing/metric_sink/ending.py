"""Clauses on the end of a metric sink, and on what it leaves behind."""

from muai_core.planning.wording import described
from muai_core.testing.clauses import ClauseFailure, clause
from muai_core.testing.metric_sink.subject import MetricSinkSubject
from muai_core.testing.part_thread import within


@clause("S50", kind="metric sink", title="it closes in time, also while the other side is away")
def _(subject: MetricSinkSubject) -> None:
    attempt = subject.endings().first
    if attempt.error is not None:
        raise ClauseFailure(f"close() raises {described(attempt.error)}")
    within(attempt, "close()", subject.limits.close_s)
    for outage in subject.outages() if subject.sends else ():
        within(outage.closing, f"close() where {outage.what}", subject.limits.close_s)


@clause("S51", kind="metric sink", title="closing it twice is closing it once")
def _(subject: MetricSinkSubject) -> None:
    attempt = subject.endings().again
    if attempt.error is not None:
        raise ClauseFailure(f"close() raises {described(attempt.error)} the second time")


@clause("S52", kind="metric sink", title="no thread is left after its end")
def _(subject: MetricSinkSubject) -> None:
    if left := subject.endings().threads:
        raise ClauseFailure(f"after close() there still runs {', '.join(left)}")


@clause("S53", kind="metric sink", title="no process is left after its end")
def _(subject: MetricSinkSubject) -> None:
    if left := subject.endings().processes:
        raise ClauseFailure(f"after close() there still is {'; '.join(left)}")


@clause("S54", kind="metric sink", title="no port and no other descriptor is left after its end")
def _(subject: MetricSinkSubject) -> None:
    if left := subject.endings().descriptors:
        raise ClauseFailure(f"a round of use leaves open: {', '.join(left)}")


@clause("S55", kind="metric sink", title="it works again when it is opened again")
def _(subject: MetricSinkSubject) -> None:
    if (failure := subject.endings().second_failure) is not None:
        raise ClauseFailure(f"opened again, it fails: {failure}")
