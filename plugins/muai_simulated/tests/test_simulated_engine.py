"""The engine: what it accepts, and what its real process serves to the official client."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest
from muai_simulated import vocabulary
from muai_simulated.engine import SimulatedEngine

from muai_core.model.deployment import Deployment

MESSAGES: list[Any] = [{"role": "user", "content": "Where is the harbor?"}]


def deployment(**fields: Any) -> Deployment:
    defaults: dict[str, Any] = {
        "name": "m",
        "source": "simulated:x",
        "engine": "simulated",
        "platforms": ("simulated",),
    }
    return Deployment(**(defaults | fields))


def test_auto_never_simulates_a_real_model() -> None:
    engine = SimulatedEngine()
    assert engine.suits(deployment(source="simulated:llama")).suitable
    # While `auto` looks for an engine, a deployment carries the name of the engine that is asked.
    refused = engine.suits(deployment(source="model.gguf", engine="simulated"))
    assert not refused.suitable
    assert "simulated:" in refused.reason


def test_any_parallel_size_unless_heads_are_given() -> None:
    engine = SimulatedEngine()
    assert engine.check(deployment(tensor_parallel_size=3)) == ()
    with_heads = {"attention_heads": 32}
    assert engine.check(deployment(tensor_parallel_size=4, engine_options=with_heads)) == ()
    (complaint,) = engine.check(deployment(tensor_parallel_size=3, engine_options=with_heads))
    assert complaint.field == "tensor_parallel_size"
    assert complaint.message == (
        "3 is not possible: the model has 32 attention heads; "
        "sizes that divide them: 1, 2, 4, 8, 16, 32"
    )


def test_memory_is_what_the_option_says() -> None:
    engine = SimulatedEngine()
    assert engine.memory(deployment(), None) is None
    with_memory = deployment(engine_options={"memory_gib": 1.5})
    assert engine.memory(with_memory, None) == 3 * 2**29


def test_without_the_option_it_holds_what_is_claimed_else_most_of_the_device(
    start: Callable[..., Any], reading_of: Callable[[int], Any]
) -> None:
    start((0,))
    assert reading_of(0).memory_used_bytes == int(81559 * 2**20 * 0.9)


def test_an_engine_that_takes_more_than_there_is_fails_to_start(
    start: Callable[..., Any], reading_of: Callable[[int], Any]
) -> None:
    first = start((0, 1), memory_gib=45)
    second = start((1, 2), memory_gib=40, ready=False)
    assert second.process.wait(30) == 1
    assert "out of memory: 40.00 GiB do not fit on GPU-" in second.log.read_text()
    assert "34.65 GiB of 79.65 GiB are free" in second.log.read_text()
    assert reading_of(2).memory_used_bytes == 0
    assert first.ask()


def test_health_reports_the_stages_of_loading(
    start: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    replica = start(ready=False, load_s=1.0)
    health = eventually(replica.health, "the server answers")
    assert health.status_code == 503
    assert health.json()["stage"] == "load"
    assert health.json()["detail"].startswith("loading weights ")
    with pytest.raises(openai.APIStatusError) as error:
        replica.ask()
    assert error.value.status_code == 503
    eventually(replica.is_ready, "the model is loaded")
    assert replica.health().json()["stage"] == "ready"


def test_two_processes_give_the_same_text_and_other_requests_other_text(
    start: Callable[..., Any],
) -> None:
    first, second = start((0,)), start((1,), replica_id="m.1")
    text = first.ask("hello", 40)
    assert len(text.split()) == 40
    assert second.ask("hello", 40) == text
    assert second.ask("hello", 10) == " ".join(text.split(" ")[:11])
    assert first.ask("hullo", 40) != text
    assert first.ask("hello", 40, seed=1) != text
    assert first.ask("hello", 40, seed=1) == second.ask("hello", 40, seed=1)


async def test_chat_streams_one_word_at_a_time_with_usage(start: Callable[..., Any]) -> None:
    client = start().async_client
    whole = await client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=12)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    stream = await client.chat.completions.create(
        model="m",
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert len(pieces) == 12
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_an_answer_that_broke_off_goes_on_where_it_was(start: Callable[..., Any]) -> None:
    first, second = start((0,)), start((1,), replica_id="m.1")
    whole = first.client.chat.completions.create(model="m", messages=MESSAGES)
    text = whole.choices[0].message.content or ""
    assert whole.choices[0].finish_reason == "stop"
    broken_off = " ".join(text.split(" ")[:20])
    rest = second.client.chat.completions.create(
        model="m",
        messages=[*MESSAGES, {"role": "assistant", "content": broken_off}],
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert broken_off + (rest.choices[0].message.content or "") == text
    assert rest.choices[0].finish_reason == "stop"


def test_token_ids_go_on_as_text_does(start: Callable[..., Any]) -> None:
    replica = start()
    whole = replica.client.completions.create(
        model="m", prompt="für alle: ", max_tokens=20, extra_body={"return_token_ids": True}
    )
    choice: Any = whole.choices[0]
    assert len(choice.token_ids) == 20
    assert vocabulary.decode(choice.prompt_token_ids).decode() == "für alle: "
    rest = replica.client.completions.create(
        model="m", prompt=choice.prompt_token_ids + choice.token_ids[:7], max_tokens=13
    )
    head = vocabulary.decode(choice.token_ids[:7]).decode()
    assert head + rest.choices[0].text == choice.text
    with pytest.raises(openai.BadRequestError, match="token id 768 does not exist"):
        replica.client.completions.create(model="m", prompt=[768], max_tokens=1)


def test_stop_strings_logprobs_and_the_context_limit(start: Callable[..., Any]) -> None:
    replica = start(max_model_len=64)
    text = replica.ask("go", 20)
    third = text.split(" ")[2]
    stopped = replica.client.completions.create(
        model="m", prompt="go", max_tokens=20, stop=[third], logprobs=1
    )
    assert stopped.choices[0].text == text[: text.index(third)]
    assert stopped.choices[0].finish_reason == "stop"
    logprobs = stopped.choices[0].logprobs
    assert logprobs is not None
    assert set(logprobs.token_logprobs or []) == {0.0}
    with pytest.raises(openai.BadRequestError, match="do not fit into the context of 64 tokens"):
        replica.ask("go", 64)
    full = replica.client.completions.create(
        model="m", prompt="go", max_tokens=63, extra_body={"ignore_eos": True}
    )
    assert full.usage is not None
    assert full.usage.total_tokens == 64


async def test_the_speed_is_per_request_and_seats_are_limited(
    start: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    replica = start(first_token_s=0.2, tokens_per_second=50, max_num_seqs=2)
    client = replica.async_client
    began_s = time.monotonic()
    two = [client.completions.create(model="m", prompt=str(n), max_tokens=11) for n in range(2)]
    await asyncio.gather(*two)
    # A lower bound only: the first token and ten intervals cannot be faster.
    assert time.monotonic() - began_s >= 0.2 + 10 / 50
    more = [
        asyncio.create_task(client.completions.create(model="m", prompt=str(n), max_tokens=1000))
        for n in range(3)
    ]
    full = {"requests_running": 2, "requests_waiting": 1}
    await asyncio.to_thread(
        eventually, lambda: full.items() <= replica.progress().items(), "two seats taken"
    )
    before = replica.progress()["tokens_generated"]
    await asyncio.to_thread(
        eventually, lambda: replica.progress()["tokens_generated"] > before, "tokens move"
    )
    for task in more:
        task.cancel()
    await asyncio.gather(*more, return_exceptions=True)
    nothing = {"requests_running": 0, "requests_waiting": 0}
    await asyncio.to_thread(
        eventually, lambda: nothing.items() <= replica.progress().items(), "clients left"
    )


def test_sigterm_ends_it_in_order(start: Callable[..., Any]) -> None:
    replica = start()
    replica.ask()
    replica.process.send_signal(signal.SIGTERM)
    assert replica.process.wait(30) == 0


def test_words_and_bytes_survive_the_way_there_and_back() -> None:
    for text in ("", "the harbor", " the  Harbor\n", "für 你好 🙂 a", "abcabove aabove"):
        assert vocabulary.decode(vocabulary.encode(text)).decode() == text
    assert len(vocabulary.encode("the harbor")) == len(b"the") + 1  # "the" is no word here


def test_the_process_imports_no_model_stack_and_the_hooks_import_no_server() -> None:
    heavy = "{'torch', 'transformers', 'numpy'} & set(sys.modules)"
    script = (
        "import sys; from muai_simulated import hooks; hooks.muai_engines(); "
        "hooks.muai_device_sources(); print({'aiohttp', 'pydantic', 'yaml'} & set(sys.modules)); "
        f"import muai_simulated.generator, muai_core.engine_server.serving; print({heavy})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split("\n")[:2] == ["set()", "set()"]
