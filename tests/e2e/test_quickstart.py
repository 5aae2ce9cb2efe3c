"""The quickstart as a new user meets it: a real model, the official client, metrics, Ctrl-C."""

import asyncio
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from openai.types.chat import ChatCompletionMessageParam

ROOT = Path(__file__).parents[2]
QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]
ANSWER = "The capital of France is Paris."


# Loading the model twice on a busy machine takes its time.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def start_quickstart(start_for_module: Any, unused_port: Any) -> Callable[[], Any]:
    """Gives the module's controller; starts it when none runs."""
    running: list[Any] = []

    def start() -> Any:
        if not running or running[-1].process.poll() is not None:
            running.append(started(start_for_module, unused_port()))
        return running[-1]

    return start


@pytest.fixture
def quickstart(start_quickstart: Callable[[], Any]) -> Any:
    return start_quickstart()


def started(start: Any, metrics_port: int) -> Any:
    config = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    config["sinks"]["prometheus"] = {"port": metrics_port}
    config["models"]["smollm2"]["replicas"] = 2
    config["recovery"] = {"backoff_initial_s": 0.2}
    running = start(config)
    running.wait_ready("smollm2", deadline_s=300)
    running.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
    return running


def sync_client(running: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def test_the_answer_is_paris(quickstart: Any) -> None:
    client = sync_client(quickstart)
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert [model.id for model in client.models.list()] == ["smollm2"]


def test_the_streamed_answer_is_paris(quickstart: Any) -> None:
    stream = sync_client(quickstart).chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == ANSWER


async def test_the_async_client_streams_too(quickstart: Any) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{quickstart.url}/v1", api_key="none", max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="smollm2", messages=QUESTION, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(pieces) == ANSWER


def test_promtool_has_no_complaint(quickstart: Any) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool from Debian's package prometheus; .ci/run installs it")
    with urllib.request.urlopen(quickstart.metrics_url, timeout=10) as answer:
        text = answer.read()
    assert b'muai_model_replicas_desired{model="smollm2"} 2\n' in text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_kill_9_under_eight_requests_is_not_seen(quickstart: Any, eventually: Any) -> None:
    eventually("both", lambda: quickstart.status()["models"]["smollm2"]["ready"] == 2, 300)
    victim = quickstart.engine_of("smollm2.0")

    story: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story."}]

    async def eight_and_a_kill() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(
            base_url=f"{quickstart.url}/v1", api_key="none", max_retries=0, timeout=300
        ) as client:

            async def ask() -> tuple[str, int]:
                answer = await client.chat.completions.create(
                    model="smollm2", messages=story, temperature=0, max_tokens=64
                )
                assert answer.usage is not None
                return answer.choices[0].finish_reason, answer.usage.completion_tokens

            asking = [asyncio.create_task(ask()) for _ in range(8)]
            while not any(task.done() for task in asking):
                _, health = await asyncio.to_thread(quickstart.get, "/health")
                if health["controller"]["requests_in_flight"] == 8:
                    break
            assert not any(task.done() for task in asking)
            os.killpg(victim.pid, signal.SIGKILL)
            return list(await asyncio.gather(*asking))

    assert asyncio.run(eight_and_a_kill()) == [("length", 64)] * 8
    eventually("noticed", lambda: "killed by SIGKILL" in quickstart.text())
    eventually("back", lambda: quickstart.status()["models"]["smollm2"]["ready"] == 2, 300)


def test_ctrl_c_leaves_no_process(quickstart: Any) -> None:
    assert quickstart.engines()
    quickstart.signal(signal.SIGINT)
    assert quickstart.wait_end() == 0
    assert quickstart.engines() == []
