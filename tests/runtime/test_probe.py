"""Whatever an engine answers to a probe, the prober makes words of it, in bounded time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from muai_core.runtime.ports import LOOPBACK, PortAllocator
from muai_core.runtime.probe import Answer, Prober


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def answering(content: bytes, *, then: str = "close") -> AsyncIterator[int]:
    """A server that sends the same bytes to everyone, and then closes, waits, or repeats them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            while then != "close":
                await writer.drain()
                if then == "wait":
                    await reader.read()
                    break
                writer.write(content[-65536:])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(timeout_s=20) as prober:
        yield prober


async def test_a_listener_is_seen(prober: Prober) -> None:
    async with answering(b"") as port:
        assert (await prober.listens(LOOPBACK, port)).fulfilled
    free = PortAllocator().free_port()
    for ask in (prober.listens(LOOPBACK, free), prober.is_healthy(LOOPBACK, free, "/health")):
        answer = await ask
        assert not answer.fulfilled
        assert f"nothing listens on 127.0.0.1:{free}" in answer.words


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (http(b'{"stage":"ready"}'), Answer(True, "GET /health answers 200")),
        (http(b""), Answer(True, "GET /health answers 200")),
        (
            http(b'{"stage":"load","detail":"loading weights 40 %"}', "503 Loading"),
            Answer(False, "GET /health answers 503: loading weights 40 %", "loading weights 40 %"),
        ),
        (
            http(json.dumps({"detail": "\x1b[31ma\nb" + "c" * 500}).encode(), "503 No"),
            Answer(
                False,
                "GET /health answers 503: [31ma b" + "c" * 192 + "…",
                "[31ma b" + "c" * 192 + "…",
            ),
        ),
        (http(b'{"detail": 7}', "503 No"), Answer(False, "GET /health answers 503")),
        (http(b'{"detail": "cut', "503 No"), Answer(False, "GET /health answers 503")),
        (http(b"[" * 60_000, "503 No"), Answer(False, "GET /health answers 503")),
        (http(b"\xff\x00", "500 No"), Answer(False, "GET /health answers 500")),
        (
            http(b"", "302 Found", "Location: http://127.0.0.1:1/"),
            Answer(False, "GET /health answers 302"),
        ),
        (
            http(b"not gzip", "200 OK", "Content-Encoding: gzip"),
            Answer(True, "GET /health answers 200"),
        ),
        (b"\x16\x03garbage\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\ncut", None),
        (b"", None),
    ],
)
async def test_every_health_answer_has_its_words(
    prober: Prober, content: bytes, expected: Answer | None
) -> None:
    async with answering(content) as port:
        answer = await prober.is_healthy(LOOPBACK, port, "/health")
    if expected is not None:
        assert answer == expected
    else:
        assert not answer.fulfilled
        assert answer.words.startswith("GET /health: no HTTP answer (")


@pytest.mark.parametrize(
    "content",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["silence", "half a header", "half a body"],
)
async def test_an_engine_that_stops_in_mid_answer_is_given_up(content: bytes) -> None:
    async with Prober(timeout_s=0.1) as prober, answering(content, then="wait") as port:
        answer = await prober.is_healthy(LOOPBACK, port, "/health")
    assert answer == Answer(False, "GET /health: no complete answer within 0.1 s")


async def test_an_endless_body_is_cut_off(prober: Prober) -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 65536
    async with answering(endless, then="repeat") as port:
        assert (await prober.is_healthy(LOOPBACK, port, "/health")).fulfilled


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (http(b'{"data":[{"id":"other"},{"id":"chat"}]}'), Answer(True, "it serves chat")),
        (
            http(b'{"data":[{"id":"other"},{"id":7},"x"]}'),
            Answer(False, "GET /v1/models lists other, not chat"),
        ),
        (http(b'{"data":[]}'), Answer(False, "GET /v1/models lists no model, not chat")),
        (http(b"[]"), Answer(False, "GET /v1/models answers 200 without a list of models")),
        (http(b"{}", "401 No"), Answer(False, "GET /v1/models answers 401")),
        (b"garbage\r\n\r\n", None),
    ],
)
async def test_every_list_of_models_has_its_words(
    prober: Prober, content: bytes, expected: Answer | None
) -> None:
    async with answering(content) as port:
        answer = await prober.serves(LOOPBACK, port, "chat")
    if expected is not None:
        assert answer == expected
    else:
        assert answer.words.startswith("GET /v1/models: no HTTP answer (")


async def test_a_proxy_of_the_environment_is_not_used(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with answering(http(b"")) as port:
        assert (await prober.is_healthy(LOOPBACK, port, "/health")).fulfilled
