"""Clauses on what a metric sink takes, and what becomes of it."""

import math

from muai_core.model.metrics import MetricPoint
from muai_core.planning.wording import described, one_line
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.metric_sink import batches
from muai_core.testing.metric_sink.subject import MetricSinkSubject, values
from muai_core.testing.part_thread import within

#: 1,024 GPUs and their models have 70,000 series; a fleet of that size has a machine to match.
_MANY = 20_000


@clause("S20", kind="metric sink", title="it takes every batch that can come")
def _(subject: MetricSinkSubject) -> None:
    subject.opened()
    for what, families in batches.odd_batches().items():
        try:
            subject.deliver(families)
        except ClauseFailure as failure:
            raise ClauseFailure(f"{failure} for {what}") from failure


@clause("S21", kind="metric sink", title="it takes very many series in time")
def _(subject: MetricSinkSubject) -> None:
    subject.opened()
    attempt = subject.deliver(batches.many_series(_MANY))
    within(attempt, f"publish() of {_MANY} series", subject.limits.publish_s)


@clause("S22", kind="metric sink", title="what is published is exported")
def _(subject: MetricSinkSubject) -> None:
    samples = subject.exported(
        batches.gauge("conformance_level", -2.5, model="llama", gpu="0"),
        batches.counter("conformance_seen", 7.0, model="llama"),
        batches.histogram("conformance_sizes", small=2, large=1, total=9.5),
    )
    for name, labels, wanted in (
        ("conformance_level", {"model": "llama", "gpu": "0"}, -2.5),
        ("conformance_seen", {"model": "llama"}, 7.0),
        ("conformance_sizes_count", {}, 3.0),
        ("conformance_sizes_sum", {}, 9.5),
    ):
        found = values(samples, name, labels)
        if found != [wanted]:
            raise ClauseFailure(f"{name} was published as {wanted:g}, {_words(found)}")


@clause("S23", kind="metric sink", title="label values are exported as they are")
def _(subject: MetricSinkSubject) -> None:
    points = [
        MetricPoint((label,), float(number)) for number, label in enumerate(batches.ODD_LABELS, 1)
    ]
    samples = subject.exported(
        batches.family("gauge", "conformance_labels", *points, labels=["model"])
    )
    for number, label in enumerate(batches.ODD_LABELS, 1):
        found = values(samples, "conformance_labels", {"model": label})
        if found != [float(number)]:
            raise ClauseFailure(f"the label {one_line(repr(label), 60)} is not exported as it is")


@clause("S24", kind="metric sink", title="what is no number is not exported as one")
def _(subject: MetricSinkSubject) -> None:
    samples = subject.exported(batches.gauge("conformance_unknown", batches.NAN))
    found = [value for value in values(samples, "conformance_unknown") if not math.isnan(value)]
    if found:
        raise ClauseFailure(f"NaN was published, {_words(found)}")


@clause("S25", kind="metric sink", title="a series that has ended is not exported any longer")
def _(subject: MetricSinkSubject) -> None:
    name = "conformance_replicas"
    both = batches.family(
        "gauge",
        name,
        MetricPoint(("a",), 1.0),
        MetricPoint(("b",), 1.0),
        labels=["replica"],
    )
    if not values(subject.exported(both), name, {"replica": "b"}):
        raise ClauseSkipped("it was not exported at all, see the clause on that")
    samples = subject.exported(batches.gauge(name, 1.0, replica="a"))
    if values(samples, name, {"replica": "b"}):
        raise ClauseFailure("a series that is not in the last batch is still exported")
    if values(subject.exported(), name):
        raise ClauseFailure("a metric that is not in the last batch is still exported")


@clause("S26", kind="metric sink", title="what is cumulative is not added up")
def _(subject: MetricSinkSubject) -> None:
    count = "conformance_tokens"
    subject.exported(batches.counter(count, 5.0), batches.histogram("conformance_waits", 1, 0, 0.5))
    samples = subject.exported(
        batches.counter(count, 7.0), batches.histogram("conformance_waits", 2, 0, 1.0)
    )
    for name, wanted in ((count, 7.0), ("conformance_waits_count", 2.0)):
        found = values(samples, name)
        if found and found != [wanted]:
            raise ClauseFailure(f"{name} was published as {wanted:g} at last, {_words(found)}")


@clause("S30", kind="metric sink", title="it traces every request that can come, in time")
def _(subject: MetricSinkSubject) -> None:
    if subject.opened().ratio.value is None:
        raise ClauseSkipped("it wants no request traced")
    for what, requests in batches.odd_requests().items():
        attempt = subject.trace(requests)
        if attempt.error is not None:
            raise ClauseFailure(f"trace() raises {described(attempt.error)} for {what}")
        within(attempt, f"trace() of {what}", subject.limits.publish_s)


def _words(found: list[float]) -> str:
    if not found:
        return "and is not exported"
    return f"and is exported as {' and '.join(f'{value:g}' for value in found)}"
