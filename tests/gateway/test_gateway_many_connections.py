"""Many clients at once, and clients that vanish, on the event loop that the controller uses."""

import asyncio
import json
import resource
import socket
import struct
from collections import Counter

import pytest
import uvloop

from muai_core.gateway import Gateway, GatewaySettings, NullObserver
from muai_core.model.routing import ModelStatus, Route, RoutingTable

CLIENTS = 2000
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


class Engine(asyncio.Protocol):
    """Streams four events to each request once every client has been heard."""

    heard = 0
    everyone: asyncio.Event

    def connection_made(self, transport):
        self.transport = transport
        self.data = b""

    def data_received(self, data):
        self.data += data
        head, _, body = self.data.partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) == length:
            self.data = b""
            Engine.heard += 1
            if Engine.heard == CLIENTS:
                self.everyone.set()
            self.task = asyncio.create_task(self.stream())

    async def stream(self):
        await self.everyone.wait()
        write = self.transport.write
        write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        write(b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(0)
        write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def client(port):
    body = json.dumps({"model": "m", "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    return answer[:12], answer.count(EVENT), answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def serve_them_all():
    Engine.heard = 0
    Engine.everyone = asyncio.Event()
    loop = asyncio.get_running_loop()
    engines = [await loop.create_server(Engine, "127.0.0.1", 0, backlog=4096) for _ in range(2)]
    gateway = Gateway(GatewaySettings(port=0), observer=NullObserver())
    await gateway.start()
    routes = tuple(
        Route(
            model="m",
            replica_id=f"m-{index}",
            epoch=1,
            endpoint=f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}",
            engine="fake",
        )
        for index, engine in enumerate(engines)
    )
    status = ModelStatus(name="m", desired=2, ready=2, state="ready")
    gateway.publish(RoutingTable(1, (status,), routes))
    async with asyncio.timeout(60):
        asking = [asyncio.create_task(client(gateway.port)) for _ in range(CLIENTS)]
        await Engine.everyone.wait()
        during = {load.replica_id: load.outstanding for load in gateway.loads()}
        answers = Counter(await asyncio.gather(*asking))
    after = [load.outstanding for load in gateway.loads()]
    await gateway.stop()
    for engine in engines:
        engine.close()
    return during, answers, after


def test_two_thousand_streams_at_once():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 5 * CLIENTS
    if hard < needed:
        pytest.skip(f"needs {needed} file descriptors, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        during, answers, after = uvloop.run(serve_them_all())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert during == {"m-0": CLIENTS / 2, "m-1": CLIENTS / 2}
    assert answers == {(b"HTTP/1.1 200", 4, True): CLIENTS}
    assert after == [0, 0]


async def read_answer(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST %b HTTP/1.1\r\nContent-Type: application/json\r\n" % path)
    writer.write(b"Connection: close\r\nContent-Length: 14\r\n\r\n" + b'{"model": "m"}')
    answer = await reader.read()
    writer.close()
    return answer


async def vanish_and_ask():
    gateway = Gateway(GatewaySettings(port=0, max_concurrent_requests=1))
    await gateway.start()
    body = b'{"model": "m"}'
    post = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    for cut in (len(post), len(post) - 3):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(post[:cut])
                # Closing now sends a reset, which is read together with the request.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while b" 429 " in await read_answer(gateway.port, b"/v1/completions"):
            await asyncio.sleep(0.01)
    await gateway.stop()


def test_clients_that_vanish_at_once_leave_their_places():
    uvloop.run(vanish_and_ask())
