"""Everything goes wrong at once: each client gets an answer or an error, and no count leaks."""

import asyncio
import json
import random
from collections import Counter

from muai_core.model.routing import ModelStatus, Route, RoutingTable

CLIENTS = 20
REQUESTS_EACH = 20
ANSWER = b'{"choices": [], "usage": null}'


async def misbehave(reader, writer, chance, event):
    """One answer of an engine on a bad day."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n"
    stream_head = head % (b"text/event-stream", b"Transfer-Encoding: chunked\r\n")
    mood = chance.random()
    if mood < 0.35:
        writer.write(head % (b"application/json", b"Content-Length: %d\r\n" % len(ANSWER)))
        writer.write(ANSWER)
    elif mood < 0.7:
        writer.write(stream_head)
        for index in range(8):
            data = b"data: [DONE]\n\n" if index == 7 else event("x" * chance.randint(1, 3000))
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
            if chance.random() < 0.05:
                writer.transport.abort()
                return
        writer.write(b"0\r\n\r\n")
    elif mood < 0.8:
        writer.transport.abort()
    elif mood < 0.85:
        writer.write(chance.randbytes(200))
    elif mood < 0.9:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    elif mood < 0.95:
        await asyncio.sleep(1)
    else:
        writer.write(stream_head + b"5\r\ndata:\r\n")
        await writer.drain()
        writer.close()


async def ask(door, streamed, seen):
    url = door.url + "/v1/completions"
    async with door.session.post(url, json={"model": "m", "stream": streamed}) as response:
        body = await response.read()
    if response.status != 200:
        assert "error" in json.loads(body)
        seen[response.status] += 1
    elif response.content_type == "application/json":
        assert body == ANSWER
        seen["whole"] += 1
    else:
        last = body.rstrip().rpartition(b"\n\n")[2]
        assert last == b"data: [DONE]" or last.startswith(b"event: error\ndata: {")
        seen["stream" if last.endswith(b"[DONE]") else "cut"] += 1


async def client(door, chance, seen):
    for _ in range(REQUESTS_EACH):
        asking = asyncio.create_task(ask(door, chance.random() < 0.5, seen))
        if chance.random() < 0.1:
            await asyncio.wait((asking,), timeout=chance.random() * 0.05)
            asking.cancel()
        try:
            await asyncio.wait_for(asking, 30)
        except asyncio.CancelledError:
            seen["left"] += 1


async def test_chaos(open_door, scripted, event, wait_until):
    chance = random.Random(7)
    door = await open_door(
        first_token_timeout_s=0.3,
        inter_token_timeout_s=0.3,
        response_timeout_s=0.3,
        retry_wait_s=0.3,
    )

    async def script(reader, writer):
        await misbehave(reader, writer, chance, event)

    urls = [(await scripted(script)).url for _ in range(4)]
    versions = iter(range(1, 10**6))

    def publish(chosen, epoch):
        routes = tuple(
            Route(model="m", replica_id=url, epoch=epoch, endpoint=url, engine="fake")
            for url in chosen
        )
        status = ModelStatus(name="m", desired=4, ready=len(routes), state="ready")
        door.gateway.publish(RoutingTable(next(versions), (status,), routes))

    async def flip_tables():
        while True:
            publish(chance.sample(urls, chance.randint(1, 4)), chance.randint(1, 3))
            await asyncio.sleep(0.02)

    flipping = asyncio.create_task(flip_tables())
    seen = Counter()
    async with asyncio.timeout(60):
        await asyncio.gather(*(client(door, chance, seen) for _ in range(CLIENTS)))
    flipping.cancel()
    assert sum(seen.values()) == CLIENTS * REQUESTS_EACH
    assert set(seen) <= {"whole", "stream", "cut", "left", 502, 503, 504}
    assert seen["whole"] > 0
    assert seen["stream"] > 0
    publish([], 1)
    await wait_until(lambda: door.gateway.loads() == [])
