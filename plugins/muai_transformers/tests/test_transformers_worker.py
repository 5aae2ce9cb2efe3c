"""A real worker process, over real HTTP, with the official client."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

DEADLINE_S = 90


class Worker:
    """One `python -m muai_transformers.worker` process and its address."""

    def __init__(self, log: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command = [sys.executable, "-P", "-m", "muai_transformers.worker", "--port", str(port)]
        with log.open("wb") as out:
            self.process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out)

    def wait_ready(self) -> list[int]:
        """Returns the statuses that /health gave until the worker was ready."""
        import urllib.error
        import urllib.request

        statuses: list[int] = []
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/health") as answer:
                    return [*statuses, answer.status]
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready in {DEADLINE_S} s:\n{self.log.read_text()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def worker(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    log = tmp_path_factory.mktemp("worker") / "log"
    running = Worker(log, "--model", str(tiny_folder), "--served-model-name", "tiny")
    try:
        running.statuses = running.wait_ready()
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def client(worker: Worker) -> OpenAI:
    return OpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0)


MESSAGES = [{"role": "user", "content": "hello"}]


async def progress_until(http: aiohttp.ClientSession, running: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with http.get("/progress") as answer:
                if (await answer.json())["requests_running"] == running:
                    return
            await asyncio.sleep(0.01)


def test_health_says_503_until_the_model_is_loaded(worker: Worker) -> None:
    assert set(worker.statuses[:-1]) == {503}
    assert worker.statuses[-1] == 200


def test_streamed_equals_plain(client: OpenAI) -> None:
    common = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 40}
    common["extra_body"] = {"ignore_eos": True}
    plain = client.chat.completions.create(**common)
    stream = client.chat.completions.create(**common, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == plain.choices[0].message.content
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 40
    assert plain.choices[0].finish_reason == "length"


def test_seed_is_reproducible_and_differs(client: OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.completions.create(
            model="tiny", prompt="abc", max_tokens=30, temperature=1, top_p=0.9, seed=seed
        )
        return answer.choices[0].text

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_stop_string_ends_the_answer(client: OpenAI) -> None:
    common = {"model": "tiny", "prompt": "abc", "temperature": 0, "max_tokens": 60}
    text = client.completions.create(**common).choices[0].text
    stop = next(char for char in text[5:] if char.isprintable())
    stopped = client.completions.create(**common, stop=stop).choices[0]
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"


def test_logprobs_are_a_distribution(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        temperature=0,
        max_tokens=5,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    for token in logprobs.content:
        best = [other.logprob for other in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert token.logprob == best[0] <= 0


def test_too_long_says_the_numbers(client: OpenAI) -> None:
    for prompt, max_tokens in (("x" * 600, None), ("x" * 500, 100)):
        with pytest.raises(BadRequestError) as caught:
            client.completions.create(model="tiny", prompt=prompt, max_tokens=max_tokens)
        assert caught.value.code == "context_length_exceeded"
        assert str(len(prompt)) in caught.value.message
        assert "512" in caught.value.message


def test_empty_and_impossible_prompts(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="no tokens"):
        client.completions.create(model="tiny", prompt="")
    with pytest.raises(BadRequestError, match="from 0 to 256"):
        client.completions.create(model="tiny", prompt=[3, 257])


async def test_many_at_once_each_get_their_own_answer(worker: Worker) -> None:
    client = AsyncOpenAI(base_url=f"{worker.url}/v1", api_key="none", max_retries=0)

    async def ask(number: int) -> str:
        answer = await client.completions.create(
            model="tiny", prompt=f"{number} " * (1 + number), max_tokens=24, temperature=0
        )
        return answer.choices[0].text

    together = await asyncio.gather(*(ask(number) for number in range(24)))
    alone = [await ask(number) for number in range(0, 24, 6)]
    assert alone == list(together[::6])


@pytest.mark.parametrize("stream", [True, False])
async def test_disconnect_aborts_the_work(tmp_path: Path, tiny_folder: Path, stream: bool) -> None:
    """The request would generate for minutes: only an abort can end it in time."""
    running = Worker(tmp_path / "log", "--model", str(tiny_folder), "--served-model-name", "tiny")
    try:
        running.wait_ready()
        async with aiohttp.ClientSession(running.url) as http:
            async with aiohttp.ClientSession(running.url) as leaving:
                body = {"model": "tiny", "prompt": "go", "max_tokens": 500, "ignore_eos": True}
                posts = [
                    asyncio.create_task(
                        leaving.post("/v1/completions", json={**body, "stream": stream})
                    )
                    for _ in range(8)
                ]
                await progress_until(http, 8)
                for post in posts:
                    post.cancel()
                await asyncio.wait(posts)
            async with asyncio.timeout(DEADLINE_S):
                await progress_until(http, 0)
            async with http.get("/progress") as answer:
                assert (await answer.json())["tokens_generated"] < 8 * 500
    finally:
        assert running.stop() == 0


def test_wrong_model_ends_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "x"}')
    running = Worker(tmp_path / "log", "--model", str(tmp_path))
    assert running.process.wait(DEADLINE_S) == 1
    assert "Traceback" in (tmp_path / "log").read_text()
    missing = Worker(tmp_path / "log", "--model", "/no/such/model")
    assert missing.process.wait(DEADLINE_S) == 2
    assert "no such file or folder" in (tmp_path / "log").read_text()
