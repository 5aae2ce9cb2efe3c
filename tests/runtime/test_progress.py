"""What an engine answers under /progress is data, whatever it is."""

import asyncio
import gzip
from typing import Any

import pytest

from muai_core import LaunchSpec, ProgressMetrics
from muai_core.model.routing import Route
from muai_core.runtime.launches import Launches
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


# --- Prometheus' text format ----------------------------------------------------------------------

SERIES = ProgressMetrics(
    requests_running="vllm:num_requests_running",
    requests_waiting="vllm:num_requests_waiting",
    tokens_generated="vllm:generation_tokens_total",
)
TEXT = b"""\
vllm:num_requests_running{engine="0"} 1.0
vllm:num_requests_running{engine="1"} 2.0
vllm:num_requests_waiting{engine="0"} 4.0
vllm:generation_tokens_total{engine="0"} 1.5e+01
"""


class TextEngine:
    """Answers every request with one body, and notes the paths."""

    def __init__(self, body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> None:
        self.body, self.head = body, head
        self.paths: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.paths.append(request.split()[1].decode())
        writer.write(self.head + b"\r\nConnection: close\r\n\r\n")
        # In pieces, as a large answer arrives.
        for start in range(0, len(self.body), 60_000):
            writer.write(self.body[start : start + 60_000])
            try:
                await writer.drain()
            except ConnectionError:
                return
        writer.close()


async def asked(
    engine: TextEngine, *, epoch: int = 1, with_metrics: bool = True, **changes: Any
) -> ProgressPoller:
    server = await asyncio.start_server(engine, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    launches = Launches()
    launch = LaunchSpec(
        **{
            "argv": ("engine",),
            "host": "127.0.0.1",
            "port": port,
            "served_model_name": "chat",
            "progress_path": "/metrics",
            "progress_metrics": SERIES,
            "metrics_path": "/metrics",
            **changes,
        }
    )
    launches.add("chat.0", epoch, launch)
    poller = ProgressPoller(launches)
    try:
        route = Route(
            model="chat",
            replica_id="chat.0",
            epoch=1,
            endpoint=f"http://127.0.0.1:{port}",
            engine="any",
        )
        await poller.poll([route], with_metrics=with_metrics)
        return poller
    finally:
        await poller.close()
        server.close()


async def test_series_are_added_up_and_asked_for_once() -> None:
    engine = TextEngine(TEXT)

    poller = await asked(engine)

    assert poller.latest == {"chat.0": EngineProgress(3, 4, 15)}
    assert [family.name for family in poller.metrics["chat.0"].families] == [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:generation_tokens_total",
    ]
    assert engine.paths == ["/metrics"]


async def test_paths_are_those_of_the_launch() -> None:
    engine = TextEngine(GOOD)

    poller = await asked(
        engine, progress_path="/own", progress_metrics=None, metrics_path="/others"
    )

    assert sorted(engine.paths) == ["/others", "/own"]
    assert poller.latest == {"chat.0": EngineProgress(1, 2, 3)}
    assert poller.metrics == {}


async def test_nobody_is_asked_for_what_nobody_wants() -> None:
    engine = TextEngine(TEXT)

    poller = await asked(engine, with_metrics=False, progress_path=None, progress_metrics=None)

    assert engine.paths == []
    assert (poller.latest, poller.metrics) == ({}, {})


async def test_an_earlier_launch_says_nothing_of_this_one() -> None:
    engine = TextEngine(GOOD)

    await asked(engine, epoch=2)

    assert engine.paths == ["/progress"]


async def test_a_large_answer_is_taken_whole() -> None:
    filler = b"".join(b'filler{number="%d"} 1\n' % number for number in range(20_000))

    poller = await asked(TextEngine(filler + TEXT))

    assert poller.latest == {"chat.0": EngineProgress(3, 4, 15)}


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (TEXT + b"#" * 1024 * 1024, b"HTTP/1.1 200 OK"),
        (gzip.compress(TEXT), b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip"),
        (TEXT, b"HTTP/1.1 500 Oh"),
        (TEXT.replace(b"4.0", b"NaN"), b"HTTP/1.1 200 OK"),
        (TEXT.replace(b"4.0", b"-4"), b"HTTP/1.1 200 OK"),
        (TEXT.replace(b"4.0", b"1e300"), b"HTTP/1.1 200 OK"),
        (TEXT + b"\xff 1", b"HTTP/1.1 200 OK"),
        (GOOD, b"HTTP/1.1 200 OK"),
        (b"something_else 1", b"HTTP/1.1 200 OK"),
        (b"", b"HTTP/1.1 200 OK"),
    ],
)
async def test_text_that_does_not_tell_counts_as_no_answer(body: bytes, head: bytes) -> None:
    assert (await asked(TextEngine(body, head))).latest == {}


async def test_broken_text_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    poller = await asked(TextEngine(b"{not metrics}"))

    assert poller.metrics == {}
    assert ["line 1 is no sample" in one for one in caplog.messages] == [True]
