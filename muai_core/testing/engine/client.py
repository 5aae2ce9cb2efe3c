"""Questions to one replica over HTTP, as a client of OpenAI's API asks them."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import aiohttp
from msgspec import Struct

from muai_core.planning.wording import one_line
from muai_core.plugin.engine import LaunchSpec
from muai_core.telemetry.prometheus_text import parse
from muai_core.testing.clauses import ClauseFailure

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class Reply(Struct, frozen=True):
    """An HTTP answer."""

    status: int
    body: bytes

    @property
    def content(self) -> Any:
        """The body as JSON. Raises ClauseFailure when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise ClauseFailure(f"the answer is not JSON: {self.words}") from None

    @property
    def words(self) -> str:
        return f"{self.status} {one_line(self.body.decode(errors='replace'))}"


class Answer(Struct, frozen=True, kw_only=True):
    """A generated answer, whole or put together from a stream."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any] | None
    #: The first choice; for a stream, the last one with a choice.
    choice: dict[str, Any]
    #: The text as it came, one entry for each event that had some.
    pieces: tuple[str, ...] = ()
    #: Whether the stream ended with [DONE].
    done: bool = True


class Progress(Struct, frozen=True):
    """What an engine says of its work."""

    running: int
    waiting: int
    tokens: int


class Client:
    """Asks one ready replica. Use it inside one running event loop."""

    def __init__(self, launch: LaunchSpec, *, timeout_s: float) -> None:
        self.model = launch.served_model_name
        self._launch = launch
        self._base = f"http://{launch.host}:{launch.port}"
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Reply:
        """Raises ClauseFailure when there is no complete answer."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any] | bytes) -> Reply:
        """Raises ClauseFailure when there is no complete answer."""
        return await self._ask("POST", path, body)

    async def complete(self, prompt: str | Sequence[int], **fields: Any) -> Answer:
        """A completion; greedy unless told otherwise. Raises ClauseFailure unless it is one."""
        body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, **fields}
        return await self._whole(COMPLETIONS, body)

    async def chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> Answer:
        """A chat completion; greedy unless told otherwise. Raises ClauseFailure unless it is one.

        It may have no text, as when a tool is called.
        """
        body = {"messages": list(messages), "max_tokens": 16, "temperature": 0, **fields}
        return await self._whole(CHAT, body)

    async def stream(self, prompt: str, **fields: Any) -> Answer:
        """A streamed completion, read to its end. Raises ClauseFailure unless it is one."""
        body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, "stream": True, **fields}
        try:
            async with self.open(COMPLETIONS, body) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _no_answer("POST", COMPLETIONS, error) from error
        if response.status != 200:
            raise ClauseFailure(f"a stream is answered with {Reply(response.status, raw).words}")
        return read_stream(raw)

    def open(self, path: str, body: Mapping[str, Any]) -> Any:
        """The response to a request for a stream, to be used with `async with`."""
        return self._session.post(self._base + path, json={"model": self.model, **body})

    async def models(self) -> list[str] | None:
        """The names in /v1/models; None: no list of models came."""
        try:
            reply = await self.get("/v1/models")
        except ClauseFailure:
            return None
        try:
            return [str(model["id"]) for model in json.loads(reply.body)["data"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    async def progress(self) -> Progress:
        """Raises ClauseFailure when what the engine says is no progress."""
        path, names = self._launch.progress_path, self._launch.progress_metrics
        assert path is not None, "look at it first"
        reply = await self.get(path)
        if reply.status != 200:
            raise ClauseFailure(f"GET {path} answers {reply.words}")
        if names is None:
            try:
                counts = [
                    int(reply.content[name])
                    for name in ("requests_running", "requests_waiting", "tokens_generated")
                ]
            except (KeyError, TypeError, ValueError):
                raise ClauseFailure(f"GET {path} tells no progress: {reply.words}") from None
            return Progress(*counts)
        samples = read_samples(reply.body.decode(errors="replace"))
        wanted = (names.requests_running, names.requests_waiting, names.tokens_generated)
        if missing := [name for name in wanted if name not in samples]:
            raise ClauseFailure(f"GET {path} has no series {', '.join(missing)}")
        return Progress(*(int(samples[name]) for name in wanted))

    async def _whole(self, path: str, body: Mapping[str, Any]) -> Answer:
        reply = await self.post(path, body)
        if reply.status != 200:
            raise ClauseFailure(f"POST {path} answers {reply.words}")
        try:
            content = reply.content
            choice = content["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"].get("content")
            return Answer(
                text=text or "",
                finish_reason=choice.get("finish_reason"),
                usage=content.get("usage"),
                choice=choice,
            )
        except (KeyError, TypeError, IndexError):
            raise ClauseFailure(f"POST {path} answers without a choice: {reply.words}") from None

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None
    ) -> Reply:
        data: Any = body
        if isinstance(body, Mapping):
            data = json.dumps({"model": self.model, **body}).encode()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.request(
                    method,
                    self._base + path,
                    data=data,
                    headers={"Content-Type": "application/json"} if data is not None else None,
                ) as response,
            ):
                return Reply(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _no_answer(method, path, error) from error


def _no_answer(method: str, path: str, error: Exception) -> ClauseFailure:
    return ClauseFailure(f"{method} {path} gets no answer: {type(error).__name__} {error}")


def read_stream(raw: bytes) -> Answer:
    """A streamed completion. Raises ClauseFailure on what clients could not read."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ClauseFailure(f"the stream is not UTF-8: {error}") from None
    pieces: list[str] = []
    choice: dict[str, Any] = {}
    usage = finish_reason = None
    lines = [line.removeprefix("data:").strip() for line in text.split("\n") if "data:" in line]
    for line in lines:
        if line == "[DONE]":
            break
        try:
            event = json.loads(line)
            usage = event.get("usage") or usage
            if event["choices"]:
                choice = event["choices"][0]
                pieces.append(choice["text"])
                finish_reason = choice.get("finish_reason") or finish_reason
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ClauseFailure(f"an event of a stream is broken: {one_line(line)}") from None
    return Answer(
        text="".join(pieces),
        finish_reason=finish_reason,
        usage=usage,
        choice=choice,
        pieces=tuple(piece for piece in pieces if piece),
        done=bool(lines) and lines[-1] == "[DONE]",
    )


def read_samples(text: str) -> dict[str, float]:
    """Series by name in Prometheus' text format, their samples added up.

    Raises ClauseFailure when it is another format.
    """
    found: dict[str, float] = {}
    try:
        families = parse(text)
    except ValueError as error:
        raise ClauseFailure(f"the metrics are not in Prometheus' text format: {error}") from None
    for family in families:
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found
