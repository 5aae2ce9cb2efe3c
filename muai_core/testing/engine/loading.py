"""Looks at a replica that loads: what it answers before it is ready."""

import asyncio

from muai_core.testing.clauses import ClauseFailure
from muai_core.testing.engine.bench import Bench, Replica
from muai_core.testing.engine.client import Client
from muai_core.testing.engine.outcomes import Limits, LoadingLook

_LOOK_EVERY_S = 0.1


async def ready_and_watched(
    bench: Bench, replica: Replica, limits: Limits, looks: list[LoadingLook] | None
) -> None:
    """Until the replica is ready; what is seen meanwhile is added to `looks`.

    Raises ClauseFailure.
    """
    ready = asyncio.ensure_future(bench.ready(replica, limits.start_s))
    try:
        while looks is not None and not ready.done():
            await asyncio.wait({ready}, timeout=_LOOK_EVERY_S)
            if not ready.done() and replica.launch is not None:
                looks.append(await _look(replica, limits))
        await ready
    finally:
        ready.cancel()


async def _look(replica: Replica, limits: Limits) -> LoadingLook:
    assert replica.launch is not None
    async with Client(replica.launch, timeout_s=limits.answer_s) as client:
        models = await client.models()
        try:
            status = (await client.get(replica.launch.readiness_path)).status
        except ClauseFailure:
            status = None  # It does not listen yet, or not any more: the start will tell.
    return LoadingLook(tuple(models or ()), status)
