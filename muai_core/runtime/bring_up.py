"""From a spawned process to a serving replica, in three stages with a deadline each.

    spawn   until the program runs and listens on its port
    load    until its readiness path answers 200
    ready   until its list of models has the model's name: only then does it truly serve

An engine that listens only after loading (`listens_while_loading` is false) leaves `spawn` as soon
as its program runs.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct

from muai_core.plugin.engine import LaunchSpec
from muai_core.runtime.probe import Answer, Prober
from muai_core.runtime.process import ReplicaProcess
from muai_core.runtime.spawning import SpawnError

SPAWN, LOAD, READY = "spawn", "load", "ready"
_FIRST_POLL_S = 0.05
_LAST_POLL_S = 0.5
_POLL_GROWTH = 1.3
#: An engine's news about itself is passed on at most this often: it is journalled and shown.
_NEWS_EVERY_S = 0.5
#: A deadline noticed so much too late says more about the controller than about the engine.
_LATE_S = 1.0


class StageDeadlines(Struct, frozen=True, kw_only=True):
    """How long each stage of a start may take, in seconds."""

    spawn_s: float = 60.0
    load_s: float = 600.0
    ready_s: float = 60.0


class StartError(Exception):
    """A start failed; the text is the cause in one line: which stage, what was waited for."""


#: Told the stage, and what the engine says about it, whenever either changes.
Report = Callable[[str, str | None], None]


async def bring_up(
    process: ReplicaProcess,
    launch: LaunchSpec,
    deadlines: StageDeadlines,
    prober: Prober,
    report: Report,
) -> None:
    """Returns when the replica serves. Raises StartError when it ends or misses a deadline.

    It kills nothing: that is its caller's to do. Cancel it at any time.
    """
    started_at = asyncio.get_running_loop().time()
    stage = SPAWN

    def note(name: str, detail: str | None) -> None:
        nonlocal stage
        stage = name
        report(name, detail)

    stages = asyncio.ensure_future(_pass_stages(process, launch, deadlines, prober, note))
    ended = asyncio.ensure_future(process.wait_exit())
    try:
        await asyncio.wait({stages, ended}, return_when=asyncio.FIRST_COMPLETED)
        if process.exit is not None:
            await process.executed()  # a program that could not be run says why
            took_s = asyncio.get_running_loop().time() - started_at
            raise StartError(f"{process.exit_words} in stage {stage}, after {took_s:.1f} s")
        stages.result()
    except SpawnError as error:
        raise StartError(str(error)) from error
    finally:
        stages.cancel()
        ended.cancel()
        await asyncio.gather(stages, ended, return_exceptions=True)


async def _pass_stages(
    process: ReplicaProcess,
    launch: LaunchSpec,
    deadlines: StageDeadlines,
    prober: Prober,
    report: Report,
) -> None:
    host, port = launch.host, launch.port

    async def listens() -> Answer:
        await process.executed()
        if not launch.listens_while_loading:
            return Answer(True, "the program runs")
        return await prober.listens(host, port)

    async def is_healthy() -> Answer:
        return await prober.is_healthy(host, port, launch.readiness_path)

    async def serves() -> Answer:
        return await prober.serves(host, port, launch.served_model_name)

    await _pass_stage(SPAWN, deadlines.spawn_s, listens, report)
    await _pass_stage(LOAD, deadlines.load_s, is_healthy, report)
    await _pass_stage(READY, deadlines.ready_s, serves, report)


async def _pass_stage(
    name: str, deadline_s: float, ask: Callable[[], Awaitable[Answer]], report: Report
) -> None:
    report(name, None)
    loop = asyncio.get_running_loop()
    detail = None
    next_news_at = began_at = loop.time()
    words = "the program does not run yet" if name == SPAWN else "no answer yet"
    poll_s = _FIRST_POLL_S
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                answer = await ask()
                words = answer.words
                if answer.fulfilled:
                    return
                if answer.detail not in (None, detail) and loop.time() >= next_news_at:
                    detail = answer.detail
                    report(name, detail)
                    next_news_at = loop.time() + _NEWS_EVERY_S
                await asyncio.sleep(poll_s)
                poll_s = min(poll_s * _POLL_GROWTH, _LAST_POLL_S)
    except TimeoutError:
        # Late ourselves (stopped, suspended): the engine has not been asked in time.
        late_s = loop.time() - began_at - deadline_s
        if late_s > _LATE_S and (await ask()).fulfilled:
            return
        raise StartError(f"stage {name} took longer than {deadline_s:g} s: {words}") from None
