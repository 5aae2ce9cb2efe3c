"""Bytes that are not HTTP, or HTTP gone wrong: an answer, then a close; never a crash."""

import asyncio
import random

import pytest

GOOD_BODY = b'{"model": "m", "messages": []}'
GOOD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(GOOD_BODY), GOOD_BODY)
)

BROKEN = {
    "not_http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "words": b"hello there\r\n\r\n",
    "no_version": b"GET /health\r\n\r\n",
    "http_2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http_9": b"GET /health HTTP/9.9\r\n\r\n",
    "unknown_method": b"FROBNICATE / HTTP/1.1\r\n\r\n",
    "space_in_name": b"GET /health HTTP/1.1\r\nBad Name: x\r\n\r\n",
    "null_in_value": b"GET /health HTTP/1.1\r\nA: b\x00c\r\n\r\n",
    "folded_header": b"GET /health HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "negative_length": b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "word_length": b"POST /v1/completions HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
    "huge_length": b"POST /v1/completions HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "two_lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length_and_chunked": (
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad_chunk": b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "endless_headers": b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
    "endless_url": b"GET /" + b"a" * 200_000,
    "connect": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
}


async def exchange(port, data):
    """What comes back until the gateway closes; the sender's end stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_requests_are_answered_with_4xx_and_closed(door, healthy, name):
    door.publish([await healthy()])
    answer = await exchange(door.gateway.port, BROKEN[name])
    assert answer.startswith(b"HTTP/1.1 4")
    assert b'{"error":{"message":' in answer
    assert b"connection: close" in answer
    assert (await door.post())[0] == 200


async def test_an_upgrade_is_not_taken_up_but_answered(door, healthy):
    engine = await healthy()
    door.publish([engine])
    upgrade = GOOD.replace(
        b"Host: x\r\n", b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
    for _ in range(2):
        writer.write(upgrade)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        await asyncio.wait_for(reader.readexactly(length), 60)
    assert engine.bodies == [GOOD_BODY] * 2
    writer.close()


async def test_half_a_request_is_told_off_in_time(open_door):
    door = await open_door(client_timeout_s=0.3)
    assert (await exchange(door.gateway.port, GOOD[:-5])).startswith(b"HTTP/1.1 408 ")
    assert (await exchange(door.gateway.port, b"GET /hea")).startswith(b"HTTP/1.1 408 ")


async def test_any_corruption_leaves_the_gateway_serving(door, healthy):
    engine = await healthy()
    engine.status, engine.answer = 200, {"ok": True}
    door.publish([engine])
    chance = random.Random(20261123)

    async def one():
        data = bytearray(GOOD * chance.randint(1, 3))
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(data))
            cut = chance.choice((0, 1, 1, 5))
            data[at : at + cut] = chance.randbytes(chance.choice((0, 1, 1, 4)))
        reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway.port)
        try:
            for start in range(0, len(data), 97):
                writer.write(data[start : start + 97])
                await asyncio.sleep(0)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 60)
        except (ConnectionError, OSError):
            pass
        finally:
            writer.close()

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(40)))
    assert (await door.post())[0] == 200
    assert [load.outstanding for load in door.gateway.loads()] == [0]
    assert {kind for *_, kind in door.recorder.faults} == set()
