"""From a request to a replica's answer: choose, try, try another, wait, give up."""

import asyncio
import errno
import logging
from time import monotonic

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from muai_core.gateway import api_error
from muai_core.gateway.api_error import ApiError
from muai_core.gateway.attempt import Answer, Attempt, ReplicaFault
from muai_core.gateway.client_connection import JSON
from muai_core.gateway.journey import Journey
from muai_core.gateway.observer import FaultKind, Observer
from muai_core.gateway.replica_pool import ReplicaConnection
from muai_core.gateway.router import SUSPICION_S, Lease, Router, Slot
from muai_core.gateway.settings import GatewaySettings
from muai_core.gateway.tracing import PARENT, STATE, engine_headers
from muai_core.gateway.usage import Usage, asks_for_usage, usage_in_events, usage_of
from muai_core.model.requests import UNTRACED

log = logging.getLogger(__name__)

#: Answers with which a dying or overloaded engine sends a request away.
_RETRIED_STATUSES = frozenset((502, 503))
#: Request headers that engines get to see as they come, while the gateway does not trace.
_FORWARDED = (PARENT, STATE)


class _Ask(Struct):
    model: str | UnsetType | None = UNSET
    stream: bool | None = False
    #: Whatever it holds, it is for the engine to judge.
    stream_options: Raw = Raw()


class _EngineError(Struct):
    error: dict[str, object]


_ask = msgspec.json.Decoder(_Ask)
_engine_error = msgspec.json.Decoder(_EngineError)


