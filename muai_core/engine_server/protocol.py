"""What a text generator must offer to be served, and the nouns that pass between the two.

The front end turns HTTP requests into `GenerationRequest` and `Delta` back into OpenAI responses.
It knows nothing about models; a generator knows nothing about HTTP.
"""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "abort"]


class ChatMessage(msgspec.Struct, frozen=True):
    """One chat turn; `content` is plain text (text parts are already joined)."""

    role: str
    content: str


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One validated request. Exactly one of `messages`, `prompt`, `prompt_token_ids` is set."""

    request_id: str
    messages: tuple[ChatMessage, ...] | None = None
    prompt: str | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    """Chat only: the last message is a prefix to continue, not a finished turn."""
    max_tokens: int | None = None
    """None means: as many as the context has room for."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural-log probability of one token, and of the `top` alternatives, best first."""

    token: str
    token_id: int
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to a request.

    `text` may be empty while a stop string or half a character is held back; `token_ids` counts
    every generated token, the end-of-sequence token included. The last delta, and only it, has a
    `finish_reason`. `prompt_tokens` and `prompt_token_ids` are the same in every delta.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    prompt_token_ids: tuple[int, ...] = ()
    """May be left empty; only answered to clients that ask for `return_token_ids`."""


class Progress(msgspec.Struct, frozen=True):
    """Counters for a liveness check; `tokens_generated` only ever grows."""

    requests_running: int
    requests_waiting: int
    tokens_generated: int


class Status(msgspec.Struct, frozen=True):
    """Where the generator is; `ready` decides between HTTP 200 and 503 on /health."""

    stage: str
    detail: str = ""
    ready: bool = False


class TextGenerator(Protocol):
    """The engine side. All methods are called on the event loop of the server."""

    async def run(self) -> None:
        """The whole life: load, serve, and return only when there is nothing left to serve.

        Called once. Must not block the loop (load in a thread). Is cancelled when the server
        stops, and frees what it holds then. If it raises or returns, the server process exits
        with status 1 and the traceback is in the log.
        """
        ...

    def status(self) -> Status:
        """Called for every /health request and before every generation; must not block."""
        ...

    def progress(self) -> Progress:
        """Called for every /progress request; must not block."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Yields deltas until one has a finish reason. Called only while `status().ready`.

        Closing or cancelling the iterator aborts the work. Raises a `RequestError` before the
        first delta when the request cannot be served; any other exception is reported to the
        client as an engine failure and logged with its traceback.
        """
        ...


class RequestError(Exception):
    """A request that is answered with an error in OpenAI's shape.

    `status` is the HTTP status; `param` names the offending field, `code` is for programs.
    """

    status = 400
    error_type = "invalid_request_error"
    default_code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code


class BadRequestError(RequestError):
    """The request itself is wrong; sending it again does not help."""


class ContextTooLongError(BadRequestError):
    """Prompt plus requested tokens exceed the model's context."""

    default_code = "context_length_exceeded"


class UnknownModelError(RequestError):
    """The request names a model that this server does not have."""

    status = 404
    default_code = "model_not_found"


class OverloadedError(RequestError):
    """The waiting queue is full; another replica, or later, may do."""

    status = 503
    error_type = "overloaded_error"
    default_code = "overloaded"


class NotReadyError(RequestError):
    """The model is still loading, or the server is stopping."""

    status = 503
    error_type = "not_ready_error"
    default_code = "not_ready"


class GenerationFailedError(RequestError):
    """The engine failed while it worked on the request."""

    status = 500
    error_type = "engine_error"
    default_code = "engine_failed"
