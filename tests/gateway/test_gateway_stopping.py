"""Stopping the gateway: requests under way may end, and whoever is not waited for is told."""

import asyncio
import json

import aiohttp
import pytest


async def test_stopping_lets_requests_end_and_takes_no_new_ones(open_door, healthy, wait_until):
    door = await open_door()
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    plain = asyncio.create_task(door.post())
    streamed = asyncio.create_task(door.stream())
    await wait_until(lambda: engine.running == 2)
    stopping = asyncio.create_task(door.gateway.stop(drain_s=10))
    await asyncio.sleep(0)
    with pytest.raises(aiohttp.ClientConnectionError):
        await door.get("/health")
    engine.gate.set()
    assert (await plain)[0] == 200
    assert (await streamed)[1][-1] == "[DONE]"
    await asyncio.wait_for(stopping, 60)


async def test_stopping_tells_those_it_does_not_wait_for(open_door, healthy, wait_until):
    door = await open_door()
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    plain = asyncio.create_task(door.post())
    streamed = asyncio.create_task(door.stream())
    await wait_until(lambda: engine.running == 2)
    await door.gateway.stop(drain_s=0.05)
    status, document, _ = await plain
    assert (status, document["error"]["code"]) == (503, "gateway_stopped")
    assert json.loads((await streamed)[1][-1])["error"]["code"] == "gateway_stopped"
    await asyncio.wait_for(engine.aborted.wait(), 60)


async def test_a_second_stop_ends_draining(open_door, healthy, wait_until):
    door = await open_door()
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    plain = asyncio.create_task(door.post())
    await wait_until(lambda: engine.running == 1)
    first = asyncio.create_task(door.gateway.stop(drain_s=600))
    await asyncio.sleep(0)
    await door.gateway.stop()
    assert (await plain)[0] == 503
    await asyncio.wait_for(first, 60)
