"""HTTP/1.1 from one client: requests in, answers out, in order."""

import asyncio
from collections import deque
from http import HTTPStatus
from time import monotonic
from typing import Protocol, cast

import httptools

from muai_core.gateway.api_error import ApiError, body_too_large
from muai_core.gateway.client_request import Request, Site
from muai_core.gateway.tracing import PARENT, STATE

#: A request's line and headers together.
MAX_HEAD_BYTES = 64 * 1024
#: Requests that a client may send ahead of their answers.
_MAX_PIPELINED = 8
#: How long an idle connection is kept, and how long one that was told off may still send.
_KEEP_ALIVE_S = 75.0
_LINGER_S = 2.0

_VERSIONS = ("1.0", "1.1")
#: Headers of which every line counts. Two parents are one that is invalid, as they must be.
_JOINED = (PARENT, STATE)

JSON = b"application/json"
_STATUS_LINES = {
    int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def _path(target: bytes) -> str:
    """The path of a request's target, which may be a whole URL."""
    path = target.partition(b"?")[0].decode("latin-1")
    if path.startswith(("http://", "https://")):
        return "/" + path.partition("://")[2].partition("/")[2]
    return path


class Flow(Protocol):
    """Whoever writes a stream to the client."""

    def pause(self) -> None:
        """The client does not keep up."""

    def resume(self) -> None:
        """It does again."""


class ClientConnection(asyncio.Protocol):
    """One client's connection. Times are `time.monotonic`: uvloop's own clock ticks in ms."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._receiving: Request | None = None
        self._head_bytes = 0
        self._waiting: deque[Request] = deque()
        self._serving: Request | None = None
        self._task: asyncio.Task[None] | None = None
        #: No more of what the client sends is read.
        self._deaf = False
        self._quiet_since_s = monotonic()
        self._stalled_since_s: float | None = None
        self._flow: Flow | None = None
        self._chunked = False
        #: The status of the present answer once it was written; 0 before.
        self.status = 0

    @property
    def left(self) -> bool:
        """True once nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    # Answering.

    def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b""
    ) -> None:
        """Writes a whole answer. `headers` are complete lines."""
        request = self._serving
        assert request is not None
        self.status = status
        framing = b"content-length: %d\r\n" % len(body)
        head = self._head(request, status, content_type, headers, framing)
        self._write(head if request.method == "HEAD" else head + body)

    def refuse(self, error: ApiError) -> None:
        """Writes an error as a whole answer."""
        headers = error.headers
        if error.retry_after_s is not None:
            headers += b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
        self.respond(error.status, error.body(), headers=headers)

    def begin(self, content_type: bytes, headers: bytes, flow: Flow) -> None:
        """Begins a stream with status 200."""
        request = self._serving
        assert request is not None
        self.status = 200
        self._flow = flow
        self._chunked = request.version != "1.0"
        request.keep_alive = request.keep_alive and self._chunked
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._write(self._head(request, 200, content_type, headers, framing))
        if self._stalled_since_s is not None:
            flow.pause()

    def write(self, data: bytes) -> None:
        """Writes a piece of the stream, which must not be empty."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """Ends the stream."""
        self._flow = None
        if self._chunked:
            self._write(b"0\r\n\r\n")

    def break_off(self, error: ApiError) -> None:
        """Writes an error as the whole answer, or as the last event of a stream that has begun."""
        if self._flow is not None:
            self.write(error.event())
            self.end()
        elif not self.status:
            self.refuse(error)

    def _head(
        self, request: Request, status: int, content_type: bytes, headers: bytes, framing: bytes
    ) -> bytes:
        if self._site.closing:
            request.keep_alive = False
        return b"%bcontent-type: %b\r\n%bx-request-id: %b\r\n%bdate: %b\r\n%b\r\n" % (
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            content_type,
            framing,
            request.id,
            headers,
            self._site.date,
            b"" if request.keep_alive else b"connection: close\r\n",
        )

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        try:
            self._site.opened(self)
        except ApiError as error:
            self._tell_off(error)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._tell_off(ApiError(400, "malformed_http", f"not HTTP/1.1: {error}"))
            return
        receiving = self._receiving
        if receiving is not None and not receiving.method:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._tell_off(
                    ApiError(431, "headers_too_large", f"headers over {MAX_HEAD_BYTES} bytes")
                )

    def eof_received(self) -> None:
        """Lets the transport close: a client that cannot be answered has left."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._site.closed(self)
        # The one being served too: a task that is cancelled before its first step never ran.
        for request in (self._serving, self._receiving, *self._waiting):
            if request is not None and request.admitted:
                self._site.leave(request)
        self._receiving = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._stalled_since_s = monotonic()
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        self._stalled_since_s = None
        if self._flow is not None:
            self._flow.resume()

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._receiving = Request(monotonic())
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._receiving is not None:
            self._receiving.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._receiving is None:
            return
        headers, name = self._receiving.headers, name.lower()
        if name in headers and name in _JOINED:
            value = headers[name] + b"," + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        request = self._receiving
        if request is None:
            return
        request.method = self._parser.get_method().decode("latin-1")
        if self._parser.should_upgrade():
            return
        request.version = self._parser.get_http_version()
        if request.version not in _VERSIONS:
            self._tell_off(
                ApiError(400, "http_version", f"HTTP/{request.version} is not spoken here; use 1.1")
            )
            return
        request.keep_alive = self._parser.should_keep_alive() and request.version != "1.0"
        request.path = _path(request.url)
        try:
            self._site.admit(request)
            length = request.headers.get(b"content-length")
            if length is not None and int(length) > self._site.max_body_bytes:
                raise body_too_large(self._site.max_body_bytes)
        except ApiError as error:
            request.refusal = error
            if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self._tell_off(error)
            return
        if request.headers.get(b"expect", b"").lower() == b"100-continue" and not self._serving:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        request = self._receiving
        if request is None:
            return
        request.size += len(data)
        if request.size > self._site.max_body_bytes:
            self._tell_off(body_too_large(self._site.max_body_bytes))
        elif request.refusal is None:
            request.chunks.append(data)

    def on_message_complete(self) -> None:
        request = self._receiving
        if request is None or self._parser.should_upgrade():
            return
        self._receiving = None
        request.body = request.chunks[0] if len(request.chunks) == 1 else b"".join(request.chunks)
        request.chunks.clear()
        self._enqueue(request)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Reads the request again as if it had not asked: no other protocol is spoken here.

        Some clients ask for HTTP/2 by default, and their bodies would be lost otherwise.
        """
        asked = self._receiving
        if asked is None:
            return
        if asked.method == "CONNECT":
            self._tell_off(ApiError(405, "method_not_allowed", "CONNECT is not taken here"))
            return
        self._receiving = None
        self._parser = httptools.HttpRequestParser(self)
        headers = b"".join(
            b"%b: %b\r\n" % (name, value)
            for name, value in asked.headers.items()
            if name not in (b"connection", b"upgrade")
        )
        line = b"%b %b HTTP/1.1\r\n" % (asked.method.encode("latin-1"), asked.url)
        self.data_received(line + headers + b"\r\n" + rest)

    # One request after the other.

    def _enqueue(self, request: Request) -> None:
        self._waiting.append(request)
        if self._serving is None:
            self._serve_next()
        elif len(self._waiting) >= _MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def _serve_next(self) -> None:
        request = self._waiting.popleft()
        self._serving = request
        self.status = 0
        self._task = self._loop.create_task(self._serve(request))
        if len(self._waiting) == _MAX_PIPELINED - 1 and self._transport is not None:
            self._transport.resume_reading()

    async def _serve(self, request: Request) -> None:
        try:
            await self._site.serve(request, self)
        finally:
            self._served(request)

    def _served(self, request: Request) -> None:
        if request.admitted:
            self._site.leave(request)
        self._serving = None
        self._task = None
        self._flow = None
        self._quiet_since_s = monotonic()
        if self._transport is None or self._transport.is_closing():
            return
        if not request.keep_alive or self._site.closing:
            self._hang_up()
        elif self._waiting:
            self._serve_next()
        elif self._deaf:
            self._hang_up()

    def _tell_off(self, error: ApiError) -> None:
        """Answers something that cannot be read to its end, then closes."""
        if self._deaf:
            return
        self._deaf = True
        request = self._receiving or Request(monotonic())
        self._receiving = None
        request.chunks.clear()
        request.refusal = error
        request.keep_alive = False
        self._enqueue(request)

    def _hang_up(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._deaf and self._transport.can_write_eof():
            # Closing with unread input would reset the connection under the answer.
            self._transport.write_eof()
        else:
            self._transport.close()

    # The gateway calls these.

    def sweep(self, now_s: float) -> None:
        """Ends what has lasted too long on the client's side. Called every second."""
        if self._transport is None:
            return
        patience_s = self._site.client_timeout_s
        if self._stalled_since_s is not None and now_s - self._stalled_since_s > patience_s:
            self._transport.abort()
        elif self._serving is not None:
            return
        elif self._deaf:
            if now_s - self._quiet_since_s > _LINGER_S:
                self._transport.abort()
        elif self._receiving is not None:
            if now_s - self._receiving.arrived_s > patience_s:
                self._tell_off(
                    ApiError(408, "request_timeout", f"the request took over {patience_s:g} s")
                )
        elif now_s - self._quiet_since_s > _KEEP_ALIVE_S:
            self._transport.close()

    def close_if_idle(self) -> None:
        """For draining: closes unless a request is being received or answered."""
        if self._serving is None and self._receiving is None and self._transport is not None:
            self._transport.close()

    def cancel(self) -> None:
        """For the end of draining: stops answering."""
        if self._task is not None:
            self._task.cancel()
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once, whatever the client has not taken."""
        if self._transport is not None:
            self._transport.abort()
