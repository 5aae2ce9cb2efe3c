"""Tokens as the engine counts them: the `usage` of an answer, or the last one of a stream."""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

_Count = Annotated[int, Meta(ge=0)]
_NOT_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class Usage(Struct):
    """Tokens of one request; None where the engine does not tell."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Completion(Struct):
    usage: Usage | None = None


class _StreamOptions(Struct):
    include_usage: bool = False


_completion = msgspec.json.Decoder(_Completion)
_stream_options = msgspec.json.Decoder(_StreamOptions)

_UNKNOWN = Usage()


def usage_of(body: bytes) -> Usage:
    """The usage in a whole answer. Raises ValueError when that is not JSON at all."""
    try:
        return _completion.decode(body).usage or _UNKNOWN
    except msgspec.ValidationError:
        return _UNKNOWN
    except _NOT_JSON as error:
        raise ValueError(str(error)) from error


def asks_for_usage(stream_options: Raw) -> bool:
    """Whether a stream is to end with its usage; False when there are no options, or they make no
    sense."""
    try:
        return _stream_options.decode(stream_options).include_usage
    except _NOT_JSON:
        return False


def usage_in_events(events: bytes) -> Usage:
    """The last usage in whole server-sent events; what makes no sense counts as unknown."""
    for line in reversed(events.splitlines()):
        name, _, document = line.partition(b":")
        if name != b"data" or b'"usage"' not in document:
            continue
        try:
            usage = _completion.decode(document).usage
        except _NOT_JSON:
            continue
        if usage is not None:
            return usage
    return _UNKNOWN
