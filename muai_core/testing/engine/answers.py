"""Clauses on what a replica does while it loads, and on what every engine answers."""

import asyncio
from pathlib import Path
from typing import Any

import psutil

from muai_core.testing.clauses import ClauseFailure, ClauseSkipped, clause
from muai_core.testing.engine.bench import Replica
from muai_core.testing.engine.client import (
    CHAT,
    COMPLETIONS,
    Answer,
    Client,
    Progress,
    Reply,
    read_samples,
)
from muai_core.testing.engine.outcomes import Started
from muai_core.testing.engine.subject import EngineSubject

FINISHES = ("stop", "length")
#: As `muai_core.runtime.memory_return`: a driver keeps some hundred MiB per device for itself.
SLACK_BYTES = 1024**3
_POLL_S = 0.02
#: A prompt of so many words is too long for any model that a kit is run with.
_MOST_WORDS = 200_000


@clause("E10", kind="engine", title="it listens where it was told, and nowhere else")
def _(subject: EngineSubject) -> None:
    started = subject.first()
    launch = started.replica.launch
    assert launch is not None
    listening = _listening(subject, started.replica, launch.port)
    if not listening:
        raise ClauseFailure(f"no process of it listens on port {launch.port}")
    if others := sorted(listening - {launch.host}):
        raise ClauseFailure(
            f"it listens on {', '.join(others)}, port {launch.port}: told was {launch.host}, "
            "and whoever reaches this machine reaches the engine"
        )


def _listening(subject: EngineSubject, replica: Replica, port: int) -> set[str]:
    """The addresses on which a process of it listens on the port."""
    found = set()
    for pid, _ in subject.first().remains.members:
        try:
            sockets = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue  # It has ended meanwhile.
        found |= {
            one.laddr.ip
            for one in sockets
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port
        }
    return found


@clause("E11", kind="engine", title="it lists no model before it is ready")
def _(subject: EngineSubject) -> None:
    started = subject.first()
    launch = started.replica.launch
    assert launch is not None
    for look in started.looks:
        # The list was asked for first, and what is ready stays it.
        if look.models and look.status != 200:
            listed, path = ", ".join(look.models), launch.readiness_path
            raise ClauseFailure(f"/v1/models lists {listed}, then {path} answers {look.status}")


@clause("E12", kind="engine", title="ready means that it serves the model under its name")
def _(subject: EngineSubject) -> None:
    failure = subject.why_not()
    if failure is not None:
        raise failure
    first = subject.first().first
    if first.status != 200:
        raise ClauseFailure(f"the first completion, once it was ready, is answered {first.words}")

    async def look(client: Client) -> None:
        if client.model not in (names := await client.models() or []):
            listed = ", ".join(names) or "nothing"
            raise ClauseFailure(f"/v1/models lists {listed}, not {client.model}")

    subject.ask_first(look)


@clause("E13", kind="engine", title="its answers have OpenAI's form")
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        body: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
        completion = await client.post(COMPLETIONS, {**body, "prompt": "A form"})
        _has_form(completion, "text_completion", client.model)
        messages = [{"role": "user", "content": "Hello"}]
        chat = await client.post(CHAT, {**body, "messages": messages})
        message = _has_form(chat, "chat.completion", client.model).get("message")
        if not isinstance(message, dict) or message.get("role") != "assistant":
            raise ClauseFailure(f"a chat answer has no message of the assistant: {chat.words}")

    subject.ask_first(ask)


def _has_form(reply: Reply, kind: str, model: str) -> dict[str, Any]:
    """The choice of an answer. Raises ClauseFailure on one that clients cannot read."""
    if reply.status != 200:
        raise ClauseFailure(f"a {kind} is answered {reply.words}")
    content = reply.content
    for field, wanted in (("object", kind), ("model", model)):
        if content.get(field) != wanted:
            raise ClauseFailure(f"the answer's {field} is {content.get(field)!r}, not {wanted!r}")
    for field in ("id", "created", "usage"):
        if not content.get(field):
            raise ClauseFailure(f"the answer has no {field}: {reply.words}")
    [choice] = content["choices"]
    if choice.get("finish_reason") not in FINISHES:
        raise ClauseFailure(f"the finish reason is {choice.get('finish_reason')!r}: {reply.words}")
    found: dict[str, Any] = choice
    return found


