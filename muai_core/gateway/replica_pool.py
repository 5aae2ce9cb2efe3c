"""HTTP/1.1 to one replica: connections that are kept, and one exchange at a time on each."""

import asyncio
from typing import Literal, Protocol, cast

import httptools

#: Idle connections kept per replica. More may be open while in use.
MAX_IDLE = 256
#: Above this an answer's head is no answer.
MAX_HEAD_BYTES = 64 * 1024
#: Larger request bodies are written apart from their head, to spare a copy.
_JOIN_BYTES = 64 * 1024

BreakKind = Literal["reset", "garbled"]


class Exchange(Protocol):
    """What a connection tells about the answer to the request it carries."""

    def on_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        """The status line and headers are complete."""

    def on_data(self, data: bytes) -> None:
        """Some of the body arrived; never empty."""

    def on_end(self) -> None:
        """The answer is complete. Nothing follows."""

    def on_broken(self, kind: BreakKind, detail: str) -> None:
        """The answer will never be complete: "reset" or "garbled". Nothing follows."""


class ReplicaConnection(asyncio.Protocol):
    """One connection. After `send`, its exchange is told what arrives until end or break."""

    def __init__(self, pool: "ReplicaPool") -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._paused = False
        self._reset()
        #: True once any byte of the present answer has arrived.
        self.answered = False

    def _reset(self) -> None:
        self._chunks: list[bytes] = []
        self._head_bytes = 0
        self._status = 0
        self._content_type = b""
        self._retry_after = b""
        self._framed = False
        self._keep = False
        self._head_told = False
        self._complete = False

    @property
    def open(self) -> bool:
        """False when it is closed or about to be."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Sends a request on an idle connection."""
        self.answered = False
        if self._transport is None or self._transport.is_closing():
            exchange.on_broken("reset", "it closed the connection")
            return
        self._exchange = exchange
        if len(body) < _JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self) -> None:
        """Stops reading, so that the replica waits for the client."""
        if self.open and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads again."""
        if self.open and self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Closes at once; the replica sees its client leave. The exchange is told nothing."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        self.answered = True
        broken = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            broken = f"its answer is not HTTP: {error}"
        if not self._status:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                broken = f"its head is over {MAX_HEAD_BYTES} bytes"
        else:
            self._tell(exchange)
        if self._exchange is None:
            return
        if broken is not None:
            self.abort()
            exchange.on_broken("garbled", broken)
        elif self._complete:
            self._finish(exchange)

    def _tell(self, exchange: Exchange) -> None:
        if not self._head_told:
            self._head_told = True
            exchange.on_head(self._status, self._content_type, self._retry_after)
        if self._chunks:
            chunks = self._chunks
            self._chunks = []
            exchange.on_data(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def eof_received(self) -> None:
        """Lets the transport close; `connection_lost` says what that means."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        exchange = self._exchange
        if exchange is None:
            return
        self._exchange = None
        if self._head_told and not self._framed and exc is None:
            exchange.on_end()
        else:
            exchange.on_broken("reset", str(exc) if exc else "it closed the connection")

    # httptools calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"content-type":
            self._content_type = value
        elif lowered in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif lowered == b"retry-after":
            self._retry_after = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._status:
            self._status = status
            self._keep = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        if not self._complete:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        self._complete = self._status != 0

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        keep = self._keep and self.open
        self._reset()
        if keep:
            self.resume()
            self._pool.give_back(self)
        else:
            self.abort()
        exchange.on_end()


class ReplicaPool:
    """The connections to one replica. The one used last is used first, so that spares time out."""

    def __init__(self, host: str, port: int, authority: str) -> None:
        """`authority` is host and port as URLs write them, for the Host header."""
        self.host_header = authority.encode()
        self._host = host
        self._port = port
        self._idle: list[ReplicaConnection] = []
        self._closed = False

    def take(self) -> ReplicaConnection | None:
        """An open idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def connect(self) -> ReplicaConnection:
        """A new connection. Raises OSError; the caller sets the deadline."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: ReplicaConnection(self), self._host, self._port
        )
        return connection

    def give_back(self, connection: ReplicaConnection) -> None:
        """Keeps the connection for a later request, or closes it when there are enough."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.abort()
        else:
            self._idle.append(connection)

    def forget(self, connection: ReplicaConnection) -> None:
        """The connection closed by itself."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Closes the idle connections; those in use close when their exchange ends."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()
