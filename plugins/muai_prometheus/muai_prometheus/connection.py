"""HTTP/1.1 with one scraper."""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

#: A connection that is silent this long is closed.
IDLE_TIMEOUT_S = 30.0
#: A request's line and headers together; scrapers send a few hundred bytes.
MAX_HEAD_BYTES = 16 * 1024


class Answer(Struct, frozen=True):
    """What a request gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Connection(asyncio.Protocol):
    """One connection. Requests are answered at once, in the order in which they come."""

    def __init__(
        self,
        respond: Callable[[str, str], Answer],
        admit: Callable[["Connection"], bool],
        forget: Callable[["Connection"], None],
    ) -> None:
        """`respond` takes the path and the `Accept` header; `admit` is asked once connected, and
        `forget` told in the end of those that were admitted."""
        self._respond = respond
        self._admit = admit
        self._forget = forget
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._idle: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        #: Whether a request of the data that came last was answered.
        self._answered = False
        self._path = ""
        self._accept: list[str] = []

    def close(self) -> None:
        """At once; what was not sent yet is lost."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._admit(self):
            self._wait()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._forget(self)

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._wait()
        self._answered = False
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if it had not asked for another protocol, which it may do by the book.
            self._transport.close()
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no HTTP request\n")
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers\n")

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._path, self._accept = "", []

    def on_url(self, url: bytes) -> None:
        self._path += url.decode("ascii")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"accept":
            self._accept.append(value.decode("latin-1"))

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._answered:
            # Sent before the answer to the last one: scrapers have no need to, so nobody may pile
            # up answers here.
            self._transport.close()
            return
        self._answered = True
        method = self._parser.get_method()
        if method not in (b"GET", b"HEAD"):
            self._refuse(HTTPStatus.NOT_IMPLEMENTED, "only GET and HEAD are understood here\n")
            return
        answer = self._respond(urlsplit(self._path).path, ",".join(self._accept))
        stay = self._parser.should_keep_alive()
        self._send(answer, with_body=method == b"GET", stay=stay)

    # Answering.

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._send(Answer(status, text.encode()), with_body=True, stay=False)

    def _send(self, answer: Answer, *, with_body: bool, stay: bool) -> None:
        if self._transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {int(answer.status)} {answer.status.phrase}\r\n"
            f"Server: muai\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
            f"Connection: {'keep-alive' if stay else 'close'}\r\n\r\n"
        )
        self._transport.write(head.encode() + (answer.body if with_body else b""))
        if not stay:
            self._transport.close()

    def _wait(self) -> None:
        """Close the connection unless something comes soon."""
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(IDLE_TIMEOUT_S, self._transport.abort)