@clause("E14", kind="engine", title="a greedy answer repeats")
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        texts = [(await client.complete("Say it again")).text for _ in range(3)]
        if len(set(texts)) > 1:
            raise ClauseFailure(f"the same greedy request is answered {texts}")

    subject.ask_first(ask)


@clause("E15", kind="engine", title="usage counts are right")
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        for most in (1, 7):
            answer = await client.complete("Count the words of this", max_tokens=most)
            check_usage(answer, most)
        short = await client.complete("Count", max_tokens=1)
        longer = await client.complete("Count " * 20, max_tokens=1)
        assert short.usage is not None
        assert longer.usage is not None
        if longer.usage["prompt_tokens"] <= short.usage["prompt_tokens"]:
            raise ClauseFailure(
                f"a prompt that is 20 times as long has {longer.usage['prompt_tokens']} tokens, "
                f"the short one {short.usage['prompt_tokens']}"
            )

    subject.ask_first(ask)


def check_usage(answer: Answer, most: int) -> None:
    """Raises ClauseFailure when the counts contradict each other or the request."""
    usage = answer.usage or {}
    try:
        prompt, completion, total = (
            int(usage[f"{name}_tokens"]) for name in ("prompt", "completion", "total")
        )
    except (KeyError, TypeError, ValueError):
        raise ClauseFailure(f"the usage is {answer.usage!r}") from None
    if prompt + completion != total:
        raise ClauseFailure(f"{prompt} prompt + {completion} completion tokens are not {total}")
    if not 0 < completion <= most:
        raise ClauseFailure(f"{completion} completion tokens at max_tokens {most}")
    if answer.finish_reason == "length" and completion != most:
        raise ClauseFailure(f"finished by length after {completion} tokens, max_tokens {most}")


@clause("E16", kind="engine", title="a wrong request gets a 4xx in OpenAI's form")
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        plain: dict[str, Any] = {"prompt": "Hello", "max_tokens": 1}
        for what, body in (
            ("half a JSON object", b'{"model": '),
            ("a list instead of an object", b"[]"),
            ("no prompt", {"max_tokens": 1}),
            ("max_tokens of -1", {**plain, "max_tokens": -1}),
            ("a temperature in words", {**plain, "temperature": "hot"}),
            ("another model's name", {**plain, "model": "no-such-model"}),
        ):
            is_refusal(await client.post(COMPLETIONS, body), what)
        await client.complete("Still there?", max_tokens=1)

    subject.ask_first(ask)


def is_refusal(reply: Reply, what: str) -> None:
    """Raises ClauseFailure unless it is a 4xx with the error object of OpenAI's API."""
    if not 400 <= reply.status < 500:
        raise ClauseFailure(f"{what} is answered {reply.words}, not with a 4xx")
    content = reply.content
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        raise ClauseFailure(f"{what} is answered without an error object: {reply.words}")


@clause("E17", kind="engine", title="an empty prompt gets an answer or a 4xx")
def _(subject: EngineSubject) -> None:
    async def ask(client: Client) -> None:
        for path, field, empty in (
            (COMPLETIONS, "prompt", ""),
            (COMPLETIONS, "prompt", []),
            (CHAT, "messages", []),
        ):
            reply = await client.post(path, {field: empty, "max_tokens": 2, "temperature": 0})
            if not (reply.status == 200 or 400 <= reply.status < 500):
                raise ClauseFailure(f"{field} {empty!r} is answered {reply.words}")
        await client.complete("Still there?", max_tokens=1)

    subject.ask_first(ask)


@clause("E18", kind="engine", title="an over-long prompt gets a 4xx, and the next one an answer")
def _(subject: EngineSubject) -> None:
    words = min(_MOST_WORDS, 2 * (subject.deployment.max_model_len or _MOST_WORDS))

    async def ask(client: Client) -> None:
        body = {"prompt": "one " * words, "max_tokens": 1, "temperature": 0}
        is_refusal(await client.post(COMPLETIONS, body), f"a prompt of {words} words")
        await client.complete("Still there?", max_tokens=1)

    subject.ask_first(ask)


