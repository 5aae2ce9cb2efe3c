"""The HTTP routes every engine process answers, over any `TextGenerator`."""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from muai_core.engine_server.openai_requests import ParsedRequest, parse_chat, parse_completion
from muai_core.engine_server.openai_responses import ResponseWriter, error_body, error_event
from muai_core.engine_server.protocol import (
    GenerationFailedError,
    NotReadyError,
    RequestError,
    TextGenerator,
)

MAX_BODY_BYTES = 16 * 2**20
RETRY_AFTER_S = 1

_logger = logging.getLogger(__name__)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_Responder = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REQUEST_ID_KEY = web.RequestKey("request_id", str)


class UnknownRouteError(RequestError):
    """A path or method that does not exist here."""

    status = 404
    default_code = "not_found"


class BodyTooLargeError(RequestError):
    """The body exceeds `MAX_BODY_BYTES`."""

    status = 413
    default_code = "request_too_large"


def create_app(
    generator: TextGenerator, model_name: str, middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """The aiohttp application. Run it with `handler_cancellation=True`, as `serve` does:

    otherwise a client that goes away does not abort its work. `middlewares` run inside the one
    that turns errors into OpenAI's shape.
    """
    app = web.Application(
        middlewares=[_answer_errors, *middlewares], client_max_size=MAX_BODY_BYTES
    )
    routes = _Routes(generator, model_name)
    app.router.add_get("/health", routes.health)
    app.router.add_get("/progress", routes.progress)
    app.router.add_get("/v1/models", routes.models)
    app.router.add_post("/v1/chat/completions", routes.chat)
    app.router.add_post("/v1/completions", routes.completion)
    return app


@web.middleware
async def _answer_errors(request: web.Request, handler: _Responder) -> web.StreamResponse:
    given = request.headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    request[_REQUEST_ID_KEY] = request_id
    try:
        response = await handler(request)
    except web.HTTPRequestEntityTooLarge:
        text = f"the body is over the limit of {MAX_BODY_BYTES} bytes"
        response = _error_response(BodyTooLargeError(text))
    except web.HTTPException as error:
        text = f"{request.method} {request.path}: {error.reason}"
        response = _error_response(UnknownRouteError(text), status=error.status)
    except RequestError as error:
        response = _error_response(error)
    except Exception as error:
        _logger.exception("request %s failed", request_id)
        response = _error_response(_failed(error))
    if not response.prepared:
        response.headers["x-request-id"] = request_id
    return response


def _error_response(error: RequestError, status: int | None = None) -> web.Response:
    status = status or error.status
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return web.Response(
        body=error_body(error), status=status, content_type="application/json", headers=headers
    )


def _json(content: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json")


class _Routes:
    def __init__(self, generator: TextGenerator, model_name: str) -> None:
        self._generator = generator
        self._model_name = model_name
        self._created = int(time.time())

    async def health(self, request: web.Request) -> web.Response:
        status = self._generator.status()
        content = {"stage": status.stage, "detail": status.detail}
        return _json(content, 200 if status.ready else 503)

    async def progress(self, request: web.Request) -> web.Response:
        return _json(self._generator.progress())

    async def models(self, request: web.Request) -> web.Response:
        model = {
            "id": self._model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "muai",
        }
        # Whoever finds a name here sends requests at once.
        return _json({"object": "list", "data": [model] if self._generator.status().ready else []})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        return await self._answer(
            request, parse_chat(raw, request[_REQUEST_ID_KEY], self._model_name)
        )

    async def completion(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        return await self._answer(
            request, parse_completion(raw, request[_REQUEST_ID_KEY], self._model_name)
        )

    async def _answer(self, request: web.Request, parsed: ParsedRequest) -> web.StreamResponse:
        status = self._generator.status()
        if not status.ready:
            raise NotReadyError(f"the model is not ready: {status.stage} {status.detail}".rstrip())
        writer = ResponseWriter(parsed, self._model_name, int(time.time()))
        if parsed.stream:
            return await self._stream(request, parsed, writer)
        async with aclosing(self._generator.generate(parsed.generation)) as deltas:
            async for delta in deltas:
                writer.gather(delta)
        return web.Response(body=writer.body(), content_type="application/json")

    async def _stream(
        self, request: web.Request, parsed: ParsedRequest, writer: ResponseWriter
    ) -> web.StreamResponse:
        # Headers go out with the first delta: until then an error still has its own status,
        # and a gateway may still try another replica.
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "x-request-id": parsed.generation.request_id,
            }
        )
        async with aclosing(self._generator.generate(parsed.generation)) as deltas:
            try:
                async for delta in deltas:
                    data = b""
                    if not response.prepared:
                        await response.prepare(request)
                        data = writer.first_event(delta)
                    data += writer.event(delta)
                    if delta.finish_reason:
                        data += writer.last_events()
                    if data:
                        await response.write(data)
            except ConnectionResetError:
                return response  # the client is gone; leaving the block aborts the work
            except Exception as error:
                if not response.prepared:
                    raise
                _logger.exception("request %s failed", parsed.generation.request_id)
                await response.write(error_event(_failed(error)))
        return response


def _failed(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    return GenerationFailedError(f"the engine failed: {type(error).__name__}: {error}")
