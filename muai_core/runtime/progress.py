"""What the engines say they are doing: requests and tokens, asked of every ready replica."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Annotated

import aiohttp
import msgspec
from msgspec import Struct

from muai_core.model.routing import Route

_log = logging.getLogger(__name__)
_TIMEOUT_S = 2.0
_MAX_BYTES = 64 * 1024

#: What fits a 64-bit counter; an engine may answer anything.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class EngineProgress(Struct, frozen=True):
    """An engine's own counts. Tokens are cumulative since its start."""

    requests_running: Count
    requests_waiting: Count
    tokens_generated: Count


_decode = msgspec.json.Decoder(EngineProgress).decode


class ProgressPoller:
    """Asks all ready replicas side by side, so that a slow one delays nobody else's answer."""

    def __init__(self) -> None:
        #: By replica id; a replica that does not answer is missing.
        self.latest: dict[str, EngineProgress] = {}
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))

    async def poll(self, routes: Iterable[Route]) -> None:
        """One round. Takes as long as the slowest answer, bounded by the time-out."""
        routes = tuple(routes)
        answers = await asyncio.gather(*(self._ask(route) for route in routes))
        self.latest = {
            route.replica_id: answer
            for route, answer in zip(routes, answers, strict=True)
            if answer is not None
        }

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, route: Route) -> EngineProgress | None:
        # A body nested thousands deep is a RecursionError, an odd header or address a ValueError.
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, RecursionError):
            async with self._session.get(
                f"{route.endpoint}/progress", allow_redirects=False
            ) as answer:
                if answer.status == 200:
                    return _decode(await answer.content.read(_MAX_BYTES))
        return None
