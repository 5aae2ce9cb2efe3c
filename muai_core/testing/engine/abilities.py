"""Clauses on what an engine says that it can do: each declared capability is tried."""

import asyncio
import json
from typing import Any

from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.client import COMPLETIONS, Answer, Client, Reply
from muai_core.testing.engine.subject import EngineSubject

#: Characters of two, three and four bytes in UTF-8, which tokenizers split.
_FOREIGN = ("Größe und Öl, ", "日本語のテキスト ", "🙂🚀🙂🚀 ", "Привет, мир ")
_PROMPTS = ("The weather today", "A list of rivers", "My favourite colour", "In the year", "Then")
_STOP_CHARACTERS = 3
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ABORT_TRIES = 3
_POLL_S = 0.02
#: Room for the answer where the deployment does not say how much there is.
_CONTEXT_TOKENS = 512
#: Every engine generates a token in this time.
_LOOK_AGAIN_S = 0.5
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


@clause(
    "E30", kind="engine", title="a stream says what the whole answer says", needs=("streaming",)
)
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        whole = await client.complete("A river runs", max_tokens=24)
        stream = await client.stream("A river runs", max_tokens=24)
        _same(whole, stream)
        if not stream.done:
            raise ClauseFailure("a stream ends without [DONE]")
        if len(whole.text) > 1 and len(stream.pieces) < 2:
            raise ClauseFailure("a streamed answer comes in one piece, at the end")

    subject.ask_first(ask)


def _same(whole: Answer, stream: Answer) -> None:
    if whole.text != stream.text:
        raise ClauseFailure(f"the whole answer is {whole.text!r}, streamed {stream.text!r}")
    if whole.finish_reason != stream.finish_reason:
        raise ClauseFailure(
            f"the whole answer finishes by {whole.finish_reason}, streamed by "
            f"{stream.finish_reason}"
        )


