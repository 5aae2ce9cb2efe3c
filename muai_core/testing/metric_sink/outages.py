"""Clauses on a metric sink whose other side is away: it refuses connections, or says nothing."""

from muai_core.planning.wording import described
from muai_core.plugin.metric_sink import SinkUnavailable
from muai_core.testing.clauses import ClauseFailure, clause
from muai_core.testing.metric_sink.subject import MetricSinkSubject
from muai_core.testing.part_thread import within


@clause("S40", kind="metric sink", title="while the other side is away, publishing is done in time")
def _(subject: MetricSinkSubject) -> None:
    for outage in subject.outages():
        for attempt in outage.publishing:
            within(attempt, f"publish() where {outage.what}", subject.limits.publish_s)


@clause("S41", kind="metric sink", title="that the other side is away it tells in words, if at all")
def _(subject: MetricSinkSubject) -> None:
    for outage in subject.outages():
        for attempt in (*outage.publishing, outage.closing):
            error = attempt.error
            if error is None:
                continue
            if not isinstance(error, SinkUnavailable):
                raise ClauseFailure(
                    f"where {outage.what} it raises {described(error)}, no SinkUnavailable"
                )
            if not str(error).strip():
                raise ClauseFailure(f"where {outage.what} its SinkUnavailable has no words")
