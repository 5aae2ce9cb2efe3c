"""What the engines say of themselves: requests and tokens, and metrics of their own, asked of every
ready replica."""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Annotated

import aiohttp
import msgspec
from msgspec import Struct

from muai_core.model.routing import Route
from muai_core.plugin.engine import ProgressMetrics
from muai_core.runtime.launches import Launches
from muai_core.telemetry.passed_on import ReplicaMetrics
from muai_core.telemetry.prometheus_text import TextFamily, parse, total

_log = logging.getLogger(__name__)
_TIMEOUT_S = 2.0
_JSON_BYTES_MAX = 64 * 1024
#: vLLM's metrics are a tenth of that.
_TEXT_BYTES_MAX = 1024 * 1024
#: Where an engine answers of which nothing else is known.
_PATH = "/progress"
_HEADERS = {"Accept": "text/plain;version=0.0.4, */*;q=0.1", "Accept-Encoding": "identity"}

#: What fits a 64-bit counter; an engine may answer anything.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class EngineProgress(Struct, frozen=True):
    """An engine's own counts. Tokens are cumulative since its start."""

    requests_running: Count
    requests_waiting: Count
    tokens_generated: Count


class _Questions(Struct, frozen=True):
    """Where to ask one replica for what; None: not at all."""

    progress_path: str | None = _PATH
    progress_metrics: ProgressMetrics | None = None
    metrics_path: str | None = None


_decode = msgspec.json.Decoder(EngineProgress).decode


class ProgressPoller:
    """Asks all ready replicas side by side, so that a slow one delays nobody else's answer."""

    def __init__(self, launches: Launches | None = None) -> None:
        #: By replica id; a replica that does not answer is missing.
        self.latest: dict[str, EngineProgress] = {}
        #: By replica id, of the engines that have metrics of their own; missing as well.
        self.metrics: dict[str, ReplicaMetrics] = {}
        self._launches = launches or Launches()
        #: Answers are bounded as they come: nothing is unpacked.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            auto_decompress=False,
            headers=_HEADERS,
        )
        self._complained: set[tuple[str, int]] = set()

    async def poll(self, routes: Iterable[Route], *, with_metrics: bool = True) -> None:
        """One round. Takes as long as the slowest answer, bounded by the time-out.

        Without `with_metrics` the engines are not asked for metrics to be passed on.
        """
        routes = tuple(routes)
        answers = await asyncio.gather(*(self._ask(route, with_metrics) for route in routes))
        latest: dict[str, EngineProgress] = {}
        metrics: dict[str, ReplicaMetrics] = {}
        for route, (progress, families) in zip(routes, answers, strict=True):
            if progress is not None:
                latest[route.replica_id] = progress
            if families is not None:
                metrics[route.replica_id] = ReplicaMetrics(route.model, route.replica_id, families)
        self.latest, self.metrics = latest, metrics
        self._complained &= {(route.replica_id, route.epoch) for route in routes}

    async def close(self) -> None:
        await self._session.close()

    async def _ask(
        self, route: Route, with_metrics: bool
    ) -> tuple[EngineProgress | None, tuple[TextFamily, ...] | None]:
        where = self._questions(route)
        texts = dict.fromkeys(
            path
            for path in (
                where.progress_path if where.progress_metrics is not None else None,
                where.metrics_path if with_metrics else None,
            )
            if path is not None
        )
        found = await asyncio.gather(*(self._families(route, path) for path in texts))
        families = dict(zip(texts, found, strict=True))
        metrics = families.get(where.metrics_path) if where.metrics_path and with_metrics else None
        if where.progress_path is None:
            return None, metrics
        if where.progress_metrics is None:
            return await self._json(route, where.progress_path), metrics
        return _counted(families[where.progress_path], where.progress_metrics), metrics

    def _questions(self, route: Route) -> _Questions:
        launch = self._launches.of(route.replica_id, route.epoch)
        if launch is None:
            return _Questions()
        return _Questions(launch.progress_path, launch.progress_metrics, launch.metrics_path)

    async def _json(self, route: Route, path: str) -> EngineProgress | None:
        body = await self._body(route, path, _JSON_BYTES_MAX)
        try:
            return None if body is None else _decode(body)
        except (ValueError, RecursionError):  # nested thousands deep
            return None

    async def _families(self, route: Route, path: str) -> tuple[TextFamily, ...] | None:
        body = await self._body(route, path, _TEXT_BYTES_MAX)
        if body is None:
            return None
        try:
            # The largest take a tenth of a second: too long for the loop.
            return await asyncio.to_thread(lambda: parse(body.decode()))
        except ValueError as error:
            if (route.replica_id, route.epoch) not in self._complained:
                self._complained.add((route.replica_id, route.epoch))
                _log.warning("the metrics of %s under %s: %s", route.replica_id, path, error)
            return None

    async def _body(self, route: Route, path: str, bytes_max: int) -> bytes | None:
        """None: no answer, not a good one, or one that is too long."""
        body = b""
        # An odd header or address is a ValueError.
        try:
            async with self._session.get(
                f"{route.endpoint}{path}", allow_redirects=False
            ) as answer:
                packed = answer.headers.get("Content-Encoding", "identity") != "identity"
                if answer.status != 200 or packed:
                    return None
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > bytes_max:
                        return None
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        return body


def _counted(
    families: tuple[TextFamily, ...] | None, series: ProgressMetrics
) -> EngineProgress | None:
    """None unless at least one of the series is there; a series without samples counts nothing."""
    if families is None:
        return None
    names = (series.requests_running, series.requests_waiting, series.tokens_generated)
    sums = [total(families, name) for name in names]
    if all(one is None for one in sums):
        return None
    counts = [one or 0.0 for one in sums]
    if not all(math.isfinite(one) and 0.0 <= one < 2.0**63 for one in counts):
        return None
    return EngineProgress(*map(int, counts))
