"""Runs a text generator behind the HTTP routes until it ends or the process is told to stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from muai_core.engine_server.app import create_app
from muai_core.engine_server.protocol import TextGenerator

STOP_GRACE_S = 5.0

_logger = logging.getLogger(__name__)


def serve(
    generator: TextGenerator,
    model_name: str,
    *,
    host: str = "127.0.0.1",
    port: int,
    stop_grace_s: float = STOP_GRACE_S,
    middlewares: Sequence[Middleware] = (),
) -> int:
    """Serves until SIGTERM or SIGINT (returns 0) or until the generator ends (returns 1).

    On the first signal the port closes and running requests get `stop_grace_s` seconds; a second
    signal ends them at once. Raises OSError when the port cannot be bound.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    app = create_app(generator, model_name, middlewares)
    return _run(_serve(generator, app, model_name, host, port, stop_grace_s))


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(
    generator: TextGenerator,
    app: web.Application,
    model_name: str,
    host: str,
    port: int,
    stop_grace_s: float,
) -> int:
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=stop_grace_s, access_log=None
    )
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    _logger.info("listening on http://%s:%d, model %s", host, port, model_name)
    life = asyncio.create_task(generator.run(), name="generator")
    await _first_of(asyncio.wait({life}), stop.wait())
    failed = life.done()
    if failed:
        _logger.error("the generator ended", exc_info=life.exception())
    else:
        _logger.info("stopping: running requests get %.1f s", stop_grace_s)
    await _first_of(runner.cleanup(), hurry.wait())
    life.cancel()
    await asyncio.wait({life})
    return 1 if failed else 0


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Returns when the first of them is done; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
