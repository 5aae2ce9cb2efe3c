"""Metrics and requests of all kinds, for a sink to take."""

from collections.abc import Sequence

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint
from muai_core.model.requests import Outcome, RequestRecord, TraceContext

#: What may stand in a label: what people call their models, and what engines say.
ODD_LABELS = (
    'say "hello"',
    "C:\\models\\llama",
    "two\nlines",
    "Übergröße 模型 🦙",
    "comma, brace } equals = hash #",
    " blanks around ",
    "x" * 2000,
)
_INFINITE = float("inf")
NAN = float("nan")
_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
_STARTED_UNIX_NS = 1_760_000_000_000_000_000


def family(
    kind: MetricKind, name: str, *points: MetricPoint, labels: Sequence[str] = ()
) -> MetricFamily:
    return MetricFamily(
        name=name,
        kind=kind,
        help=f"A {kind} of the conformance kit.",
        label_names=tuple(labels),
        points=points,
    )


def gauge(name: str, value: float, **labels: str) -> MetricFamily:
    """One with one series."""
    return family("gauge", name, MetricPoint(tuple(labels.values()), value), labels=tuple(labels))


def counter(name: str, value: float, **labels: str) -> MetricFamily:
    return family("counter", name, MetricPoint(tuple(labels.values()), value), labels=tuple(labels))


def histogram(name: str, small: int, large: int, total: float) -> MetricFamily:
    """So many observations up to 1, and above that."""
    count = small + large
    point = MetricPoint((), buckets=((1.0, small), (10.0, count)), count=count, total=total)
    return family("histogram", name, point)


def odd_batches() -> dict[str, list[MetricFamily]]:
    """Every batch that can come, by what is odd about it."""
    odd = [MetricPoint((label,), 1.0) for label in ODD_LABELS]
    numbers = (0.0, -0.0, 1e308, -1e308, 5e-324, float(2**63), NAN, _INFINITE, -_INFINITE)
    every = [MetricPoint((str(number),), value) for number, value in enumerate(numbers)]
    bare = MetricPoint((), count=0, total=0.0)
    infinite = MetricPoint((), buckets=((1.0, 1),), count=2, total=_INFINITE)
    return {
        "nothing": [],
        "a metric without series": [family("gauge", "conformance_nothing")],
        "label values of all kinds": [family("gauge", "conformance_odd", *odd, labels=["model"])],
        "an empty label value": [gauge("conformance_empty", 1.0, model="")],
        "numbers of all kinds": [family("gauge", "conformance_numbers", *every, labels=["n"])],
        "counters of all kinds": [family("counter", "conformance_counts", *every, labels=["n"])],
        "a histogram without buckets": [family("histogram", "conformance_bare", bare)],
        "a histogram with an infinite sum": [family("histogram", "conformance_sum", infinite)],
        "a counter that began again": [counter("conformance_restarts", 0.0)],
        "a help text of all kinds": [
            MetricFamily(name="conformance_help", kind="gauge", help='a "b" \\ c\nd 模型 🦙')
        ],
        "a name with colons": [gauge("conformance:waiting", 1.0)],
    }


def many_series(count: int) -> list[MetricFamily]:
    """As many as a large fleet has, a thousand in each metric."""
    thousand = [MetricPoint((str(number), "some-model"), number + 0.5) for number in range(1000)]
    return [
        family("gauge", f"conformance_many_{number}", *thousand, labels=("gpu", "model"))
        for number in range(count // 1000)
    ]


def request(
    number: int,
    outcome: Outcome = "ok",
    *,
    status: int = 200,
    model: str | None = "llama",
    error: str | None = None,
    duration_s: float = 0.25,
    parent_span_id: str | None = None,
    state: str = "",
) -> RequestRecord:
    """One that was sampled. What never reached a replica has none, and no tokens."""
    answered = outcome == "ok"
    return RequestRecord(
        trace=TraceContext(_TRACE_ID, f"{number + 1:016x}", parent_span_id, True, state),
        started_unix_ns=_STARTED_UNIX_NS,
        duration_s=duration_s,
        queue_s=0.001 if answered else None,
        first_token_s=0.05 if answered else None,
        operation="chat",
        path="/v1/chat/completions",
        model=model,
        engine="vllm" if answered else None,
        replica_id="llama.0" if answered else None,
        endpoint="http://127.0.0.1:20001" if answered else None,
        request_id=f"req-{number}",
        status=status,
        outcome=outcome,
        error=error,
        streamed=answered,
        events=12 if answered else 0,
        retries=0,
        prompt_tokens=7 if answered else None,
        completion_tokens=12 if answered else None,
    )


def odd_requests() -> dict[str, list[RequestRecord]]:
    """Every list of requests that can come, by what is odd about it."""
    left = request(3, "cancelled", status=499, error="client_left")
    foreign = request(5, parent_span_id="00f067aa0ba902b7", state="vendor=1,other=abc")
    return {
        "no request": [],
        "one that was answered": [request(0)],
        "one that was refused before its model was known": [
            request(1, "refused", status=400, model=None, error="invalid_request")
        ],
        "one that failed": [request(2, "failed", status=502, error="replica_lost")],
        "one whose client left": [left],
        "one with a model's name of all kinds": [request(4, model='模型 "x" \\ \n 🦙')],
        "one of a client's own trace": [foreign],
        "one that took no time": [request(6, duration_s=0.0)],
        "as many as may wait": [request(number) for number in range(2048)],
    }
