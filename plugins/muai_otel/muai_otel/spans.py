"""From a request's record to a span of the OpenTelemetry SDK."""

from collections.abc import Mapping

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from muai_core.model.requests import RequestRecord, TraceContext
from muai_otel.mapping import PROVIDER

_NS_PER_S = 1_000_000_000


def span(record: RequestRecord, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """One span for the whole request, named as OpenTelemetry names generative AI: `chat MODEL`."""
    trace = record.trace
    parent = trace.parent_span_id
    started_ns = record.started_unix_ns
    return ReadableSpan(
        name=f"{record.operation} {record.model}" if record.model else record.operation,
        context=_context(trace, trace.span_id, is_remote=False),
        parent=None if parent is None else _context(trace, parent, is_remote=True),
        resource=resource,
        attributes=attributes(record),
        events=_events(record),
        kind=SpanKind.SERVER,
        status=_status(record),
        start_time=started_ns,
        end_time=started_ns + round(record.duration_s * _NS_PER_S),
        instrumentation_scope=scope,
    )


def attributes(record: RequestRecord) -> Mapping[str, str | int | float | bool]:
    """What is known of the request; what is not is left out. No prompt and no answer."""
    known: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": record.operation,
        **PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.streamed,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.response.time_to_first_chunk": record.first_token_s,
        "http.request.method": "POST",
        "http.route": record.path,
        "url.path": record.path,
        "http.response.status_code": record.status,
        "error.type": _error_type(record),
        "muai.request_id": record.request_id,
        "muai.outcome": record.outcome,
        "muai.queue_s": record.queue_s,
        "muai.first_token_s": record.first_token_s,
        "muai.streamed": record.streamed,
        "muai.retries": record.retries,
        "muai.engine": record.engine,
        "muai.replica": record.replica_id,
        "muai.endpoint": record.endpoint,
    }
    return {name: value for name, value in known.items() if value is not None}


def _context(trace: TraceContext, span_id: str, *, is_remote: bool) -> SpanContext:
    return SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=is_remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([trace.state] if trace.state else []),
    )


def _events(record: RequestRecord) -> list[Event]:
    if record.first_token_s is None:
        return []
    at_ns = record.started_unix_ns + round(record.first_token_s * _NS_PER_S)
    return [Event("first_token", timestamp=at_ns)]


def _error_type(record: RequestRecord) -> str | None:
    if record.outcome == "cancelled":
        return record.error or "cancelled"
    if record.outcome == "ok" and record.status < 400:
        return None
    return record.error or (str(record.status) if record.status >= 400 else record.outcome)


def _status(record: RequestRecord) -> Status:
    """An error is ours: a failed answer, a status of 500 or more. A client's mistake is none."""
    if record.outcome == "failed" or record.status >= 500:
        return Status(StatusCode.ERROR, _error_type(record))
    return Status(StatusCode.UNSET)
