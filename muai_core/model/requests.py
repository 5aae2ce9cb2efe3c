"""Requests that ended, for whoever counts or traces them."""

from typing import Literal

from msgspec import Struct

#: "refused" never reached a replica; "cancelled" means that the client left.
Outcome = Literal["ok", "refused", "failed", "cancelled"]


class TraceContext(Struct, frozen=True, gc=False):
    """Where a request stands in a distributed trace: W3C Trace Context, level 1.

    Ids are lower-case hex: 32 digits for the trace, 16 for a span.
    """

    trace_id: str
    #: The gateway's own span; the engine gets it as its parent.
    span_id: str
    #: The client's span; None when the client sent no valid `traceparent`.
    parent_span_id: str | None
    sampled: bool
    #: The client's `tracestate` as it came; empty: none.
    state: str = ""


#: Stands in the record of a request that is not traced; W3C calls ids of zeros invalid.
UNTRACED = TraceContext("0" * 32, "0" * 16, None, sampled=False)


class RequestRecord(Struct, frozen=True, gc=False):
    """One request from its arrival at the gateway to the last byte of its answer.

    Not for the garbage collector, as it can be in no cycle: thousands of them wait for sinks.
    """

    #: `UNTRACED` while nobody wants traces, and for requests that generate nothing. Sinks get only
    #: records that are traced and sampled.
    trace: TraceContext
    #: Nanoseconds since the Unix epoch.
    started_unix_ns: int
    duration_s: float
    #: From the arrival until it was first handed to a replica; None when it never was.
    queue_s: float | None
    #: From the arrival to the first event of a stream.
    first_token_s: float | None
    #: `chat` or `text_completion`, as OpenTelemetry's `gen_ai.operation.name`; empty for requests
    #: that generate nothing, such as a list of models.
    operation: str
    #: The request's path.
    path: str
    #: None when it was refused before its model was known.
    model: str | None
    #: The engine's name, the replica asked last and its base URL; None when none was asked.
    engine: str | None
    replica_id: str | None
    endpoint: str | None
    request_id: str
    #: The status sent; 499 when the client left before one was sent.
    status: int
    outcome: Outcome
    #: The gateway's error code when it made the answer itself, e.g. `model_not_ready`.
    error: str | None
    streamed: bool
    #: Events sent to the client in a stream; about one per token.
    events: int
    #: Tries beyond the first.
    retries: int
    #: As the engine counts them in the answer's `usage`; None when it does not tell.
    prompt_tokens: int | None
    completion_tokens: int | None
