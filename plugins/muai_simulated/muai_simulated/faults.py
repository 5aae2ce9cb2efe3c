"""What goes wrong in one engine process, as its options say."""

import asyncio
import logging
import os
import signal
from contextvars import ContextVar

from aiohttp import web
from aiohttp.typedefs import Handler

from muai_simulated.config import FaultOptions

_log = logging.getLogger(__name__)
_transport: ContextVar[asyncio.Transport | None] = ContextVar("transport", default=None)

#: The beginning of an event that never becomes valid JSON, and bytes that are not UTF-8.
_GARBAGE = b'data: {"choices": [{"delta": {"cont\xff\xfe\n\n'


class InjectedStartError(RuntimeError):
    """The start error that the options ask for."""


@web.middleware
async def remember_connection(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Lets faults reach the connection of the request that they hit."""
    _transport.set(request.transport)
    return await handler(request)


class Faults:
    """Counts requests and tokens of the process, and strikes when it is time."""

    def __init__(self, options: FaultOptions) -> None:
        self._options = options
        self._requests = 0
        self._tokens = 0
        self._hung = False

    @property
    def slow_start_s(self) -> float:
        return self._options.slow_start_s

    @property
    def slow_factor(self) -> float:
        return self._options.slow_factor

    def on_start(self) -> None:
        """Called when the event loop and its signal callbacks are set up."""
        if self._options.refuse_to_die:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)

    def on_loaded(self) -> None:
        """Called at the end of loading. Raises InjectedStartError."""
        if self._options.start_error is not None:
            raise InjectedStartError(self._options.start_error)

    def on_request(self) -> None:
        """Called for every request before anything is done for it."""
        self._requests += 1
        if _reached(self._requests, self._options.exit_after_requests):
            self._exit()
        if _reached(self._requests, self._options.hang_after_requests) and not self._hung:
            _log.warning("fault: no token comes any more")
            self._hung = True

    async def on_token(self, tokens_sent: int) -> bool:
        """Called before every token of a request that has been sent `tokens_sent` so far.

        Returns False when the token is not to be sent. Never returns while the engine hangs.
        Raises ConnectionResetError when the connection has been cut.
        """
        if self._hung:
            await asyncio.Event().wait()
        self._tokens += 1
        if _reached(self._tokens, self._options.exit_after_tokens):
            self._exit()
        transport = _transport.get()
        if transport is None:
            return True
        if _reached(tokens_sent + 1, self._options.cut_stream_after_tokens):
            transport.abort()
            raise ConnectionResetError("fault: the connection is cut")
        if _reached(tokens_sent + 1, self._options.garble_stream_after_tokens):
            # A chunk of its own, so that the framing holds and only the content is broken.
            transport.write(b"%x\r\n%s\r\n" % (len(_GARBAGE), _GARBAGE))
            return False
        return True

    def _exit(self) -> None:
        """End the process at once: nothing is flushed, no connection is closed in order."""
        if self._options.exit_signal is not None:
            _log.warning("fault: dying of %s", self._options.exit_signal)
            os.kill(os.getpid(), signal.Signals[self._options.exit_signal])
        _log.warning("fault: exiting with status %d", self._options.exit_status)
        os._exit(self._options.exit_status)


def _reached(count: int, limit: int | None) -> bool:
    return limit is not None and count > limit
