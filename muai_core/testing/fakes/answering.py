"""What the fake engine answers to completions, and what it can do wrong there."""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from muai_core.engine_server.openai_requests import ParsedRequest, parse_chat, parse_completion
from muai_core.engine_server.openai_responses import ResponseWriter, error_body
from muai_core.engine_server.protocol import (
    BadRequestError,
    ContextTooLongError,
    Delta,
    FinishReason,
    GenerationRequest,
    NotReadyError,
    RequestError,
    TokenLogprob,
)
from muai_core.engine_server.stop import TextStream
from muai_core.testing.fakes import words
from muai_core.testing.fakes.exchange import Exchange

_TOKEN_S = 0.001
_ANSWER_TOKENS = 64
_NOT_ASCII = 128
_LIKELY, _UNLIKELY = -0.1, -2.5
#: Fields that the core's own server refuses and the fake takes.
_OWN_FIELDS = ("tools", "tool_choice", "response_format")


class _Writer(ResponseWriter):
    def __init__(self, parsed: ParsedRequest, model_name: str, defect: str) -> None:
        super().__init__(parsed, model_name, created=int(time.time()))
        self._wrong_total = defect == "counts_wrong"
        self._wrong_count = defect == "counts_streams_otherwise" and parsed.stream

    def _usage(self) -> dict[str, int]:
        usage = super()._usage()
        if self._wrong_count:
            usage["completion_tokens"] += 1
            usage["total_tokens"] += 1
        if self._wrong_total:
            usage["total_tokens"] += 1
        return usage


