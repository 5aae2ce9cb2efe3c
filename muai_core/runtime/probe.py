"""Questions to an engine over loopback HTTP. Whatever it answers, an answer is data, not an error.

Every question is bounded in time and in bytes, follows no redirect and trusts no body.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from muai_core.planning.wording import one_line

_BODY_LIMIT_BYTES = 64 * 1024


class Answer(Struct, frozen=True):
    """What one question found out. `words` say what is so, also when it is not what we wait for."""

    fulfilled: bool
    words: str
    #: What the engine itself says about its progress, made printable.
    detail: str | None = None


class Prober:
    """Asks engines. One for all replicas: it keeps nothing per engine.

    timeout_s bounds one question, answer included.
    """

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> "Prober":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def listens(self, host: str, port: int) -> Answer:
        """Does anything accept connections there?"""
        try:
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(host, port)
        except OSError:  # includes TimeoutError
            return Answer(False, f"nothing listens on {host}:{port}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Answer(True, f"it listens on {host}:{port}")

    async def is_healthy(self, host: str, port: int, path: str) -> Answer:
        """Does GET path answer 200? A JSON body's `detail` is passed on either way."""
        status, body = await self._get(host, port, path)
        if status is None:
            return Answer(False, f"GET {path}: {body.decode()}")
        detail = _detail_of(body)
        said = f"GET {path} answers {status}" + (f": {detail}" if detail else "")
        return Answer(status == 200, said, detail)

    async def serves(self, host: str, port: int, model_name: str) -> Answer:
        """Does GET /v1/models list the model?"""
        status, body = await self._get(host, port, "/v1/models")
        if status is None:
            return Answer(False, f"GET /v1/models: {body.decode()}")
        if status != 200:
            return Answer(False, f"GET /v1/models answers {status}")
        names = _model_names(body)
        if names is None:
            return Answer(False, "GET /v1/models answers 200 without a list of models")
        if model_name in names:
            return Answer(True, f"it serves {model_name}")
        listed = ", ".join(names[:5]) or "no model"
        return Answer(False, f"GET /v1/models lists {one_line(listed)}, not {model_name}")

    async def _get(self, host: str, port: int, path: str) -> tuple[int | None, bytes]:
        """Status and body, the body cut off at the limit; or None and what went wrong."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.get(
                    f"http://{host}:{port}{path}",
                    allow_redirects=False,
                    headers={"Accept-Encoding": "identity"},
                ) as response,
            ):
                return response.status, await _read_bounded(response.content)
        except TimeoutError:
            return None, f"no complete answer within {self._timeout_s:g} s".encode()
        except aiohttp.ClientConnectorError:
            return None, f"nothing listens on {host}:{port}".encode()
        except (aiohttp.ClientError, ValueError, OSError) as error:
            return None, f"no HTTP answer ({type(error).__name__})".encode()


async def _read_bounded(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < _BODY_LIMIT_BYTES:
        chunk = await content.read(_BODY_LIMIT_BYTES - len(body))
        if not chunk:
            break
        body += chunk
    return bytes(body)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _detail_of(body: bytes) -> str | None:
    detail = _decode(body).get("detail")
    return one_line(detail) or None if isinstance(detail, str) else None


def _model_names(body: bytes) -> Sequence[str] | None:
    models = _decode(body).get("data")
    if not isinstance(models, list):
        return None
    names = [model.get("id") for model in models if isinstance(model, dict)]
    return [name for name in names if isinstance(name, str)]
