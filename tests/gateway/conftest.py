"""A started gateway, and engines behind it: healthy ones on aiohttp, faulty ones on sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from muai_core.gateway import FaultKind, Gateway, GatewaySettings, Tracing
from muai_core.model.requests import RequestRecord
from muai_core.model.routing import ModelState, ModelStatus, Route, RoutingTable

PIECES = ("The ", "capital ", "of ", "France ", "is ", "Paris.")


def chunk(text: str) -> bytes:
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def completion(text: str = "".join(PIECES)) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
    }


class HealthyEngine:
    """Answers at once, or after `gate` is set; counts who left early."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        self.running = 0
        self.began = asyncio.Event()
        self.aborted = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.status = 200
        self.answer: Any = completion()
        self.pieces: Sequence[str] = PIECES
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_post("/v1/completions", self._generate)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = json.loads(body)
        self.bodies.append(body)
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, asked))
        self.running += 1
        self.began.set()
        try:
            if asked.get("stream") and self.status == 200:
                return await self._stream(request)
            await self.gate.wait()
            return web.json_response(self.answer, status=self.status)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted.set()
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk(self.pieces[0]))
        await self.gate.wait()
        for piece in self.pieces[1:]:
            await response.write(chunk(piece))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedEngine:
    """Reads each request whole, then does to the socket what its script says."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.received = 0
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.received += 1
                await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.finished: list[RequestRecord] = []
        self.traced: list[RequestRecord] = []
        self.faults: list[tuple[str, int, FaultKind]] = []

    def request_finished(self, request: RequestRecord) -> None:
        self.finished.append(request)

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        self.faults.append((replica_id, epoch, kind))


class Door:
    """A gateway that listens, with a client and a table to publish."""

    def __init__(
        self, gateway: Gateway, recorder: Recorder, session: aiohttp.ClientSession
    ) -> None:
        self.gateway = gateway
        self.recorder = recorder
        self.session = session
        self._version = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def publish(
        self,
        engines: Sequence[Any] = (),
        *,
        model: str = "m",
        epochs: Sequence[int] = (),
        state: ModelState | None = None,
        reason: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Routes `model` to engines (or URLs), as replicas m-0, m-1 and so on."""
        self._version += 1
        urls = [engine if isinstance(engine, str) else engine.url for engine in engines]
        routes = tuple(
            Route(
                model=model,
                replica_id=f"{model}-{index}",
                epoch=epochs[index] if epochs else 1,
                endpoint=url,
                engine="fake",
            )
            for index, url in enumerate(urls)
        )
        status = ModelStatus(
            name=model,
            desired=max(1, len(routes)),
            ready=len(routes),
            state=state or ("ready" if routes else "starting"),
            reason=reason,
            retry_after_s=retry_after_s,
        )
        self.gateway.publish(RoutingTable(self._version, (status,), routes))

    async def post(
        self, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body and headers (lower case) of one plain request to model `m`."""
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
        async with self.session.post(self.url + path, json=asked, headers=headers) as response:
            text = await response.text()
            sent = {name.lower(): value for name, value in response.headers.items()}
            return response.status, json.loads(text), sent

    async def get(
        self, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        async with self.session.get(self.url + path, headers=headers) as response:
            text = await response.text()
            sent = {name.lower(): value for name, value in response.headers.items()}
            return response.status, json.loads(text), sent

    async def stream(self, **body: Any) -> tuple[int, list[str]]:
        """Status and the data of every event of one streamed request to model `m`."""
        asked = {"model": "m", "messages": [], "stream": True} | body
        url = self.url + "/v1/chat/completions"
        async with self.session.post(url, json=asked) as response:
            text = await response.text()
            events = [event for event in text.split("\n\n") if event]
            return response.status, [event.partition("data: ")[2] for event in events]

    async def reported(self, count: int = 1) -> list[RequestRecord]:
        """The finished requests, once there are `count`."""
        await until(lambda: len(self.recorder.finished) >= count)
        return self.recorder.finished


async def until(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Returns once `condition` holds; fails after `deadline_s`."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    """The controller runs on uvloop; whoever embeds the gateway may not."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def open_door() -> AsyncIterator[Callable[..., Awaitable[Door]]]:
    """Starts gateways: `await open_door(**settings)`, or with `health=`, or `trace_ratio=`."""
    doors: list[Door] = []

    async def start(
        health: Any = None,
        observer: Any = None,
        trace_ratio: float | None = None,
        **settings: Any,
    ) -> Door:
        recorder = Recorder()
        gateway = Gateway(
            GatewaySettings(port=0, **settings),
            observer=observer or recorder,
            health=health,
            tracing=None if trace_ratio is None else Tracing(trace_ratio, recorder.traced.append),
        )
        await gateway.start()
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        doors.append(Door(gateway, recorder, session))
        return doors[-1]

    yield start
    for door in doors:
        await door.session.close()
        await door.gateway.stop()


@pytest.fixture
async def door(open_door: Callable[..., Awaitable[Door]]) -> Door:
    """A gateway with default settings, save for short waits."""
    return await open_door(retry_wait_s=0.2)


@pytest.fixture
async def healthy() -> AsyncIterator[Callable[[], Awaitable[HealthyEngine]]]:
    """Starts engines that work."""
    engines: list[HealthyEngine] = []

    async def start() -> HealthyEngine:
        engine = HealthyEngine()
        await engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        await engine.stop()


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[Script], Awaitable[ScriptedEngine]]]:
    """Starts engines that do what a script says with each request."""
    engines: list[ScriptedEngine] = []

    async def start(script: Script) -> ScriptedEngine:
        engine = ScriptedEngine(script)
        await engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        await engine.stop()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    """Waits for a condition with a deadline."""
    return until


@pytest.fixture
def event() -> Callable[[str], bytes]:
    """One event of a stream, as bytes."""
    return chunk
