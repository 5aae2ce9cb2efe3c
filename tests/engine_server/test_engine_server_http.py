"""The HTTP contract of an engine process, over a scripted generator and real sockets."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from muai_core.engine_server.app import create_app
from muai_core.engine_server.protocol import (
    ContextTooLongError,
    Delta,
    GenerationRequest,
    OverloadedError,
    Progress,
    Status,
    TokenLogprob,
)

WORDS = ("The", " capital", " is", " Paris", ".")


class Scripted:
    """Says WORDS, one token each; prompts choose what goes wrong."""

    def __init__(self) -> None:
        self.ready = True
        self.running = 0
        self.working, self.idle = asyncio.Event(), asyncio.Event()
        self.seen: list[GenerationRequest] = []

    async def run(self) -> None:
        await asyncio.Event().wait()

    def status(self) -> Status:
        return Status("ready", ready=True) if self.ready else Status("load", "loading weights 40 %")

    def progress(self) -> Progress:
        return Progress(self.running, 0, 0)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        self.seen.append(request)
        self.running += 1
        self.working.set()
        try:
            prompt = request.messages[-1].content if request.messages else request.prompt
            if prompt == "too long":
                raise ContextTooLongError("9000 tokens, 8192 fit", param="messages")
            if prompt == "busy":
                raise OverloadedError("the queue is full")
            if prompt == "hang":
                await asyncio.Event().wait()
            for number, word in enumerate(WORDS):
                if prompt == "break" and number == 2:
                    raise RuntimeError("the engine lost a device")
                if prompt == "hang after two" and number == 2:
                    await asyncio.Event().wait()
                logprob = TokenLogprob(word, number, -0.5, (TokenLogprob(word, number, -0.5),))
                yield Delta(
                    text=word,
                    token_ids=(number,),
                    logprobs=(logprob,) if request.logprobs else (),
                    finish_reason="stop" if number == len(WORDS) - 1 else None,
                    prompt_tokens=7,
                    prompt_token_ids=(1, 2, 3, 4, 5, 6, 7),
                )
        finally:
            self.running -= 1
            self.idle.set()


@asynccontextmanager
async def serving(generator: Scripted) -> AsyncIterator[str]:
    runner = web.AppRunner(create_app(generator, "words"), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def generator() -> Scripted:
    return Scripted()


@pytest.fixture
async def url(generator: Scripted) -> AsyncIterator[str]:
    async with serving(generator) as address:
        yield address


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url) as session:
        yield session


def chat(text: str = "hi", **more: object) -> dict[str, object]:
    return {"model": "words", "messages": [{"role": "user", "content": text}], **more}


async def test_health_is_503_while_loading(
    generator: Scripted, http: aiohttp.ClientSession
) -> None:
    generator.ready = False
    async with http.get("/health") as answer:
        assert answer.status == 503
        assert await answer.json() == {"stage": "load", "detail": "loading weights 40 %"}
    async with http.post("/v1/chat/completions", json=chat()) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert (await answer.json())["error"]["code"] == "not_ready"
    generator.ready = True
    async with http.get("/health") as answer:
        assert answer.status == 200
        assert (await answer.json())["stage"] == "ready"


async def test_openai_client_plain_and_streamed(url: str) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    messages = [{"role": "user", "content": "hi"}]
    assert [m.id async for m in client.models.list()] == ["words"]
    plain = await client.chat.completions.create(model="words", messages=messages)
    assert plain.choices[0].message.content == "The capital is Paris."
    assert plain.choices[0].finish_reason == "stop"
    assert plain.usage is not None
    assert plain.usage.total_tokens == 12
    stream = await client.chat.completions.create(
        model="words", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(texts) == "The capital is Paris."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    completion = await client.completions.create(model="words", prompt="hi", logprobs=1)
    assert completion.choices[0].text == "The capital is Paris."
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.text_offset == [0, 3, 11, 14, 20]


async def test_chat_logprobs_and_token_ids(http: aiohttp.ClientSession) -> None:
    body = chat(logprobs=True, top_logprobs=1, return_token_ids=True)
    async with http.post("/v1/chat/completions", json=body) as answer:
        choice = (await answer.json())["choices"][0]
    first = choice["logprobs"]["content"][0]
    assert first["token"] == "The"
    assert first["bytes"] == [84, 104, 101]
    assert first["top_logprobs"][0]["logprob"] == -0.5
    assert choice["token_ids"] == [0, 1, 2, 3, 4]


async def test_sampling_fields_reach_the_generator(
    generator: Scripted, http: aiohttp.ClientSession
) -> None:
    body = chat(temperature=0, top_p=0.5, seed=3, stop="x", max_completion_tokens=9, user="me")
    async with http.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
    seen = generator.seen[0]
    assert (seen.temperature, seen.top_p, seen.seed) == (0, 0.5, 3)
    assert (seen.stop, seen.max_tokens) == (("x",), 9)


async def test_token_ids_are_a_prompt(generator: Scripted, http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json={"model": "words", "prompt": [5, 6]}) as answer:
        assert answer.status == 200
    assert generator.seen[0].prompt_token_ids == (5, 6)
    assert generator.seen[0].max_tokens == 16


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"n": 2}, "n", "leave it out or send 1"),
        ({"tools": [{"type": "function"}]}, "tools", "does not support tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "text"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"temperature": "hot"}, "temperature", "Expected `float"),
        ({"top_p": 0}, "top_p", "over 0"),
        ({"stop": ["a", ""]}, "stop", "none of them empty"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"content": "x"}]}, "messages", "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs to be true"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "does not support"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream to be true"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    http: aiohttp.ClientSession, fields: dict[str, object], param: str, words: str
) -> None:
    async with http.post("/v1/chat/completions", json={**chat(), **fields}) as answer:
        error = (await answer.json())["error"]
        assert answer.status == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"model": 1}', b'\xff{"model":"words"}'])
async def test_bodies_that_are_no_request(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/v1/chat/completions", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"]


async def test_errors_have_openai_shape(url: str, http: aiohttp.ClientSession) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with pytest.raises(NotFoundError, match="this server has 'words'"):
        await client.chat.completions.create(model="other", messages=[])
    messages = [{"role": "user", "content": "too long"}]
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model="words", messages=messages, stream=True)
    assert caught.value.code == "context_length_exceeded"
    async with http.get("/v1/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "not_found"
    async with http.get("/v1/completions") as answer:
        assert answer.status == 405
        assert (await answer.json())["error"]["message"]
    async with http.post("/v1/completions", data=b"x" * (17 * 2**20)) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == "request_too_large"
    async with http.post("/v1/chat/completions", json=chat("busy", stream=True)) as answer:
        assert answer.status == 503
        assert (await answer.json())["error"]["code"] == "overloaded"


async def test_failure_before_and_inside_an_answer(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/chat/completions", json=chat("break")) as answer:
        assert answer.status == 500
        assert "lost a device" in (await answer.json())["error"]["message"]
    async with http.post("/v1/chat/completions", json=chat("break", stream=True)) as answer:
        events = (await answer.text()).strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert "[DONE]" not in events[-1]


async def test_request_id_is_echoed_or_made(http: aiohttp.ClientSession) -> None:
    for stream in (False, True):
        body, headers = chat(stream=stream), {"x-request-id": "abc-1"}
        async with http.post("/v1/chat/completions", json=body, headers=headers) as answer:
            assert answer.headers["x-request-id"] == "abc-1"
            assert "chatcmpl-abc-1" in await answer.text()
    async with http.get("/health", headers={"x-request-id": "no spaces"}) as answer:
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hang", "hang after two"])
async def test_client_that_goes_away_aborts_the_work(
    generator: Scripted, url: str, stream: bool, prompt: str
) -> None:
    async with aiohttp.ClientSession(url) as leaving:
        post = asyncio.create_task(
            leaving.post("/v1/chat/completions", json=chat(prompt, stream=stream))
        )
        async with asyncio.timeout(60):
            await generator.working.wait()
        post.cancel()
        await asyncio.wait({post})
        async with asyncio.timeout(60):
            await generator.idle.wait()
    assert generator.running == 0
    assert len(generator.seen) == 1