@clause("E31", kind="engine", title="a stream's usage is that of the answer", needs=("streaming",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        prompt, options = "Count the words of this stream", {"include_usage": True}
        whole = await client.complete(prompt, max_tokens=9)
        stream = await client.stream(prompt, max_tokens=9, stream_options=options)
        counts = [
            {name: (answer.usage or {}).get(name) for name in whole.usage or {} if "tokens" in name}
            for answer in (whole, stream)
        ]
        counts = [{k: v for k, v in one.items() if isinstance(v, int)} for one in counts]
        if counts[0] != counts[1]:
            raise ClauseFailure(f"the usage is {counts[0]}, streamed {counts[1]}")

    subject.ask_first(ask)


@clause(
    "E32", kind="engine", title="characters of several tokens stream whole", needs=("streaming",)
)
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        for prompt in _FOREIGN:
            whole = await client.complete(prompt * 3, max_tokens=32)
            _same(whole, await client.stream(prompt * 3, max_tokens=32))

    subject.ask_first(ask)


@clause(
    "E33", kind="engine", title="an answer ends before its stop string", needs=("stop_strings",)
)
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        for prompt in _PROMPTS:
            whole = (await client.complete(prompt, max_tokens=32)).text
            stop = _middle(whole)
            if stop is None:
                continue
            wanted = whole[: whole.index(stop)]
            stopped = await client.complete(prompt, max_tokens=32, stop=[stop])
            if stopped.text != wanted:
                raise ClauseFailure(
                    f"stopped at {stop!r}, {whole!r} becomes {stopped.text!r}, not {wanted!r}"
                )
            if stopped.finish_reason != "stop":
                raise ClauseFailure(f"it stopped at a string by {stopped.finish_reason!r}")
            if "streaming" in subject.capabilities:
                _same(stopped, await client.stream(prompt, max_tokens=32, stop=[stop]))
            return
        raise ClauseSkipped("the model says nothing readable at which it could be stopped")

    subject.ask_first(ask)


def _middle(text: str) -> str | None:
    """A few readable characters from the second half of a text."""
    for start in range(len(text) // 2, len(text) - _STOP_CHARACTERS):
        found = text[start : start + _STOP_CHARACTERS]
        if found.strip() and found.isprintable() and _REPLACEMENT not in found:
            return found
    return None


@clause("E34", kind="engine", title="a seed repeats a random answer", needs=("seed",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        async def text(seed: int) -> str:
            fields: dict[str, Any] = {"max_tokens": 24, "temperature": 1, "seed": seed}
            return (await client.complete("Something random", **fields)).text

        first, again = await text(7), await text(7)
        if first != again:
            raise ClauseFailure(f"seed 7 is answered with {first!r} and with {again!r}")
        others = {await text(seed) for seed in (8, 9, 10)}
        if others == {first}:
            raise ClauseFailure(f"every seed is answered with {first!r}")

    subject.ask_first(ask)


@clause("E35", kind="engine", title="log probabilities fit the answer", needs=("logprobs",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        messages = [{"role": "user", "content": "How likely is it?"}]
        answer = await client.chat(messages, max_tokens=8, logprobs=True, top_logprobs=2)
        tokens = (answer.choice.get("logprobs") or {}).get("content") or []
        if not tokens:
            raise ClauseFailure("an answer with logprobs has none")
        count = (answer.usage or {}).get("completion_tokens", len(tokens))
        # The token that ends an answer may be left out.
        if not count - 1 <= len(tokens) <= count:
            raise ClauseFailure(f"{len(tokens)} tokens have log probabilities, {count} came")
        for token in tokens:
            values = [token["logprob"], *(one["logprob"] for one in token["top_logprobs"])]
            if max(values) > 0:
                raise ClauseFailure(f"the log probability of {token['token']!r} is {max(values)}")
            if token["logprob"] < max(values) - 1e-4:
                raise ClauseFailure(
                    f"the greedy token {token['token']!r} has {token['logprob']}, a better one "
                    f"{max(values)}"
                )

    subject.ask_first(ask)


@clause("E36", kind="engine", title="token ids are those of the answer", needs=("token_ids",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        answer = await client.complete("Numbers please", max_tokens=8, return_token_ids=True)
        usage = answer.usage or {}
        for field, name in (("token_ids", "completion"), ("prompt_token_ids", "prompt")):
            ids, count = answer.choice.get(field), usage.get(f"{name}_tokens")
            if not isinstance(ids, list) or len(ids) != count:
                raise ClauseFailure(f"{field} is {ids!r}, the usage says {count} {name} tokens")
        again = await client.complete(answer.choice["prompt_token_ids"], max_tokens=8)
        if again.text != answer.text:
            raise ClauseFailure(f"the prompt's ids give {again.text!r}, its text {answer.text!r}")

    subject.ask_first(ask)


@clause(
    "E37",
    kind="engine",
    title="it continues a message that is not finished",
    needs=("continue_final_message",),
)
def _(subject: EngineSubject) -> None:
    messages = [
        {"role": "user", "content": "Tell me about harbors"},
        {"role": "assistant", "content": "A harbor is"},
    ]

    async def ask(client: Client) -> None:
        answer = await client.chat(messages, max_tokens=4)
        continued = await client.chat(
            messages, max_tokens=4, continue_final_message=True, add_generation_prompt=False
        )
        ended, open_end = ((one.usage or {}).get("prompt_tokens", 0) for one in (answer, continued))
        if open_end >= ended:
            raise ClauseFailure(
                f"the prompt has {open_end} tokens when its last message goes on, {ended} when "
                "another one follows: it is not left open"
            )

    subject.ask_first(ask)


@clause("E38", kind="engine", title="it calls the tool that it is told to call", needs=("tools",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        messages = [{"role": "user", "content": "What is 2 + 3?"}]
        choice = {"type": "function", "function": {"name": "add"}}
        answer = await client.chat(messages, max_tokens=64, tools=[_TOOL], tool_choice=choice)
        calls = (answer.choice.get("message") or {}).get("tool_calls") or []
        names = [(call.get("function") or {}).get("name") for call in calls]
        if names != ["add"]:
            raise ClauseFailure(f"told to call add, it calls {names}")
        _is_json(calls[0]["function"].get("arguments") or "", answer, {"a", "b"})

    subject.ask_first(ask)


@clause("E39", kind="engine", title="in JSON mode it answers with JSON", needs=("json_mode",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        messages = [{"role": "user", "content": "Answer with a JSON object"}]
        form = {"type": "json_object"}
        answer = await client.chat(messages, max_tokens=64, response_format=form)
        _is_json(answer.text, answer, set())

    subject.ask_first(ask)


@clause("E40", kind="engine", title="an answer keeps to its schema", needs=("guided_decoding",))
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        messages = [{"role": "user", "content": "Is it? Answer in JSON"}]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
        answer = await client.chat(messages, max_tokens=64, response_format=form)
        content = _is_json(answer.text, answer, {"answer"})
        if content is not None and content["answer"] not in ("yes", "no"):
            raise ClauseFailure(f"the schema allows yes and no, the answer is {answer.text!r}")

    subject.ask_first(ask)


def _is_json(text: str, answer: Answer, keys: set[str]) -> dict[str, Any] | None:
    """The object; None when max_tokens cut it off. Raises ClauseFailure when it is none."""
    if answer.finish_reason == "length":
        if text.strip() and not text.lstrip().startswith("{"):
            raise ClauseFailure(f"it begins with {text[:40]!r}, not a JSON object")
        return None
    try:
        content = json.loads(text)
    except ValueError:
        raise ClauseFailure(f"it is no JSON: {text!r}") from None
    if not isinstance(content, dict) or not keys <= set(content):
        raise ClauseFailure(f"it is no object with {', '.join(keys) or 'keys'}: {text!r}")
    return content


@clause(
    "E41",
    kind="engine",
    title="nothing is generated any more for a client that has gone",
    needs=("abort",),
)
def _(subject: EngineSubject) -> None:
    launch = subject.first().replica.launch
    assert launch is not None
    if launch.progress_path is None:
        raise ClauseFailure("it declares abort, and without progress_path nobody can see it")
    failure: ClauseFailure | None = None
    for _ in range(_ABORT_TRIES):
        try:
            subject.ask_first(lambda client: _abort(client, subject))
        except ClauseFailure as found:
            failure = found  # On a busy machine a second is short: look again.
        else:
            return
    assert failure is not None
    raise failure


async def _abort(client: Client, subject: EngineSubject) -> None:
    """Raises ClauseSkipped when the answer was complete before it could be broken off."""
    loop, limit_s = asyncio.get_running_loop(), subject.limits.abort_s
    prompt = "Tell a very long story"
    short = await client.complete(prompt, max_tokens=1)
    room = (subject.deployment.max_model_len or _CONTEXT_TOKENS) - 1
    most = max(16, room - (short.usage or {}).get("prompt_tokens", len(prompt)))
    before = await client.progress()
    body = {"prompt": prompt, "max_tokens": most, "temperature": 0, "ignore_eos": True}
    async with client.open(COMPLETIONS, {**body, "stream": True}) as response:
        first = await response.content.readline()
        if response.status != 200:
            raise ClauseFailure(f"a stream is answered {Reply(response.status, first).words}")
    gone_at_s = loop.time()
    while (now := await client.progress()).running and loop.time() < gone_at_s + limit_s:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    # Some engines count what runs only while they work, so that the tokens alone tell.
    await asyncio.sleep(_LOOK_AGAIN_S if now.running else _POLL_S)
    later = await client.progress()
    if later.tokens > now.tokens:
        raise ClauseFailure(
            f"{limit_s:g} s after its client has gone, tokens are still generated: "
            f"{later.tokens - before.tokens} so far"
        )
    if now.tokens - before.tokens >= most:
        raise ClauseSkipped(f"all {most} tokens were there before it could be seen")
