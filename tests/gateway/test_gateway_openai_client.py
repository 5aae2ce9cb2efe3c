"""The official client, as people use it."""

import asyncio

import openai
import pytest

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def client_options(door):
    return {"base_url": f"{door.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 20}


async def collect(stream, pieces):
    async for part in stream:
        pieces.append(part.choices[0].delta.content)


async def test_async_plain_and_streamed(door, healthy):
    door.publish([await healthy()])
    async with openai.AsyncOpenAI(**client_options(door)) as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)
        assert answer.choices[0].message.content == "The capital of France is Paris."
        assert answer.usage.completion_tokens == 6
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        pieces = [event.choices[0].delta.content async for event in stream]
        assert "".join(pieces) == "The capital of France is Paris."
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert raw.headers["x-muai-replica"] == "m-0"
        assert raw.request_id


async def test_sync_plain_and_streamed(door, healthy):
    door.publish([await healthy()])

    def use():
        with openai.OpenAI(**client_options(door)) as client:
            assert [model.id for model in client.models.list()] == ["m"]
            assert client.models.retrieve("m").id == "m"
            answer = client.chat.completions.create(model="m", messages=MESSAGES)
            stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            pieces = [event.choices[0].delta.content for event in stream]
            client.completions.create(model="m", prompt="The capital")
            return answer.choices[0].message.content, "".join(pieces)

    plain, streamed = await asyncio.to_thread(use)
    assert plain == streamed == "The capital of France is Paris."


async def test_its_exceptions_are_the_right_ones(open_door, healthy, monkeypatch):
    monkeypatch.setenv("KEYS", "sesame")
    door = await open_door(api_keys_env="KEYS")
    door.publish([], state="starting", reason="loading weights")
    options = client_options(door)
    async with openai.AsyncOpenAI(**options) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with openai.AsyncOpenAI(**(options | {"api_key": "sesame"})) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="other", messages=MESSAGES)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.InternalServerError) as pending:
            await client.chat.completions.create(model="m", messages=MESSAGES)
        assert pending.value.status_code == 503
        assert "loading weights" in pending.value.message


async def test_a_cut_stream_raises_and_does_not_end_quietly(door, scripted, event):
    async def cut(reader, writer):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        writer.write(head + event("The ") + b'data: {"half')
        await writer.drain()
        writer.close()

    door.publish([await scripted(cut)])
    pieces = []
    async with openai.AsyncOpenAI(**client_options(door)) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError) as caught:
            await collect(stream, pieces)
    assert pieces == ["The "]
    assert "in the middle of the answer" in caught.value.message


async def test_it_waits_out_a_restart_by_itself(door, healthy, wait_until):
    door.publish([], state="starting", retry_after_s=0.1)
    engine = await healthy()
    options = client_options(door) | {"max_retries": 3}
    async with openai.AsyncOpenAI(**options) as client:
        asking = asyncio.create_task(client.chat.completions.create(model="m", messages=MESSAGES))
        await wait_until(lambda: door.recorder.finished)
        door.publish([engine])
        assert (await asking).choices


async def test_leaving_a_stream_stops_the_engine(door, healthy):
    engine = await healthy()
    engine.gate.clear()
    door.publish([engine])
    async with openai.AsyncOpenAI(**client_options(door)) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await asyncio.wait_for(engine.aborted.wait(), 60)
