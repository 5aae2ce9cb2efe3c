"""OpenAI request bodies: what is read, what is refused, and why.

Unknown fields are ignored, as every OpenAI-compatible server does. Known fields that change the
answer and cannot be honoured are refused with the field's name, never silently dropped.
"""

from typing import Any, TypeVar, cast

import msgspec

from muai_core.engine_server.protocol import (
    BadRequestError,
    ChatMessage,
    GenerationRequest,
    UnknownModelError,
)

MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1

# Field -> values that ask for nothing special. Any other value is refused.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "structured_outputs": (),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "prompt_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
}


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options` of a streamed request."""

    include_usage: bool = False


class _ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[_ContentPart] | None = None


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False


_BodyT = TypeVar("_BodyT", bound=_Body)


class ChatBody(_Body, frozen=True, kw_only=True):
    """The fields of /v1/chat/completions that are read."""

    messages: list[_Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class CompletionBody(_Body, frozen=True, kw_only=True):
    """The fields of /v1/completions that are read."""

    prompt: str | list[int | str | list[int]]
    logprobs: int | None = None


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A generation request and how its answer is to be shaped."""

    generation: GenerationRequest
    chat: bool
    stream: bool
    include_usage: bool
    return_token_ids: bool


def parse_chat(raw: bytes, request_id: str, model_name: str) -> ParsedRequest:
    """Reads a chat body. Raises `BadRequestError` or `UnknownModelError`."""
    body = _decode(raw, ChatBody, model_name)
    if not body.messages:
        raise BadRequestError("messages must hold at least one message", param="messages")
    if body.add_generation_prompt and body.continue_final_message:
        raise BadRequestError(
            "continue_final_message needs add_generation_prompt to be false",
            param="continue_final_message",
        )
    top = body.top_logprobs or 0
    if top and not body.logprobs:
        raise BadRequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
    _check_range("top_logprobs", top, 0, MAX_TOP_LOGPROBS)
    messages = tuple(_chat_message(i, message) for i, message in enumerate(body.messages))
    max_tokens = body.max_completion_tokens
    generation = GenerationRequest(
        request_id=request_id,
        messages=messages,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        max_tokens=body.max_tokens if max_tokens is None else max_tokens,
        logprobs=bool(body.logprobs),
        top_logprobs=top,
        **_sampling(body),
    )
    return _parsed(body, generation, chat=True)


def parse_completion(raw: bytes, request_id: str, model_name: str) -> ParsedRequest:
    """Reads a completion body. Raises `BadRequestError` or `UnknownModelError`."""
    body = _decode(raw, CompletionBody, model_name)
    text, token_ids = _single_prompt(body.prompt)
    if body.logprobs is not None:
        _check_range("logprobs", body.logprobs, 0, MAX_TOP_LOGPROBS)
    generation = GenerationRequest(
        request_id=request_id,
        prompt=text,
        prompt_token_ids=token_ids,
        max_tokens=16 if body.max_tokens is None else body.max_tokens,  # OpenAI's default
        logprobs=body.logprobs is not None,
        top_logprobs=body.logprobs or 0,
        **_sampling(body),
    )
    return _parsed(body, generation, chat=False)


def _parsed(body: _Body, generation: GenerationRequest, *, chat: bool) -> ParsedRequest:
    if generation.max_tokens is not None:
        _check_range("max_tokens", generation.max_tokens, 1, None)
    options = body.stream_options
    if options is not None and not body.stream:
        raise BadRequestError("stream_options needs stream to be true", param="stream_options")
    return ParsedRequest(
        generation=generation,
        chat=chat,
        stream=bool(body.stream),
        include_usage=options is not None and options.include_usage,
        return_token_ids=body.return_token_ids,
    )


def _decode(raw: bytes, kind: type[_BodyT], model_name: str) -> _BodyT:
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequestError("the body must be a JSON object")
    _refuse_unsupported(fields)
    try:
        body = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise BadRequestError(str(error), param=_field_of(str(error))) from None
    if body.model != model_name:
        raise UnknownModelError(
            f"no model {body.model!r} here; this server has {model_name!r}", param="model"
        )
    return body


def _refuse_unsupported(fields: dict[str, Any]) -> None:
    for name, neutral in _NEUTRAL.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            allowed = " or ".join(msgspec.json.encode(v).decode() for v in neutral)
            hint = f"leave it out or send {allowed}" if allowed else "leave it out"
            raise BadRequestError(
                f"this engine does not support {name} with that value; {hint}",
                param=name,
                code="unsupported_parameter",
            )


def _field_of(message: str) -> str | None:
    """The top-level field that msgspec names in "... - at `$.field[0].x`"."""
    _, found, path = message.rpartition("`$.")
    if found:
        return path.rstrip("`").split(".")[0].split("[")[0]
    if "required field `" in message:
        return message.split("required field `")[1].split("`")[0]
    return None


def _chat_message(index: int, message: _Message) -> ChatMessage:
    content = message.content
    if content is None:
        return ChatMessage(message.role, "")
    if isinstance(content, str):
        return ChatMessage(message.role, content)
    for part in content:
        if part.type != "text" or part.text is None:
            raise BadRequestError(
                f"messages[{index}] has a part of type {part.type!r}; only text is supported",
                param="messages",
                code="unsupported_parameter",
            )
    return ChatMessage(message.role, "".join(part.text or "" for part in content))


def _single_prompt(
    prompt: str | list[int | str | list[int]],
) -> tuple[str | None, tuple[int, ...] | None]:
    if isinstance(prompt, str):
        return prompt, None
    token_ids = tuple(item for item in prompt if isinstance(item, int))
    if len(token_ids) == len(prompt):
        return None, token_ids
    if len(prompt) != 1:
        raise BadRequestError(
            f"prompt holds {len(prompt)} prompts; send one prompt per request", param="prompt"
        )
    only = prompt[0]
    return (only, None) if isinstance(only, str) else (None, tuple(cast("list[int]", only)))


def _sampling(body: _Body) -> dict[str, Any]:
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    _check_range("temperature", temperature, 0, 2)
    if not 0 < top_p <= 1:
        raise BadRequestError(f"top_p must be over 0 and at most 1, not {top_p}", param="top_p")
    if body.seed is not None:
        _check_range("seed", body.seed, -MAX_SEED - 1, MAX_SEED)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MAX_STOP_STRINGS or not all(stop):
        raise BadRequestError(
            f"stop must be at most {MAX_STOP_STRINGS} strings, none of them empty", param="stop"
        )
    return {
        "temperature": temperature,
        "top_p": top_p,
        "seed": body.seed,
        "stop": stop,
        "ignore_eos": body.ignore_eos,
    }


def _check_range(name: str, value: float, low: float, high: float | None) -> None:
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise BadRequestError(f"{name} must be {allowed}, not {value}", param=name)