class Answering:
    """All requests of one replica; `answer` is called in a thread for each."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.served = 0
        self._spec = spec
        self._defect: str = spec["defect"]
        self._name: str = spec["name"]
        self._lock = threading.Lock()
        self._running = 0
        self._tokens = 0
        self._tokens_of_running = 0
        self._seen: dict[bytes, int] = {}

    def progress(self) -> dict[str, int]:
        """In the words of LaunchSpec.progress_path."""
        with self._lock:
            falls = self._defect == "progress_falls"
            tokens = self._tokens_of_running if falls else self._tokens
            return {
                "requests_running": self._running,
                "requests_waiting": 0,
                "tokens_generated": tokens,
            }

    def answer(self, exchange: Exchange, *, ready: bool) -> None:
        """Raises OSError when the client goes away."""
        try:
            if not ready:
                raise NotReadyError("the model is not loaded yet")
            self._first()
            parsed, own = self._parse(exchange)
            prompt = self._prompt(parsed.generation)
        except _Crash as crash:
            exchange.send_json(500, {"error": {"message": str(crash)}})
        except RequestError as error:
            exchange.send(error.status, error_body(error), "application/json")
        except _Plain as refused:
            exchange.send(400, str(refused).encode())
        else:
            self._generate(exchange, parsed, own, prompt)

    def _first(self) -> None:
        self.served += 1
        if self._defect == "refuses_the_first_request" and self.served == 1:
            raise NotReadyError("come back in a moment")

    def _parse(self, exchange: Exchange) -> tuple[ParsedRequest, dict[str, Any]]:
        body, own = exchange.body, {}
        chat = exchange.path == "/v1/chat/completions"
        if chat and any(field.encode() in body for field in _OWN_FIELDS):
            content = json.loads(body)
            own = {field: content.pop(field) for field in _OWN_FIELDS if field in content}
            body = json.dumps(content).encode()
        try:
            parsed = (parse_chat if chat else parse_completion)(body, "fake", self._name)
        except RequestError as error:
            if self._defect == "refuses_without_an_error":
                raise _Plain("Bad Request") from error
            raise
        return parsed, own

    def _prompt(self, request: GenerationRequest) -> tuple[int, ...]:
        if request.prompt_token_ids is not None:
            prompt = request.prompt_token_ids
        elif request.prompt is not None:
            prompt = words.encode(request.prompt)
        else:
            prompt = words.encode(self._render(request))
        if not prompt:
            if self._defect == "fails_on_an_empty_prompt":
                raise _Crash("list index out of range")
            raise BadRequestError("the prompt is empty", param="prompt")
        if len(prompt) + (request.max_tokens or 1) > self._spec["max_model_len"]:
            if self._defect == "fails_on_a_long_prompt":
                raise _Crash("index out of bounds")
            raise ContextTooLongError(f"{len(prompt)} prompt tokens do not fit", param="prompt")
        return prompt

    def _render(self, request: GenerationRequest) -> str:
        text = "".join(f"<{one.role}>{one.content}\n" for one in request.messages or ())
        if request.continue_final_message and self._defect != "closes_open_messages":
            return text[:-1]
        return f"{text}<assistant>"

    def _generate(
        self,
        exchange: Exchange,
        parsed: ParsedRequest,
        own: dict[str, Any],
        prompt: tuple[int, ...],
    ) -> None:
        deltas = self._deltas(exchange, parsed, own, prompt)
        if parsed.stream:
            self._stream(exchange, parsed, deltas)
            return
        writer = _Writer(parsed, self._name, self._defect)
        for delta in deltas:
            writer.gather(delta)
        content = json.loads(writer.body())
        choice = content["choices"][0]
        if self._defect == "loses_a_token_id" and "token_ids" in choice:
            choice["token_ids"].pop()
        if "message" in choice and self._defect == "chats_without_a_role":
            del choice["message"]["role"]
        if "tools" in own and self._defect != "ignores_tools":
            choice["message"] = _call(own["tool_choice"]["function"]["name"])
        exchange.send_json(200, content)

    def _stream(self, exchange: Exchange, parsed: ParsedRequest, deltas: Iterator[Delta]) -> None:
        writer = _Writer(parsed, self._name, self._defect)
        exchange.begin_stream()
        for number, delta in enumerate(deltas):
            first = b"" if number else writer.first_event(delta)
            try:
                exchange.send_piece(first + writer.event(delta))
            except OSError:
                if self._defect != "goes_on_for_nobody":
                    raise
        last = writer.last_events()
        if self._defect == "streams_without_an_end":
            last = last.replace(b"data: [DONE]\n\n", b"")
        exchange.send_piece(last)

    def _deltas(
        self,
        exchange: Exchange,
        parsed: ParsedRequest,
        own: dict[str, Any],
        prompt: tuple[int, ...],
    ) -> Iterator[Delta]:
        request, with_end = parsed.generation, self._with_end(own)
        tokens = self._tokens_for(request, with_end, prompt, exchange.body)
        text = TextStream(words.decode, () if self._shows_stop(request) else request.stop)
        watched = StopWatch(request.stop)
        count = 0
        with self._work():
            for token in islice(tokens, request.max_tokens or _ANSWER_TOKENS):
                time.sleep(_TOKEN_S)
                self._count()
                count += 1
                if self._defect != "goes_on_for_nobody" and exchange.is_alone:
                    return
                piece = self._piece(parsed, text, token)
                stopped = text.stopped or watched.saw(piece)
                finish: FinishReason | None = None
                if stopped or token == words.END:
                    finish = "stop"
                elif count == (request.max_tokens or _ANSWER_TOKENS):
                    finish = "length"
                if finish is not None and not stopped:
                    piece += text.finish()
                yield Delta(
                    text=piece,
                    token_ids=(token,),
                    logprobs=self._logprobs(request, token),
                    finish_reason=finish,
                    prompt_tokens=len(prompt),
                    prompt_token_ids=prompt,
                )
                if finish is not None:
                    return

    def _shows_stop(self, request: GenerationRequest) -> bool:
        return bool(request.stop) and self._defect == "shows_stop_strings"

    def _piece(self, parsed: ParsedRequest, text: TextStream, token: int) -> str:
        piece = text.push([token])
        if self._defect == "breaks_characters" and parsed.stream and token >= _NOT_ASCII:
            return words.decode([token])
        return piece

    def _tokens_for(
        self,
        request: GenerationRequest,
        with_end: str | None,
        prompt: Sequence[int],
        body: bytes,
    ) -> Iterator[int]:
        if with_end is not None:
            return iter([*words.encode(with_end), words.END])
        salt = ""
        if request.temperature > 0:
            known = request.seed is not None and self._defect != "ignores_seeds"
            salt = str(request.seed) if known else os.urandom(8).hex()
        elif self._defect == "greed_drifts":
            self._seen[body] = self._seen.get(body, -1) + 1
            salt = str(self._seen[body] or "")
        tensor, pipeline = self._spec["shape"]
        if self._defect == "differs_in_tensor_parallel" and tensor > 1:
            salt += "rounded"
        if self._defect == "differs_in_pipeline_parallel" and pipeline > 1:
            salt += "rounded"
        return words.continuation(prompt, salt)

    def _with_end(self, own: dict[str, Any]) -> str | None:
        """A fixed answer, where the form of the answer is told."""
        form = own.get("response_format")
        if form is None:
            return None
        if form["type"] == "json_object":
            return None if self._defect == "ignores_json_mode" else '{"a": 1}'
        if self._defect == "ignores_schemas":
            return '{"a": 1}'
        properties = form["json_schema"]["schema"]["properties"]
        return json.dumps({name: what["enum"][0] for name, what in properties.items()})

    def _logprobs(self, request: GenerationRequest, token: int) -> tuple[TokenLogprob, ...]:
        if not request.logprobs:
            return ()
        likely = -_LIKELY if self._defect == "is_more_than_certain" else _LIKELY
        name = words.decode([token])
        top = [TokenLogprob(name, token, likely), TokenLogprob("?", 63, _UNLIKELY)]
        return (TokenLogprob(name, token, likely, tuple(top[: request.top_logprobs])),)

    def _count(self) -> None:
        with self._lock:
            self._tokens += 1
            self._tokens_of_running += 1

    def _work(self) -> "_Work":
        return _Work(self)

    def change_running(self, by: int) -> None:
        with self._lock:
            self._running += by
            if self._running == 0:
                self._tokens_of_running = 0


class StopWatch:
    """Notices a stop string that is shown."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._text = ""

    def saw(self, piece: str) -> bool:
        self._text += piece
        return any(one in self._text for one in self._stop)


class _Work:
    """A request that runs."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def __enter__(self) -> None:
        self._answering.change_running(+1)

    def __exit__(self, *_: object) -> None:
        self._answering.change_running(-1)


class _Crash(Exception):
    """The engine fails at a request."""


class _Plain(Exception):
    """A refusal in plain text."""


def _call(name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"a": 2, "b": 3}'}
    call = {"id": "call-1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}
