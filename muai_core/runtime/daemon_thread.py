"""Blocking calls that must never keep the controller from ending."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from muai_core.planning.wording import described

ResultT = TypeVar("ResultT")


async def in_daemon_thread(work: Callable[[], ResultT], name: str) -> ResultT:
    """The result of `work()`, which runs in a daemon thread; raises what it raises.

    What would end or confuse the event loop when it is raised here (KeyboardInterrupt,
    asyncio.CancelledError, StopIteration and their like) becomes a RuntimeError that names it.
    Raises RuntimeError, too, when no thread can be started.

    Cancelling abandons the thread: unlike those of `asyncio.to_thread`, it does not hold up the
    loop's shutdown or the interpreter's exit when it never returns.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[ResultT] = loop.create_future()

    def deliver(settle: Callable[[], None]) -> None:
        if not answer.done():
            settle()

    def run() -> None:
        try:
            settle = partial(answer.set_result, work())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            settle = partial(answer.set_exception, _harmless(error))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested
            loop.call_soon_threadsafe(deliver, settle)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await answer


def _harmless(error: BaseException) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    renamed = RuntimeError(described(error))
    renamed.__cause__ = error
    return renamed
