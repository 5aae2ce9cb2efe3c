"""Which requests become spans."""

from muai_core.model.requests import TraceContext

_LOW_64_BITS = 2**64 - 1


def is_sampled(trace: TraceContext, ratio: float) -> bool:
    """The client's decision where it sent one; else a share of `ratio`, chosen by the trace's id.

    Every process that samples by id with the same ratio or a higher one chooses the same traces:
    OpenTelemetry's samplers `ParentBased(TraceIdRatioBased)`.
    """
    if not trace.sampled:
        return False
    if trace.parent_span_id is not None:
        return True
    return int(trace.trace_id, 16) & _LOW_64_BITS < round(ratio * 2**64)
