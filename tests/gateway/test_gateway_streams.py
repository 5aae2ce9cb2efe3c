"""Streams: events as they come, deadlines, cuts after the first byte, and clients that leave."""

import asyncio
import json

import pytest

DEADLINE_S = 60.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


async def begin(door, **body):
    """Sends a streamed request; returns the connection after its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    document = json.dumps({"model": "m", "stream": True} | body).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(document), document)
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    return reader, writer, head


async def test_events_arrive_while_the_engine_still_generates(door, healthy):
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    reader, writer, head = await begin(door)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream" in head
    assert b"x-muai-replica: m-0" in head
    first = await asyncio.wait_for(reader.readuntil(b"\n\n"), DEADLINE_S)
    assert b'"The "' in first
    engine.gate.set()
    rest = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), DEADLINE_S)
    assert b"data: [DONE]\n\n" in rest
    writer.close()
    (finished,) = await door.reported()
    assert (finished.outcome, finished.streamed, finished.events) == ("ok", True, 6)
    assert 0 < finished.first_token_s <= finished.duration_s


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_events_survive_any_packaging(door, scripted, size, end):
    events = [b"data: " + json.dumps({"i": i, "t": "\n\n"}).encode() + end for i in range(40)]
    whole = b": hello" + end + b"".join(events) + b"data: [DONE]" + end

    async def script(reader, writer):
        writer.write(HEAD)
        for start in range(0, len(whole), size):
            writer.write(framed(whole[start : start + size]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    door.publish([await scripted(script)])
    url = door.url + "/v1/chat/completions"
    async with door.session.post(url, json={"model": "m", "stream": True}) as response:
        assert await response.read() == whole
    assert door.recorder.faults == []


async def cut_within_an_event(writer):
    writer.write(framed(b'data: {"half'))
    await writer.drain()
    writer.close()


async def cut_by_reset(writer):
    await writer.drain()
    writer.transport.abort()


async def end_without_done(writer):
    writer.write(b"0\r\n\r\n")


async def garbled_chunk_size(writer):
    writer.write(b"zz\r\nnonsense\r\n")


async def not_an_event(writer):
    writer.write(framed(b"\x00\xff\xfenoise without end\n\n"))


async def an_event_without_end(writer):
    while not writer.is_closing():
        writer.write(framed(b"data: " + b"x" * 2**17))
        await writer.drain()


async def silence(writer):
    await writer.drain()


CUTS = [
    (cut_within_an_event, "reset", "stream_interrupted"),
    (cut_by_reset, "reset", "stream_interrupted"),
    (end_without_done, "reset", "stream_interrupted"),
    (garbled_chunk_size, "garbled", "stream_interrupted"),
    (not_an_event, "garbled", "stream_interrupted"),
    (an_event_without_end, "garbled", "stream_interrupted"),
    (silence, "inter_token_timeout", "timeout"),
]


@pytest.mark.parametrize(("cut", "kind", "code"), CUTS)
async def test_a_stream_that_breaks_ends_with_an_error_event(
    open_door, healthy, scripted, event, wait_until, cut, kind, code
):
    door = await open_door(inter_token_timeout_s=0.2 if cut is silence else DEADLINE_S)
    gone = asyncio.Event()

    async def script(reader, writer):
        writer.write(HEAD + framed(event("The ")))
        await wait_until(lambda: received)
        try:
            await cut(writer)
            await reader.read()
        finally:
            gone.set()

    received: list[bytes] = []
    faulty = await scripted(script)
    other = await healthy()
    door.publish([faulty])
    reader, writer, _ = await begin(door)
    received.append(await asyncio.wait_for(reader.readuntil(b"\n\n"), DEADLINE_S))
    door.publish([faulty, other])
    rest = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), DEADLINE_S)
    _, _, last = rest.partition(b"event: error\ndata: ")
    error = json.loads(last.partition(b"\n\n")[0])["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert b"half" not in rest
    assert b"data: [DONE]" not in rest
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    assert door.recorder.faults == [("m-0", 1, kind)]
    assert other.requests == []
    (finished,) = await door.reported()
    assert (finished.outcome, finished.status) == ("failed", 200)
    assert [load.outstanding for load in door.gateway.loads()] == [0, 0]
    writer.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_replica_that_says_nothing_is_given_up(open_door, scripted, healthy, streamed):
    gone = asyncio.Event()

    async def hang(reader, writer):
        await reader.read()
        gone.set()

    door = await open_door(first_token_timeout_s=0.1, response_timeout_s=0.1)
    door.publish([await scripted(hang)])
    status, document, _ = await door.post(stream=streamed)
    assert status == 504
    assert document["error"]["code"] == "timeout"
    option = "first_token_timeout_s" if streamed else "response_timeout_s"
    assert f"gateway.{option}" in document["error"]["message"]
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    kind = option.removesuffix("_s")
    assert door.recorder.faults == [("m-0", 1, kind)]


async def test_headers_alone_are_no_token(open_door, scripted):
    async def headers_only(reader, writer):
        writer.write(HEAD)
        await reader.read()

    door = await open_door(first_token_timeout_s=0.1)
    door.publish([await scripted(headers_only)])
    status, document, _ = await door.post(stream=True)
    assert (status, document["error"]["code"]) == (504, "timeout")


async def test_a_slow_but_steady_stream_meets_its_deadlines(open_door, scripted, event):
    async def steady(reader, writer):
        writer.write(HEAD)
        for _ in range(16):
            await asyncio.sleep(0.1)
            writer.write(framed(event("x")))
        writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    door = await open_door(first_token_timeout_s=1.5, inter_token_timeout_s=1.5)
    door.publish([await scripted(steady)])
    status, events = await door.stream()
    assert (status, events[-1], len(events)) == (200, "[DONE]", 17)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_leaves_stops_the_engine(door, healthy, streamed, how):
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    document = json.dumps({"model": "m", "stream": streamed}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(document), document)
    )
    await asyncio.wait_for(engine.began.wait(), DEADLINE_S)
    writer.close() if how == "close" else writer.transport.abort()
    await asyncio.wait_for(engine.aborted.wait(), DEADLINE_S)
    (finished,) = await door.reported()
    assert finished.outcome == "cancelled"
    assert door.recorder.faults == []
    assert [load.outstanding for load in door.gateway.loads()] == [0]


async def test_a_client_that_leaves_while_its_request_waits(open_door, wait_until):
    door = await open_door(retry_wait_s=30)
    door.publish(["http://127.0.0.1:9"])
    asking = asyncio.create_task(door.post())
    await wait_until(lambda: door.recorder.faults)
    asking.cancel()
    (finished,) = await door.reported()
    assert (finished.outcome, finished.status) == ("cancelled", 499)


async def test_a_client_that_does_not_read_slows_its_engine_down(
    open_door, scripted, event, wait_until
):
    door = await open_door(inter_token_timeout_s=0.6)
    piece = framed(event("x" * 50_000))
    sent = 0
    stop = asyncio.Event()

    async def flood(reader, writer):
        nonlocal sent
        writer.write(HEAD)
        while not stop.is_set():
            writer.write(piece)
            sent += 1
            await writer.drain()
        writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    door.publish([await scripted(flood)])
    reader, writer, _ = await begin(door)
    writer.transport.pause_reading()
    while True:
        before = sent
        await asyncio.sleep(0.8)
        if sent == before:
            break
    assert sent * len(piece) < 64 * 2**20
    assert door.recorder.faults == []
    stop.set()
    writer.transport.resume_reading()
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        data = await asyncio.wait_for(reader.read(2**20), DEADLINE_S)
        assert data
        tail = (tail + data)[-100:]
    assert b"[DONE]" in tail
    assert door.recorder.faults == []
    writer.close()


async def test_a_connection_that_had_to_wait_for_its_client_serves_the_next(door, scripted, event):
    """The end of an answer may come in the very read that makes its client fall behind."""

    async def large(reader, writer):
        writer.write(HEAD + framed(event("x" * 200_000)) * 40)
        writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()

    engine = await scripted(large)
    door.publish([engine])
    for _ in range(5):
        reader, writer, _ = await begin(door)
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = await asyncio.wait_for(reader.read(30_000), DEADLINE_S)
            assert data
            tail = (tail + data)[-100:]
        writer.close()
    assert engine.connections == 1


async def test_a_client_that_never_reads_is_let_go(open_door, scripted, event):
    door = await open_door(client_timeout_s=0.5)
    gone = asyncio.Event()

    async def flood(reader, writer):
        try:
            writer.write(HEAD)
            while True:
                writer.write(framed(event("x" * 50_000)))
                await writer.drain()
        finally:
            gone.set()

    door.publish([await scripted(flood)])
    _, writer, _ = await begin(door)
    writer.transport.pause_reading()
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    (finished,) = await door.reported()
    assert finished.outcome == "cancelled"
    assert door.recorder.faults == []
    writer.close()
