"""The door for commands: status, explanations and the order to stop, as HTTP on a Unix socket.

| request | answer |
| --- | --- |
| `GET /v1/status` | 200, the status view |
| `GET /v1/devices` | 200, the devices, their links and sources |
| `GET /v1/snapshot` | 200, the control plane's whole state, with the engines' options |
| `GET /v1/explain/{model}` | 200, the explanation; 404 names the models that exist |
| `POST /v1/reinstate` `{"device": str}` | 202, the device; 404 or 409 when it is not clear |
| `POST /v1/stop` `{"now": bool}` | 202, `{"stopping": true}` |

Errors are `{"error": {"message": ...}}`. The socket lies in the state directory with mode 0600: the
file system's rights are the access control.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from muai_core.runtime import control_socket
from muai_core.runtime.device_names import AmbiguousDevice, UnknownDevice, find_device

_log = logging.getLogger(__name__)

#: What requests still get when the controller goes.
_CLOSE_TIMEOUT_S = 1.0
_BODY_MAX_BYTES = 64 * 1024


class _StopRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    now: bool = False


class _ReinstateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: str


class ControlApi:
    """Serves one controller's state directory. All callables are called on the event loop."""

    def __init__(
        self,
        state_dir: Path,
        status: Callable[[], Mapping[str, Any]],
        explain: Callable[[str], Mapping[str, Any] | None],
        stop: Callable[[bool], None],
        devices: Callable[[], Mapping[str, Any]],
        reinstate: Callable[[str], None],
        snapshot: Callable[[], bytes],
    ) -> None:
        """`explain` gets a model's name and answers None for one that does not exist.

        `stop` gets whether to stop now instead of draining first, and returns at once; `reinstate`
        likewise gets the UUID of a device that exists. `devices` answers a `devices_report`,
        `snapshot` the plane's state as JSON.
        """
        self._state_dir = state_dir
        self._status = status
        self._explain = explain
        self._stop = stop
        self._devices = devices
        self._reinstate = reinstate
        self._snapshot = snapshot
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the socket cannot be made."""
        app = web.Application(middlewares=[_errors_as_json], client_max_size=_BODY_MAX_BYTES)
        app.router.add_get("/v1/status", self._get_status)
        app.router.add_get("/v1/devices", self._get_devices)
        app.router.add_get("/v1/snapshot", self._get_snapshot)
        app.router.add_get("/v1/explain/{model:.+}", self._get_explanation)
        app.router.add_post("/v1/reinstate", self._post_reinstate)
        app.router.add_post("/v1/stop", self._post_stop)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_TIMEOUT_S)
        await runner.setup()
        try:
            listening = control_socket.listen(self._state_dir)
            assert runner.server is not None
            # Since Python 3.13 the loop would look for the socket's file under the name it was
            # bound to, which may be gone by now. `close` removes it.
            options: Any = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            self._server = await asyncio.get_running_loop().create_unix_server(
                runner.server, sock=listening, **options
            )
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def close(self) -> None:
        """Finish the requests under way and take the socket away. May be repeated."""
        if self._server is not None:
            self._server.close()
            self._server = None
            control_socket.remove(self._state_dir)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _get_status(self, _: web.Request) -> web.Response:
        return _answer(200, self._status())

    async def _get_devices(self, _: web.Request) -> web.Response:
        return _answer(200, self._devices())

    async def _get_snapshot(self, _: web.Request) -> web.Response:
        return web.Response(body=self._snapshot(), content_type="application/json")

    async def _get_explanation(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        explanation = self._explain(model)
        if explanation is None:
            models = self._status()["models"]
            if model in models:
                return _error(404, f"{model} is no longer wanted; its replicas are being stopped")
            known = ", ".join(models) or "none"
            return _error(404, f"there is no model {model!r}; there are: {known}")
        return _answer(200, explanation)

    async def _post_reinstate(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            wanted = msgspec.json.decode(body, type=_ReinstateRequest)
        except msgspec.MsgspecError as error:
            return _error(400, f"expected a JSON object like {{'device': 'GPU-…'}}: {error}")
        try:
            device = find_device(self._devices()["devices"], wanted.device)
        except UnknownDevice as error:
            return _error(404, str(error))
        except AmbiguousDevice as error:
            return _error(409, str(error))
        self._reinstate(device["uuid"])
        return _answer(202, {"device": device})

    async def _post_stop(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            wanted = msgspec.json.decode(body or b"{}", type=_StopRequest)
        except msgspec.MsgspecError as error:
            return _error(400, f"expected a JSON object like {{'now': false}}: {error}")
        self._stop(wanted.now)
        return _answer(202, {"stopping": True})


def _answer(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json"
    )


def _error(status: int, message: str) -> web.Response:
    return _answer(status, {"error": {"message": message}})


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(error.status, f"{request.method} {request.path}: {error.reason}")
    except Exception as error:  # noqa: BLE001 - a failing view must not end the controller
        _log.exception("%s %s failed", request.method, request.path)
        return _error(500, f"the controller failed to answer: {type(error).__name__}: {error}")
