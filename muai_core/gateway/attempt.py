"""One try of one request on one replica: its deadlines, its bytes, and what became of it."""

import asyncio
from time import monotonic

from msgspec import Struct

from muai_core.gateway.client_connection import ClientConnection
from muai_core.gateway.observer import FaultKind
from muai_core.gateway.replica_pool import BreakKind, ReplicaConnection
from muai_core.gateway.settings import GatewaySettings

#: An answer that is not a stream is held in memory up to this, so that it can be retried whole.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
#: An event of a stream that is longer is no event.
_MAX_EVENT_BYTES = 1024 * 1024

_EVENT_STREAM = b"text/event-stream"
#: Only a `usage` holds this: inside a text the quotes would be escaped.
_USAGE_MARK = b'"prompt_tokens"'
#: What a server-sent event may begin with.
_EVENT_STARTS = (b"data:", b":", b"event:", b"id:", b"retry:", b"\n", b"\r\n")
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_DONE = (b"data: [DONE]\n\n", b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n")


class Answer(Struct, frozen=True):
    """A whole answer, of which the client has seen nothing yet."""

    status: int
    content_type: bytes
    retry_after: bytes
    body: bytes
    #: Names the replica to the client: a whole header line.
    replica_header: bytes


class ReplicaFault(Exception):
    """A try failed through its replica."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FaultKind = kind
        self.detail = detail


class Attempt:
    """Carries a replica's answer to the client, or into memory when it is not a stream.

    Only whole events are passed on, so that a cut leaves the client a stream it can parse, and
    nothing is written to the client before the first of them: until then another try is possible.
    """

    __slots__ = (
        "_connection",
        "_content_type",
        "_done_seen",
        "_last_s",
        "_live",
        "_loop",
        "_paused",
        "_replica_header",
        "_retry_after",
        "_settings",
        "_size",
        "_status",
        "_streamed",
        "_timer",
        "client",
        "events",
        "first_event_s",
        "held",
        "outcome",
        "usage",
    )

    def __init__(
        self,
        connection: ReplicaConnection,
        client: ClientConnection,
        settings: GatewaySettings,
        *,
        streamed: bool,
        usage_asked: bool,
        replica_header: bytes,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._settings = settings
        self._streamed = streamed
        self._replica_header = replica_header
        self._live = False
        self._paused = False
        self._done_seen = False
        self._status = 0
        self._content_type = b""
        self._retry_after = b""
        self._size = 0
        self.client = client
        #: Of an answer: its pieces. Of a stream: the beginning of an event that is not whole yet.
        self.held: list[bytes] = []
        self.events = 0
        #: The latest events of a stream that hold a `usage`; None when nobody asked for one.
        self.usage: bytes | None = b"" if usage_asked else None
        self.first_event_s: float | None = None
        #: An Answer; None when a stream was passed on to its end; or raises ReplicaFault.
        self.outcome: asyncio.Future[Answer | None] = self._loop.create_future()
        self._last_s = monotonic()
        timeout_s = settings.first_token_timeout_s if streamed else settings.response_timeout_s
        self._timer = self._loop.call_later(timeout_s, self._expire)

    def close(self) -> None:
        """Lets go of the replica; aborts its work unless it is done."""
        self._timer.cancel()
        if not self.outcome.done() or self.outcome.cancelled():
            self._connection.abort()
        else:
            # Read by nobody when the client left at the same moment.
            self.outcome.exception()

    # The replica's connection calls these.

    def on_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        self._status = status
        self._content_type = content_type
        self._retry_after = retry_after
        self._live = (
            self._streamed and status == 200 and content_type.lower().startswith(_EVENT_STREAM)
        )

    def on_data(self, data: bytes) -> None:
        self._last_s = monotonic()
        if self._live:
            self._pass_on(data)
            return
        self._size += len(data)
        self.held.append(data)
        if self._size > MAX_ANSWER_BYTES:
            self._fail("too_large", f"its answer is over {MAX_ANSWER_BYTES} bytes")

    def on_end(self) -> None:
        if self.outcome.done():
            return
        if not self._live:
            body = self.held[0] if len(self.held) == 1 else b"".join(self.held)
            self.outcome.set_result(
                Answer(
                    self._status,
                    self._content_type,
                    self._retry_after,
                    body,
                    self._replica_header,
                )
            )
        elif self.held or not self._done_seen:
            self._fail("reset", "the stream ended without [DONE]")
        else:
            # [DONE] is no token.
            self.events -= 1
            self.outcome.set_result(None)

    def on_broken(self, kind: BreakKind, detail: str) -> None:
        self._fail(kind, detail)

    # The client's connection calls these.

    def pause(self) -> None:
        self._paused = True
        self._connection.pause()

    def resume(self) -> None:
        self._paused = False
        self._last_s = monotonic()
        self._connection.resume()

    def _pass_on(self, data: bytes) -> None:
        if self.held:
            data = self.held.pop() + data
        if not data.endswith(_EVENT_ENDS):
            data, rest = split_events(data)
            if len(rest) > _MAX_EVENT_BYTES:
                self._fail("garbled", f"an event is over {_MAX_EVENT_BYTES} bytes")
                return
            self.held.append(rest)
            if not data:
                return
        if not data.startswith(_EVENT_STARTS):
            self._fail("garbled", "its stream is not made of server-sent events")
            return
        if self.first_event_s is None:
            self._begin()
        self.events += data.count(b"data:")
        if self.usage is not None and _USAGE_MARK in data:
            self.usage = data
        self._done_seen = data.endswith(_DONE)
        self.client.write(data)

    def _begin(self) -> None:
        self.first_event_s = self._last_s
        self._timer.cancel()
        self._timer = self._loop.call_later(self._settings.inter_token_timeout_s, self._expire)
        self.client.begin(self._content_type, self._replica_header, self)

    def _expire(self) -> None:
        settings = self._settings
        if not self._streamed:
            self._fail("response_timeout", "did not answer")
        elif self.first_event_s is None:
            self._fail("first_token_timeout", "sent no token")
        else:
            silent_s = monotonic() - self._last_s
            left_s = settings.inter_token_timeout_s - (0.0 if self._paused else silent_s)
            if left_s > 0:
                self._timer = self._loop.call_later(left_s, self._expire)
            else:
                self._fail("inter_token_timeout", "sent no further token")

    def _fail(self, kind: FaultKind, detail: str) -> None:
        self._connection.abort()
        if not self.outcome.done():
            self.outcome.set_exception(ReplicaFault(kind, detail))


def split_events(data: bytes) -> tuple[bytes, bytes]:
    """The whole events at the start of `data`, and the rest."""
    lf = data.rfind(b"\n\n")
    crlf = data.rfind(b"\r\n\r\n")
    if lf < 0 and crlf < 0:
        return b"", data
    cut = lf + 2 if lf > crlf else crlf + 4
    return data[:cut], data[cut:]
