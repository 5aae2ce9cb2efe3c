"""Replicas that fail before the client was sent a byte: another answers, or the client is told."""

import asyncio
import json
import socket

import pytest

from muai_core.gateway import proxy

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def refusing():
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def reset_at_once(reader, writer):
    writer.transport.abort()


async def reset_in_the_head(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await writer.drain()
    writer.close()


async def reset_in_the_body(reader, writer):
    writer.write(OK + b"Content-Length: 1000\r\n\r\n" + b'{"id": "half')
    await writer.drain()
    writer.close()


async def reset_between_chunks(reader, writer):
    writer.write(OK + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\n')
    await writer.drain()
    writer.transport.abort()


async def garbage(reader, writer):
    writer.write(bytes(range(256)) * 20)
    await writer.drain()


async def endless_head(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Pad: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def not_json(reader, writer):
    writer.write(OK + b"Content-Length: 9\r\n\r\n<html/>\r\n")


async def cut_json_with_a_clean_end(reader, writer):
    writer.write(OK + b'Connection: close\r\n\r\n{"id": "ha')
    await writer.drain()
    writer.close()


async def bad_gateway(reader, writer):
    writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\ndead")


async def shutting_down(reader, writer):
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def before_the_first_event(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {")
    await writer.drain()
    writer.close()


FAULTS = [
    (reset_at_once, "reset"),
    (reset_in_the_head, "reset"),
    (reset_in_the_body, "reset"),
    (reset_between_chunks, "reset"),
    (garbage, "garbled"),
    (endless_head, "garbled"),
    (bad_gateway, "status_5xx"),
    (shutting_down, "status_5xx"),
]
PLAIN_FAULTS = [*FAULTS, (not_json, "garbled"), (cut_json_with_a_clean_end, "garbled")]
STREAM_FAULTS = [*FAULTS, (before_the_first_event, "reset")]


def check_blame(door, faulty, kind):
    """Every failed try was the faulty replica's, and nothing is left outstanding."""
    assert faulty.received >= 1
    assert door.recorder.faults == [("m-0", 1, kind)] * faulty.received
    loads = {load.replica_id: load for load in door.gateway.loads()}
    assert loads["m-0"].faults == {kind: faulty.received}
    assert [load.outstanding for load in loads.values()] == [0, 0]


@pytest.mark.parametrize(("script", "kind"), PLAIN_FAULTS)
async def test_another_replica_answers(door, healthy, scripted, script, kind):
    faulty, engine = await scripted(script), await healthy()
    door.publish([faulty, engine])
    for _ in range(6):
        status, document, headers = await door.post()
        assert (status, document, headers["x-muai-replica"]) == (200, engine.answer, "m-1")
    check_blame(door, faulty, kind)
    assert sum(finished.retries for finished in await door.reported(6)) == faulty.received


@pytest.mark.parametrize(("script", "kind"), STREAM_FAULTS)
async def test_another_replica_streams(door, healthy, scripted, script, kind):
    faulty, engine = await scripted(script), await healthy()
    door.publish([faulty, engine])
    for _ in range(6):
        status, events = await door.stream()
        assert (status, events[-1]) == (200, "[DONE]")
    check_blame(door, faulty, kind)
    assert sum(finished.retries for finished in await door.reported(6)) == faulty.received


async def test_a_dead_replica_is_asked_last_while_others_live(door, healthy, refusing, monkeypatch):
    monkeypatch.setattr(proxy, "SUSPICION_S", 1000)
    door.publish([refusing, await healthy()])
    for _ in range(20):
        assert (await door.post())[0] == 200
    assert door.recorder.faults == [("m-0", 1, "connect")]


async def test_a_replica_that_hangs_up_on_everyone(door, healthy):
    async def hang_up(reader, writer):
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    door.publish([f"http://127.0.0.1:{port}", await healthy()])
    answers = await asyncio.gather(*(door.post() for _ in range(50)))
    assert {status for status, *_ in answers} == {200}
    assert {kind for *_, kind in door.recorder.faults} == {"reset"}
    server.close()


async def test_client_errors_are_not_retried(door, healthy):
    first, second = await healthy(), await healthy()
    for engine in (first, second):
        engine.status, engine.answer = 400, {"error": {"message": "no"}}
    door.publish([first, second])
    assert (await door.post())[0] == 400
    assert len(first.requests) + len(second.requests) == 1
    assert door.recorder.faults == []


async def test_internal_errors_of_an_engine_are_passed_on(door, healthy):
    first, second = await healthy(), await healthy()
    for engine in (first, second):
        engine.status, engine.answer = 500, {"error": {"message": "bug"}}
    door.publish([first, second])
    assert (await door.post())[0] == 500
    assert len(first.requests) + len(second.requests) == 1


async def test_a_request_waits_for_a_replica_that_becomes_ready(
    open_door, healthy, refusing, wait_until
):
    door = await open_door(retry_wait_s=60)
    engine = await healthy()
    door.publish([refusing])
    asking = asyncio.create_task(door.post())
    streaming = asyncio.create_task(door.stream())
    await wait_until(lambda: len(door.recorder.faults) == 2)
    door.publish([], state="recovering")
    door.publish([engine], epochs=[2])
    assert (await asking)[0] == 200
    assert (await streaming)[1][-1] == "[DONE]"


async def test_a_request_does_not_wait_for_ever(open_door, refusing, wait_until):
    door = await open_door(retry_wait_s=1)
    door.publish([refusing])
    asking = asyncio.create_task(door.post())
    await wait_until(lambda: door.recorder.faults)
    door.publish([], state="recovering", reason="restart 1 of 5", retry_after_s=3.0)
    status, document, headers = await asking
    assert (status, headers["retry-after"]) == (503, "3")
    assert document["error"]["code"] == "model_not_ready"
    assert "restart 1 of 5" in document["error"]["message"]
    (finished,) = await door.reported()
    assert (finished.outcome, finished.replica_id) == ("failed", "m-0")


async def test_when_every_replica_fails_the_client_is_told(open_door, scripted):
    door = await open_door(retry_wait_s=0.1)
    engines = [await scripted(reset_at_once) for _ in range(3)]
    door.publish(engines)
    status, document, _ = await door.post()
    assert (status, document["error"]["code"]) == (502, "replica_failed")
    assert [engine.received for engine in engines] == [1, 1, 1]


async def test_no_more_tries_than_allowed(open_door, scripted):
    door = await open_door(retries=1)
    engines = [await scripted(reset_at_once) for _ in range(4)]
    door.publish(engines)
    assert (await door.post())[0] == 502
    assert sum(engine.received for engine in engines) == 2


async def test_refused_connections_do_not_count_as_tries(open_door, healthy, refusing):
    door = await open_door(retries=0)
    door.publish([*[refusing] * 7, await healthy()])
    for _ in range(8):
        assert (await door.post())[0] == 200


async def test_the_last_answer_of_an_overloaded_engine_is_passed_on(open_door, healthy):
    door = await open_door(retry_wait_s=0.1)
    engine = await healthy()
    engine.status = 503
    engine.answer = {"error": {"message": "queue full", "type": "x", "param": None, "code": "q"}}
    door.publish([engine])
    status, document, headers = await door.post()
    assert (status, document) == (503, engine.answer)
    assert headers["x-muai-replica"] == "m-0"


async def test_an_idle_connection_that_the_replica_closes_is_no_fault(door, scripted):
    closing = asyncio.Event()

    async def one_answer_per_connection(reader, writer):
        if closing.is_set():
            # Received on a kept connection that this end gives up without an answer.
            closing.clear()
            writer.transport.abort()
            return
        body = json.dumps({"n": engine.received}).encode()
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    engine = await scripted(one_answer_per_connection)
    door.publish([engine])
    assert (await door.post())[1] == {"n": 1}
    closing.set()
    assert (await door.post())[1] == {"n": 3}
    assert door.recorder.faults == []


async def test_an_answer_that_is_too_large_is_not_held(open_door, scripted):
    async def huge(reader, writer):
        writer.write(OK + b"Content-Length: 1000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" " * 2**20)
            await writer.drain()

    door = await open_door()
    engine = await scripted(huge)
    door.publish([engine])
    status, document, _ = await door.post()
    assert (status, document["error"]["code"]) == (502, "replica_failed")
    assert engine.received == 1


async def test_a_replica_that_does_not_take_connections_in_time(open_door, healthy):
    door = await open_door(connect_timeout_s=0.1)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        door.publish([f"http://127.0.0.1:{port}", await healthy()])
        statuses = [(await door.post())[0] for _ in range(4)]
        for filler in fillers:
            filler.close()
    assert statuses == [200] * 4
    assert {kind for _, _, kind in door.recorder.faults} == {"connect_timeout"}