class Proxy:
    """Answers generation requests from the router's replicas."""

    def __init__(self, settings: GatewaySettings, router: Router, observer: Observer) -> None:
        self._settings = settings
        self._router = router
        self._observer = observer

    async def forward(self, journey: Journey) -> None:
        """Writes the answer to the client. Raises ApiError while nothing has been written."""
        self._read(journey)
        while True:
            lease = await self._place(journey)
            if lease is None:
                self._give_up(journey)
                return
            with lease:
                slot = lease.slot
                try:
                    answer = await self._try(journey, slot)
                except ReplicaFault as fault:
                    self._blame(slot, fault.kind)
                    self._decide(journey, slot, fault)
                    if journey.client.status:
                        return
                    continue
            if answer is None:
                journey.client.end()
                return
            if answer.status in _RETRIED_STATUSES:
                self._blame(slot, "status_5xx")
                journey.tried.add(slot.key)
                journey.fault = ReplicaFault("status_5xx", f"it answered {answer.status}")
                journey.sent_away = answer
                continue
            self._respond(journey, answer)
            return

    def _read(self, journey: Journey) -> None:
        try:
            ask = _ask.decode(journey.request.body)
        except msgspec.ValidationError as error:
            raise ApiError(400, "invalid_request", f"the body does not fit: {error}") from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from error
        name = ask.model if isinstance(ask.model, str) else None
        if not name or name not in self._router.statuses:
            raise api_error.model_not_found(name, tuple(self._router.statuses))
        journey.model = name
        journey.streamed = bool(ask.stream)
        journey.usage_asked = journey.streamed and asks_for_usage(ask.stream_options)

    async def _place(self, journey: Journey) -> Lease | None:
        """A place at a replica that has not failed this request, waited for when need be.

        None when that was in vain. Raises ApiError when there is nothing to wait for.
        """
        model = journey.model
        assert model is not None
        router = self._router
        if journey.sent > self._settings.retries:
            return None
        while (lease := router.choose(model, monotonic(), journey.tried)) is None:
            status = router.statuses.get(model)
            if status is None:
                raise api_error.model_not_found(model, tuple(router.statuses))
            if not journey.tries:
                raise api_error.model_not_ready(
                    model, status.state, status.reason, status.retry_after_s
                )
            if journey.wait_until_s is None:
                journey.wait_until_s = monotonic() + self._settings.retry_wait_s
            left_s = journey.wait_until_s - monotonic()
            if left_s <= 0:
                return None
            changed = await router.changed_within(min(left_s, SUSPICION_S))
            if not changed and left_s > SUSPICION_S:
                # Whoever is still in the table may have been busy, not dead.
                journey.tried.clear()
        return lease

    async def _try(self, journey: Journey, slot: Slot) -> Answer | None:
        """Raises ReplicaFault."""
        journey.tries += 1
        journey.slot = slot
        head = self._head(journey, slot)
        connection = slot.pool.take()
        while True:
            reused = connection is not None
            if connection is None:
                connection = await self._connect(slot)
            attempt = Attempt(
                connection,
                journey.client,
                self._settings,
                streamed=journey.streamed,
                usage_asked=journey.usage_asked,
                replica_header=slot.header,
            )
            journey.sent += 1
            if journey.first_sent_s is None:
                journey.first_sent_s = monotonic()
            connection.send(attempt, head, journey.request.body)
            try:
                answer = await attempt.outcome
                if answer is None:
                    if attempt.usage:
                        _count_tokens(journey, usage_in_events(attempt.usage))
                elif answer.status == 200:
                    _count_tokens(journey, _usage_of(answer))
                return answer
            except ReplicaFault as fault:
                if not reused or fault.kind != "reset" or connection.answered:
                    raise
                # The replica was closing the idle connection at that moment, which is no fault.
                connection = None
                journey.sent -= 1
            finally:
                attempt.close()
                journey.events = attempt.events
                if attempt.first_event_s is not None:
                    journey.first_token_s = attempt.first_event_s - journey.request.arrived_s

    def _head(self, journey: Journey, slot: Slot) -> bytes:
        request = journey.request
        if journey.trace is UNTRACED:
            forwarded = b""
            for name in _FORWARDED:
                if name in request.headers:
                    forwarded += b"%b: %b\r\n" % (name, request.headers[name])
        else:
            forwarded = engine_headers(journey.trace)
        return (
            b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nx-request-id: %b\r\n%b\r\n"
        ) % (
            request.path.encode("latin-1"),
            slot.pool.host_header,
            len(request.body),
            request.id,
            forwarded,
        )

    async def _connect(self, slot: Slot) -> ReplicaConnection:
        timeout_s = self._settings.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await slot.pool.connect()
        except TimeoutError as error:
            raise ReplicaFault(
                "connect_timeout", f"no connection within {timeout_s:g} s"
            ) from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise ApiError(
                    503,
                    "overloaded",
                    "the gateway has no file descriptor left; raise the limit (ulimit -n)",
                    kind="service_unavailable",
                    retry_after_s=1.0,
                ) from error
            raise ReplicaFault("connect", f"no connection: {error}") from error

    def _decide(self, journey: Journey, slot: Slot, fault: ReplicaFault) -> None:
        """After a fault: ends a stream that has begun, gives up, or leaves it to another try."""
        error = _timeout_error(fault, self._settings)
        client = journey.client
        if client.status:
            error = error or api_error.stream_cut(fault.detail)
            client.write(error.event())
            client.end()
            journey.error = error.code
            return
        if error is not None:
            raise error
        if fault.kind == "too_large":
            raise api_error.replica_failed(fault.detail)
        journey.tried.add(slot.key)
        journey.fault = fault
        journey.sent_away = None

    def _give_up(self, journey: Journey) -> None:
        """Every try that was allowed has failed: passes on what the last one got, or raises."""
        model = journey.model
        assert model is not None
        if journey.sent_away is not None:
            self._respond(journey, journey.sent_away)
            return
        detail = journey.fault.detail if journey.fault is not None else "unknown"
        status = self._router.statuses.get(model)
        if status is None or self._router.has_route(model):
            raise api_error.replica_failed(f"{detail} ({journey.tries} tries)")
        reason = f"{status.reason or 'no replica is ready'}; the last one tried: {detail}"
        raise api_error.model_not_ready(model, status.state, reason, status.retry_after_s)

    def _blame(self, slot: Slot, kind: FaultKind) -> None:
        slot.faults[kind] += 1
        if kind != "too_large":
            slot.suspect_until_s = monotonic() + SUSPICION_S
        try:
            self._observer.replica_faulted(*slot.key, kind)
        except Exception:
            log.exception("an observer failed")

    def _respond(self, journey: Journey, answer: Answer) -> None:
        headers = answer.replica_header
        if answer.retry_after:
            headers += b"retry-after: %b\r\n" % answer.retry_after
        body, content_type = answer.body, answer.content_type or JSON
        if answer.status >= 400 and not _has_openai_error(body):
            text = body[:300].decode("utf-8", "replace")
            error = ApiError(
                answer.status,
                "engine_error",
                f"the engine answered {answer.status}: {text}",
                kind="server_error" if answer.status >= 500 else "invalid_request_error",
            )
            body, content_type = error.body(), JSON
        journey.client.respond(answer.status, body, content_type, headers)


def _count_tokens(journey: Journey, usage: Usage) -> None:
    journey.prompt_tokens = usage.prompt_tokens
    journey.completion_tokens = usage.completion_tokens


def _usage_of(answer: Answer) -> Usage:
    """Raises ReplicaFault when a successful answer is not even JSON."""
    try:
        return usage_of(answer.body)
    except ValueError as error:
        raise ReplicaFault("garbled", f"its answer is not JSON: {error}") from error


def _timeout_error(fault: ReplicaFault, settings: GatewaySettings) -> ApiError | None:
    """What a client is told about a missed deadline; None for other faults."""
    if fault.kind in ("first_token_timeout", "inter_token_timeout", "response_timeout"):
        option = f"{fault.kind}_s"
        return api_error.timed_out(fault.detail, getattr(settings, option), option)
    return None


def _has_openai_error(body: bytes) -> bool:
    try:
        _engine_error.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True
