"""What an engine answers under /progress is data, whatever it is."""

import asyncio

import pytest

from muai_core.model.routing import Route
from muai_core.runtime.progress import EngineProgress, ProgressPoller

GOOD = b'{"requests_running": 1, "requests_waiting": 2, "tokens_generated": 3}'


async def polled(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> dict[str, EngineProgress]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = f"Content-Length: {len(body)}".encode()
        writer.write(b"\r\n".join([head, b"Connection: close", length, b"", body]))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    poller = ProgressPoller()
    try:
        route = Route(
            model="chat",
            replica_id="chat.0",
            epoch=1,
            endpoint=f"http://127.0.0.1:{port}",
            engine="any",
        )
        await poller.poll([route])
        return poller.latest
    finally:
        await poller.close()
        server.close()


async def test_a_good_answer_is_taken() -> None:
    assert await polled(GOOD) == {"chat.0": EngineProgress(1, 2, 3)}


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (b'{"x":' + b"[" * 60_000, b"HTTP/1.1 200 OK"),
        (GOOD.replace(b"3", b"9" * 400), b"HTTP/1.1 200 OK"),
        (GOOD.replace(b"3", b"-3"), b"HTTP/1.1 200 OK"),
        (GOOD, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip"),
        (GOOD, b"HTTP/1.1 302 Found\r\nLocation: http://:99999999/"),
        (GOOD, b"HTTP/1.1 500 Oh"),
        (GOOD, b"\xff\xfe"),
    ],
)
async def test_nonsense_counts_as_no_answer(body: bytes, head: bytes) -> None:
    assert await polled(body, head) == {}
