"""W3C Trace Context, level 1: what a client says of its trace, and what the engine is told.

https://www.w3.org/TR/trace-context-1/
"""

import random
import re
import secrets
from collections.abc import Callable, Mapping

from muai_core.model.requests import RequestRecord, TraceContext

PARENT = b"traceparent"
STATE = b"tracestate"

#: Version, trace id, parent id, flags, and what a version after 00 may add. A comma is where two
#: headers were joined, which makes both invalid.
_PARENT_FORM = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[^,]*)?"
)
_SAMPLED = 0x01
_LOW_BITS = 2**64 - 1


class Tracing:
    """Places requests in traces and tells of those that are sampled."""

    def __init__(self, sample_ratio: float, tell: Callable[[RequestRecord], None]) -> None:
        """`sample_ratio` is the share of new traces to sample, from 0 to 1; clients decide for
        their own. `tell` gets each sampled request once it has ended, on the event loop: it must
        not block.

        Raises ValueError when `sample_ratio` is not from 0 to 1.
        """
        if not 0.0 <= sample_ratio <= 1.0:
            raise ValueError(f"the sample ratio must be from 0 to 1, not {sample_ratio}")
        self.tell = tell
        # As OpenTelemetry's TraceIdRatioBased: by the low half of the trace id.
        self._bound = round(sample_ratio * (_LOW_BITS + 1))
        # Ids must not collide between controllers; they need not be secret.
        self._bits = random.Random(secrets.randbits(256)).getrandbits

    def begin(self, headers: Mapping[bytes, bytes]) -> TraceContext:
        """The gateway's span for a request with these headers, whatever they hold.

        It continues the client's trace when `traceparent` is valid, else it begins a new one and
        `tracestate` is dropped.
        """
        # An id of zeros is invalid.
        span_id = f"{self._bits(64) or 1:016x}"
        given = headers.get(PARENT)
        found = None if given is None else _PARENT_FORM.fullmatch(given.strip(b" \t"))
        if found is None or (found[1] == b"00" and found[5] is not None):
            trace = self._bits(128) or 1
            return TraceContext(f"{trace:032x}", span_id, None, trace & _LOW_BITS < self._bound)
        return TraceContext(
            found[2].decode(),
            span_id,
            found[3].decode(),
            bool(int(found[4], 16) & _SAMPLED),
            headers.get(STATE, b"").decode("latin-1"),
        )


def engine_headers(trace: TraceContext) -> bytes:
    """The header lines with which an engine continues the trace under the gateway's span."""
    parent = f"traceparent: 00-{trace.trace_id}-{trace.span_id}-{trace.sampled:02x}\r\n"
    if trace.state:
        parent += f"tracestate: {trace.state}\r\n"
    return parent.encode("latin-1")
