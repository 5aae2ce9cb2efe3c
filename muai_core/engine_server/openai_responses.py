"""OpenAI response bodies, plain and streamed, as bytes."""

from collections.abc import Sequence
from typing import Any

import msgspec

from muai_core.engine_server.openai_requests import ParsedRequest
from muai_core.engine_server.protocol import Delta, RequestError, TokenLogprob

_encode = msgspec.json.Encoder().encode
STREAM_END = b"data: [DONE]\n\n"


def error_body(error: RequestError) -> bytes:
    """The error object that OpenAI clients understand."""
    return _encode(
        {
            "error": {
                "message": error.message,
                "type": error.error_type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_event(error: RequestError) -> bytes:
    """An error in the middle of a stream; no [DONE] follows it."""
    return b"data: " + error_body(error) + b"\n\n"


class ResponseWriter:
    """Shapes the deltas of one request. Feed every delta in order, once.

    `first_event`, `event` and `last_events` make a stream; `body` makes the plain answer out of
    the deltas gathered with `gather`.
    """

    def __init__(self, parsed: ParsedRequest, model_name: str, created: int) -> None:
        self._parsed = parsed
        kind = "chat.completion" if parsed.chat else "text_completion"
        prefix = "chatcmpl" if parsed.chat else "cmpl"
        self._head: dict[str, Any] = {
            "id": f"{prefix}-{parsed.generation.request_id}",
            "object": f"{kind}.chunk" if parsed.chat and parsed.stream else kind,
            "created": created,
            "model": model_name,
        }
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._text_chars = 0
        self._gathered: list[Delta] = []

    def first_event(self, delta: Delta) -> bytes:
        """What a stream opens with: the role for chat, nothing for completions."""
        self._prompt_tokens = delta.prompt_tokens
        if not self._parsed.chat:
            return b""
        choice: dict[str, Any] = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        extra = {}
        if self._parsed.return_token_ids:
            extra["prompt_token_ids"] = delta.prompt_token_ids
        return self._event({"choices": [choice], **extra})

    def event(self, delta: Delta) -> bytes:
        """One delta of a stream; empty when it has nothing to show."""
        self._completion_tokens += len(delta.token_ids)
        wanted = delta.text or delta.logprobs or delta.finish_reason
        if not wanted and not (self._parsed.return_token_ids and delta.token_ids):
            return b""
        choice: dict[str, Any] = {"index": 0}
        if self._parsed.chat:
            choice["delta"] = {"content": delta.text} if delta.text else {}
        else:
            choice["text"] = delta.text
        choice["logprobs"] = self._logprobs(delta.logprobs)
        choice["finish_reason"] = delta.finish_reason
        if self._parsed.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return self._event({"choices": [choice]})

    def last_events(self) -> bytes:
        """Usage, when it was asked for, and the end mark."""
        if not self._parsed.include_usage:
            return STREAM_END
        return self._event({"choices": [], "usage": self._usage()}, final=True) + STREAM_END

    def gather(self, delta: Delta) -> None:
        """Keeps one delta for the plain answer."""
        self._prompt_tokens = delta.prompt_tokens
        self._completion_tokens += len(delta.token_ids)
        self._gathered.append(delta)

    def body(self) -> bytes:
        """The plain answer."""
        deltas = self._gathered
        text = "".join(delta.text for delta in deltas)
        choice: dict[str, Any] = {"index": 0}
        if self._parsed.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs([item for delta in deltas for item in delta.logprobs])
        choice["finish_reason"] = deltas[-1].finish_reason
        if self._parsed.return_token_ids:
            choice["token_ids"] = [token for delta in deltas for token in delta.token_ids]
            choice["prompt_token_ids"] = deltas[0].prompt_token_ids
        return _encode({**self._head, "choices": [choice], "usage": self._usage()})

    def _event(self, fields: dict[str, Any], *, final: bool = False) -> bytes:
        if self._parsed.include_usage and not final:
            fields["usage"] = None
        return b"data: " + _encode({**self._head, **fields}) + b"\n\n"

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._parsed.generation.logprobs or not tokens:
            return None
        if self._parsed.chat:
            return {"content": [{**_chat_logprob(t), "top_logprobs": _top(t)} for t in tokens]}
        offsets = []
        for token in tokens:
            offsets.append(self._text_chars)
            self._text_chars += len(token.token)
        return {
            "tokens": [t.token for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [{a.token: a.logprob for a in t.top} for t in tokens],
            "text_offset": offsets,
        }


def _chat_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token.encode()),
    }


def _top(token: TokenLogprob) -> list[dict[str, Any]]:
    return [_chat_logprob(alternative) for alternative in token.top]
