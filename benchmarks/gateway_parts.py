"""The processes that gateway_overhead.py measures: a mock engine, proxies, and a load generator.

Each is started as `python benchmarks/gateway_parts.py PART ...` and runs until it is ended.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import uvloop
from aiohttp import ClientSession, TCPConnector, web

from muai_core.gateway import Gateway, GatewaySettings, Tracing
from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.model.routing import ModelStatus, Route, RoutingTable
from muai_core.plugin.metric_sink import MetricSink
from muai_core.runtime.sinks import SinkRunners

EVENTS = 64
EVENT_INTERVAL_S = 0.02
MODEL = "mock"


def _document(kind: str, choice: dict[str, Any], **more: Any) -> bytes:
    document = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": MODEL}
    return json.dumps({**document, "choices": [{"index": 0} | choice], **more}).encode()


ANSWER = _document(
    "chat.completion",
    {"message": {"role": "assistant", "content": "hello " * 16}, "finish_reason": "stop"},
    usage={"prompt_tokens": 8, "completion_tokens": 16, "total_tokens": 24},
)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
EVENT = b"data: %b\n\n" % _document(
    "chat.completion.chunk", {"delta": {"content": " hello"}, "finish_reason": None}
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_EVENT = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class MockEngine(asyncio.Protocol):
    """Answers at once, or streams 64 events 20 ms apart; as little else as possible."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while True:
            head, found, rest = self.data.partition(b"\r\n\r\n")
            if not found:
                return
            _, _, length = head.lower().partition(b"content-length:")
            size = int(length.split(b"\r\n")[0]) if length else 0
            if len(rest) < size:
                return
            body, self.data = rest[:size], rest[size:]
            if b'"stream":true' in body.replace(b" ", b""):
                self.task = asyncio.get_running_loop().create_task(self.stream())
            else:
                self.transport.write(PLAIN)

    async def stream(self) -> None:
        self.transport.write(STREAM_HEAD)
        for _ in range(EVENTS):
            await asyncio.sleep(EVENT_INTERVAL_S)
            if self.transport.is_closing():
                return
            self.transport.write(STREAM_EVENT)
        self.transport.write(STREAM_END)


async def run_engine(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        MockEngine, "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


class ForgettingSink(MetricSink):
    """Takes every request and keeps none."""

    name = "forgetting"

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        return 1.0

    def open(self, options: Mapping[str, Any]) -> None:
        pass

    def publish(self, families: Sequence[MetricFamily]) -> None:
        pass

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        pass


def trace_everything() -> Tracing:
    sinks = SinkRunners([(ForgettingSink(), {})])
    sinks.open()
    return Tracing(1.0, sinks.record)


async def run_muai(port: int, engine_url: str, tracing: Tracing | None = None) -> None:
    gateway = Gateway(GatewaySettings(port=port), tracing=tracing)
    await gateway.start()
    route = Route(model=MODEL, replica_id="mock-0", epoch=1, endpoint=engine_url, engine="mock")
    status = ModelStatus(name=MODEL, desired=1, ready=1, state="ready")
    gateway.publish(RoutingTable(1, (status,), (route,)))
    await asyncio.Event().wait()


async def run_plain(port: int, engine_url: str) -> None:
    """What one writes first: aiohttp in front, aiohttp behind."""
    session = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)

    async def forward(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json"}
        async with session.post(engine_url + request.path, data=body, headers=headers) as answer:
            if not answer.content_type.startswith("text/event-stream"):
                return web.Response(body=await answer.read(), status=answer.status, headers=headers)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


class LoadClient(asyncio.Protocol):
    """Sends one request after the other on one connection and notes how long each took."""

    def __init__(self, request: bytes, streamed: bool, taken_s: list[float]) -> None:
        self.request = request
        self.end = b"\r\n0\r\n\r\n" if streamed else b""
        self.taken_s = taken_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.next()

    def next(self) -> None:
        self.data = b""
        self.sent_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.data = self.data[-4096:] + data if self.end else self.data + data
        if self.end:
            complete = self.data.endswith(self.end)
        else:
            head, found, body = self.data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            complete = bool(found) and len(body) == int(length)
        if complete:
            self.taken_s.append(time.perf_counter() - self.sent_s)
            self.next()


async def run_load(url: str, connections: int, seconds: float, streamed: bool) -> None:
    """Prints one JSON line in the shape of gateway_overhead's wrk script."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    body = request_body(streamed)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    taken_s: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(
            lambda: LoadClient(request, streamed, taken_s), host, int(port)
        )
    taken_s.clear()
    began_s = time.perf_counter()
    await asyncio.sleep(seconds)
    duration_s = time.perf_counter() - began_s
    ordered = sorted(taken_s)
    at = {share: ordered[int(share * (len(ordered) - 1))] * 1e6 for share in (0.5, 0.99)}
    result = {"requests": len(ordered), "duration_us": duration_s * 1e6, "errors": 0}
    print(json.dumps(result | {"p50_us": at[0.5], "p99_us": at[0.99]}))


def request_body(streamed: bool) -> bytes:
    """What every load generator sends."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 64}
    return json.dumps(body | ({"stream": True} if streamed else {})).encode()


def main() -> None:
    part, *arguments = sys.argv[1:]
    if part == "engine":
        uvloop.run(run_engine(int(arguments[0])))
    elif part == "muai":
        uvloop.run(run_muai(int(arguments[0]), arguments[1]))
    elif part == "traced":
        uvloop.run(run_muai(int(arguments[0]), arguments[1], trace_everything()))
    elif part == "plain":
        uvloop.run(run_plain(int(arguments[0]), arguments[1]))
    elif part == "load":
        url, connections, seconds, streamed = arguments
        uvloop.run(run_load(url, int(connections), float(seconds), streamed == "streamed"))
    else:
        raise SystemExit(f"unknown part {part}; engine, muai, traced, plain or load")


if __name__ == "__main__":
    main()