@clause("E19", kind="engine", title="its progress counters grow, and it comes to rest")
def _(subject: EngineSubject) -> None:
    launch = subject.first().replica.launch
    assert launch is not None
    if launch.progress_path is None:
        raise ClauseSkipped("it tells no progress, so a hang cannot be told from work")

    async def ask(client: Client) -> None:
        before = await at_rest(client, subject.limits.answer_s)
        work = asyncio.ensure_future(client.complete("Work for a while", max_tokens=64))
        seen = []
        while not work.done():
            seen.append(await client.progress())
            await asyncio.wait({work}, timeout=_POLL_S)
        answer = await work
        after = await at_rest(client, subject.limits.answer_s)
        counts = [progress.tokens for progress in (before, *seen, after)]
        if counts != sorted(counts):
            raise ClauseFailure(f"its count of tokens falls: {counts}")
        told = (answer.usage or {}).get("completion_tokens", 1)
        if after.tokens - before.tokens < told:
            grown = after.tokens - before.tokens
            raise ClauseFailure(f"{told} tokens were generated, its count grew by {grown}")

    subject.ask_first(ask)


async def at_rest(client: Client, timeout_s: float) -> Progress:
    """The progress once nothing runs. Raises ClauseFailure when it does not come to rest."""
    loop = asyncio.get_running_loop()
    give_up_at_s = loop.time() + timeout_s
    while True:
        progress = await client.progress()
        if progress.running == 0 and progress.waiting == 0:
            return progress
        if loop.time() > give_up_at_s:
            raise ClauseFailure(
                f"{progress.running} requests run and {progress.waiting} wait, though none is open"
            )
        await asyncio.sleep(_POLL_S)


@clause("E20", kind="engine", title="its own metrics can be read")
def _(subject: EngineSubject) -> None:
    launch = subject.first().replica.launch
    assert launch is not None
    path = launch.metrics_path
    if path is None:
        raise ClauseSkipped("it has no metrics of its own")

    async def ask(client: Client) -> None:
        reply = await client.get(path)
        if reply.status != 200:
            raise ClauseFailure(f"GET {path} answers {reply.words}")
        if not read_samples(reply.body.decode(errors="replace")):
            raise ClauseFailure(f"GET {path} has no metric in Prometheus' text format")

    subject.ask_first(ask)


@clause("E21", kind="engine", title="it sees and touches only its own devices")
def _(subject: EngineSubject) -> None:
    started = subject.first()
    subject.note(started)
    claimed = {device.uuid for device in started.replica.devices}
    visible = {device.uuid for device in started.replica.devices if device.platform == "cuda"}
    for pid, _ in sorted(started.remains.members):
        shown = _shown_devices(pid)
        if shown is None:
            continue  # It has ended, or has an environment of its own making.
        if others := [uuid for uuid in shown if uuid not in visible]:
            raise ClauseFailure(
                f"pid {pid} has CUDA_VISIBLE_DEVICES={','.join(shown)}: "
                f"{', '.join(others)} was not claimed"
            )
    _touches_only(subject, started, claimed)


def _shown_devices(pid: int) -> list[str] | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for entry in environment:
        name, _, value = entry.decode(errors="replace").partition("=")
        if name == "CUDA_VISIBLE_DEVICES":
            return [word for word in value.split(",") if word]
    return None


def _touches_only(subject: EngineSubject, started: Started, claimed: set[str]) -> None:
    members = {pid for pid, _ in started.remains.members}
    for uuid, reading in subject.readings().items():
        if uuid in claimed:
            continue
        if any(process.pid in members for process in reading.processes):
            raise ClauseFailure(f"a process of it holds memory of {uuid}, which was not claimed")
        before, now = started.used_bytes.get(uuid), reading.memory_used_bytes
        if before is not None and now is not None and now - before > SLACK_BYTES:
            grown = (now - before) / 1024**3
            raise ClauseFailure(f"{grown:.1f} GiB more are in use on {uuid}, not claimed")
