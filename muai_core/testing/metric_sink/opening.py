"""Clauses on the start of a metric sink."""

from muai_core.planning.wording import described
from muai_core.plugin.metric_sink import SinkError
from muai_core.testing import surroundings
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.metric_sink.subject import LOOPBACK, MetricSinkSubject, held_port
from muai_core.testing.part_thread import within


@clause("S10", kind="metric sink", title="it opens in time with its options")
def _(subject: MetricSinkSubject) -> None:
    if (failure := subject.why_not()) is not None:
        raise failure
    within(subject.opened().opening, "open()", subject.limits.open_s)


@clause("S11", kind="metric sink", title="it wants no request traced, or a share of 0.0 to 1.0")
def _(subject: MetricSinkSubject) -> None:
    attempt = subject.opened().ratio
    if attempt.error is not None:
        raise ClauseFailure(f"trace_sample_ratio() raises {described(attempt.error)}")
    ratio: object = attempt.value
    if ratio is not None and not (isinstance(ratio, int | float) and 0.0 <= ratio <= 1.0):
        raise ClauseFailure(f"trace_sample_ratio() returns {ratio!r}, no share and not None")
    within(attempt, "trace_sample_ratio()", subject.limits.ask_s)


@clause("S12", kind="metric sink", title="a port that is taken is refused with a SinkError")
def _(subject: MetricSinkSubject) -> None:
    if not subject.has_port:
        raise ClauseSkipped("it has no option called port")
    if not subject.opened().listens:
        raise ClauseSkipped("it listens nowhere")
    with held_port() as port:
        error = subject.try_to_open({"port": port}).error
    if error is None:
        raise ClauseFailure("it opens though another process has the port that its options name")
    if not isinstance(error, SinkError):
        raise ClauseFailure(f"open() raises {described(error)}, not a SinkError")
    if str(port) not in str(error):
        raise ClauseFailure(f"its SinkError does not name the port: {error}")


@clause("S13", kind="metric sink", title="it says where to look, in one line and at once")
def _(subject: MetricSinkSubject) -> None:
    attempt = subject.opened().location
    if attempt.error is not None:
        raise ClauseFailure(f"location() raises {described(attempt.error)}")
    place: object = attempt.value
    if place is not None and not (isinstance(place, str) and place.strip() and "\n" not in place):
        raise ClauseFailure(f"location() returns {place!r}, no place in one line and not None")
    within(attempt, "location()", subject.limits.ask_s)


@clause("S14", kind="metric sink", title="it listens to this machine only, unless told otherwise")
def _(subject: MetricSinkSubject) -> None:
    if "host" in subject.given_options:
        raise ClauseSkipped("it is told where to listen")
    for address, port in subject.opened().listens:
        if address not in LOOPBACK:
            raise ClauseFailure(f"it listens on {address} port {port}, where others reach it")


@clause("S15", kind="metric sink", title="it changes nothing that engines inherit")
def _(subject: MetricSinkSubject) -> None:
    before = subject.before()
    subject.opened()
    if changed := surroundings.changes(before):
        raise ClauseFailure(f"it changes {', '.join(changed)} of the controller's process")
