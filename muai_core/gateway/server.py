"""The gateway: one listening socket, the endpoints, and the door to the control plane."""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from email.utils import formatdate
from hmac import compare_digest
from http import HTTPStatus
from time import monotonic, time
from typing import Any
from urllib.parse import unquote

import msgspec

from muai_core.gateway import api_error
from muai_core.gateway.api_error import ApiError
from muai_core.gateway.client_connection import ClientConnection
from muai_core.gateway.client_request import Request
from muai_core.gateway.journey import OPERATIONS, Journey
from muai_core.gateway.listening import listen_error, raise_file_limit
from muai_core.gateway.observer import NullObserver, Observer
from muai_core.gateway.proxy import Proxy
from muai_core.gateway.router import ReplicaLoad, Router
from muai_core.gateway.settings import GatewaySettings, check_exposure, load_keys
from muai_core.gateway.tracing import Tracing
from muai_core.model.routing import ModelStatus, RoutingTable

log = logging.getLogger(__name__)

_MODELS = "/v1/models"
_HEALTH = "/health"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")

#: For clients to take the last bytes once draining is over.
_LAST_WORDS_S = 1.0

Health = Callable[[], Mapping[str, Any]]


class Gateway:
    """Serves OpenAI clients from the replicas in the published routing table.

    Everything here runs on one event loop; `publish`, `loads` and `drained` are for its thread.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        observer: Observer | None = None,
        health: Health | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`health` returns what /health adds to the models, such as `devices`; it must not block.
        Without `tracing` the trace headers of clients reach the engines as they come.

        Raises GatewaySettingsError when keys cannot be read, ExposedWithoutKeysError when anyone
        on the network could use the gateway.
        """
        check_exposure(settings)
        self.settings = settings
        self.max_body_bytes = settings.max_body_bytes
        self.client_timeout_s = settings.client_timeout_s
        self.date = b""
        self.closing = False
        self._keys = [b"Bearer " + key.encode() for key in load_keys(settings)]
        self._observer: Observer = observer or NullObserver()
        self._health = health
        self._tracing = tracing
        self._router = Router()
        self._proxy: Proxy | None = None
        self._server: asyncio.Server | None = None
        self._port = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._connections: set[ClientConnection] = set()
        self._max_connections = 0
        self._in_flight = 0
        self._id_prefix = b"req-" + secrets.token_hex(4).encode() + b"-"
        self._id_count = 0
        self._awaiting_empty: list[asyncio.Future[None]] = []
        self._created_s = int(time())

    # The runtime calls these.

    async def start(self) -> None:
        """Listens. Raises PortTakenError; GatewaySettingsError when the address cannot be used."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        self._proxy = Proxy(settings, self._router, self._observer)
        self._max_connections = raise_file_limit(settings.max_concurrent_requests)
        try:
            self._server = await loop.create_server(
                lambda: ClientConnection(self), settings.host, settings.port, backlog=4096
            )
        except OSError as error:
            raise listen_error(settings, error) from error
        self._port = self._server.sockets[0].getsockname()[1]
        self._sweep()

    @property
    def port(self) -> int:
        """The port it listens on, or did before `stop`. Raises RuntimeError before `start`."""
        if not self._port:
            raise RuntimeError("the gateway has not been started")
        return self._port

    def publish(self, table: RoutingTable) -> None:
        """Routes by `table` from now on. A table older than the present one is ignored.

        Raises ValueError, and keeps the present table, when an endpoint is not an http URL.
        """
        self._router.publish(table)

    def loads(self) -> list[ReplicaLoad]:
        """Requests in flight and faults of every replica that is routed or still busy."""
        return self._router.loads()

    async def drained(self, replica_id: str, epoch: int) -> None:
        """Returns once that replica is out of the table and has no request outstanding."""
        await self._router.drained(replica_id, epoch)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Stops listening, lets requests in flight end for `drain_s`, then tells the rest.

        May be called again while it drains, to end that sooner.
        """
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        await self._emptied(drain_s)
        for connection in list(self._connections):
            connection.cancel()
        await self._emptied(_LAST_WORDS_S)
        for connection in list(self._connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._router.close()

    async def _emptied(self, timeout_s: float) -> None:
        """Returns once no client is connected, or after `timeout_s`."""
        if self._connections and timeout_s > 0:
            waiter = asyncio.get_running_loop().create_future()
            self._awaiting_empty.append(waiter)
            await asyncio.wait((waiter,), timeout=timeout_s)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self.date = formatdate(usegmt=True).encode()
        now_s = monotonic()
        for connection in list(self._connections):
            connection.sweep(now_s)
        self._sweeper = loop.call_later(1.0, self._sweep)

    # Client connections call these.

    def opened(self, connection: ClientConnection) -> None:
        """A client connected. Raises ApiError when there are too many."""
        self._connections.add(connection)
        if len(self._connections) > self._max_connections:
            raise ApiError(
                503,
                "too_many_connections",
                f"{self._max_connections} connections are open; raise the limit with ulimit -n",
                kind="service_unavailable",
                retry_after_s=1.0,
            )

    def closed(self, connection: ClientConnection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        if not self._connections:
            for waiter in self._awaiting_empty:
                if not waiter.done():
                    waiter.set_result(None)
            self._awaiting_empty.clear()

    def admit(self, request: Request) -> None:
        """Raises ApiError for what need not be read to its end."""
        self._name(request)
        if self.closing:
            raise ApiError(
                503,
                "gateway_stopping",
                "the gateway is stopping",
                kind="service_unavailable",
                retry_after_s=5.0,
            )
        if request.path != _HEALTH:
            self._authenticate(request)
        _check_route(request)
        if request.method != "POST":
            return
        _check_body_type(request)
        if self._in_flight >= self.settings.max_concurrent_requests:
            raise ApiError(
                429,
                "too_many_requests",
                f"{self._in_flight} requests are in flight (gateway.max_concurrent_requests)",
                kind="rate_limit_error",
                retry_after_s=1.0,
            )
        request.admitted = True
        self._in_flight += 1

    def leave(self, request: Request) -> None:
        """An admitted request is over."""
        request.admitted = False
        self._in_flight -= 1

    async def serve(self, request: Request, client: ClientConnection) -> None:
        """Answers one request and tells the observer."""
        if not request.id:
            self._name(request)
        journey = Journey(request, client)
        if self._tracing is not None and request.path in OPERATIONS and request.method == "POST":
            journey.trace = self._tracing.begin(request.headers)
        try:
            if request.refusal is not None:
                raise request.refusal
            if request.path in OPERATIONS:
                assert self._proxy is not None
                await self._proxy.forward(journey)
            else:
                client.respond(*self._look_up(request))
        except ApiError as error:
            client.refuse(error)
            journey.error = error.code
        except asyncio.CancelledError:
            journey.cancelled = client.left
            if not client.left:
                self._break_off(journey, api_error.gateway_stopped())
            raise
        except Exception:
            log.exception("request %s failed inside the gateway", request.id.decode())
            request.keep_alive = False
            self._break_off(journey, api_error.internal_error())
        finally:
            self._report(journey)

    def _break_off(self, journey: Journey, error: ApiError) -> None:
        journey.client.break_off(error)
        journey.error = error.code

    def _name(self, request: Request) -> None:
        """Takes over the client's request id when it is a sane one, else makes one."""
        given = request.headers.get(b"x-request-id", b"")
        if _SANE_ID.fullmatch(given):
            request.id = given
        else:
            self._id_count += 1
            request.id = self._id_prefix + b"%x" % self._id_count

    def _authenticate(self, request: Request) -> None:
        if self._keys and not self._has_key(request):
            raise ApiError(
                401,
                "invalid_api_key",
                "send one of the gateway's keys as 'Authorization: Bearer KEY'",
                headers=b"www-authenticate: Bearer\r\n",
            )

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get(b"authorization", b"")
        if given[:7].lower() == b"bearer ":
            given = b"Bearer " + given[7:].strip()
        # Every key is compared, so that the time taken does not tell which one came close.
        return sum(compare_digest(given, key) for key in self._keys) > 0

    def _look_up(self, request: Request) -> tuple[int, bytes]:
        """Status and body of an endpoint that only reads."""
        if request.path == _HEALTH:
            return self._health_report(request)
        statuses = self._router.statuses
        if request.path == _MODELS:
            data = [self._model(status) for status in statuses.values()]
            return 200, msgspec.json.encode({"object": "list", "data": data})
        name = unquote(request.path[len(_MODELS) + 1 :])
        if name not in statuses:
            raise api_error.model_not_found(name, tuple(statuses))
        return 200, msgspec.json.encode(self._model(statuses[name]))

    def _model(self, status: ModelStatus) -> dict[str, object]:
        return {
            "id": status.name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "muai",
            "muai": {
                "ready": status.ready,
                "desired": status.desired,
                "state": status.state,
                "reason": status.reason,
            },
        }

    def _health_report(self, request: Request) -> tuple[int, bytes]:
        ready = {name: status.ready > 0 for name, status in self._router.statuses.items()}
        report: dict[str, object] = {"live": True, "ready": ready}
        status = HTTPStatus.OK
        try:
            more = dict(self._health()) if self._health is not None else {}
            body = msgspec.json.encode(report | more)
        except Exception:
            log.exception("the health report failed")
            more, status = {"live": False}, HTTPStatus.SERVICE_UNAVAILABLE
            body = msgspec.json.encode(report | more)
        if self._keys and not self._has_key(request):
            # Enough for a load balancer; names and devices are for those who hold a key.
            live = more.get("live", True)
            body = msgspec.json.encode({"live": live, "ready": all(ready.values())})
        return status, body

    def _report(self, journey: Journey) -> None:
        record = journey.finished(monotonic())
        try:
            self._observer.request_finished(record)
        except Exception:
            log.exception("an observer failed")
        if self._tracing is not None and record.trace.sampled:
            try:
                self._tracing.tell(record)
            except Exception:
                log.exception("a traced request could not be told")


def _check_route(request: Request) -> None:
    path = request.path
    if path in OPERATIONS:
        allowed: tuple[str, ...] = ("POST",)
    elif path in (_MODELS, _HEALTH) or path.startswith(_MODELS + "/"):
        allowed = ("GET", "HEAD")
    else:
        endpoints = ", ".join([*sorted(OPERATIONS), _MODELS, _HEALTH])
        raise ApiError(404, "not_found", f"there is no {path[:200]}; endpoints here: {endpoints}")
    if request.method not in allowed:
        methods = ", ".join(allowed)
        raise ApiError(
            405,
            "method_not_allowed",
            f"{path[:200]} takes {methods}, not {request.method}",
            headers=b"allow: " + methods.encode() + b"\r\n",
        )


def _check_body_type(request: Request) -> None:
    content_type = request.headers.get(b"content-type", b"")
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise ApiError(
            415, "unsupported_media_type", "send the body with 'Content-Type: application/json'"
        )
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise ApiError(415, "unsupported_media_type", "send the body without Content-Encoding")
