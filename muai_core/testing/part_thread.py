"""Calling a plugin's part as the controller does: in a thread of its own, and never without end."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from muai_core.planning.wording import described
from muai_core.testing.clauses import ClauseFailure, ClauseSkipped

ResultT = TypeVar("ResultT")


class Attempt(Struct, Generic[ResultT]):
    """What one call came to. `value` is only of use where `error` is None."""

    value: ResultT
    error: BaseException | None
    took_s: float


class Pending(Generic[ResultT]):
    """A call under way."""

    def __init__(self, what: str, work: Callable[[], ResultT]) -> None:
        self.what = what
        self._work = work
        self._done = threading.Event()
        self._attempt: Attempt[Any]

    def carry_out(self) -> None:
        """In the part's thread."""
        began_s = time.monotonic()
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._work()
        except BaseException as raised:  # noqa: BLE001 - a plugin may raise anything
            error = raised
        self._attempt = Attempt(value, error, time.monotonic() - began_s)
        self._done.set()

    def wait(self, patience_s: float) -> Attempt[ResultT] | None:
        """None: it has not returned by then."""
        return self._attempt if self._done.wait(patience_s) else None


class PartThread:
    """One thread that makes all calls of one part, one after the other.

    A call that does not return is left behind, and with it the thread: every later one is skipped.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Pending[Any] | None] = queue.SimpleQueue()
        #: What did not return, in words.
        self._stuck: str | None = None
        self._thread = threading.Thread(target=self._run, name="muai-conformance", daemon=True)
        self._thread.start()

    @property
    def thread(self) -> threading.Thread:
        return self._thread

    @property
    def is_stuck(self) -> bool:
        return self._stuck is not None

    def begin(self, what: str, work: Callable[[], ResultT]) -> Pending[ResultT]:
        """Calls `work` as soon as the thread is free. Raises ClauseSkipped when it never will be.

        `what` names the call in words: "observe()".
        """
        if self._stuck is not None:
            raise ClauseSkipped(f"{self._stuck} has not returned to this moment")
        pending = Pending(what, work)
        self._work.put(pending)
        return pending

    def finish(self, pending: Pending[ResultT], limit_s: float) -> Attempt[ResultT]:
        """What it came to. Raises ClauseFailure when it takes over three times `limit_s`."""
        attempt = pending.wait(3 * limit_s)
        if attempt is None:
            self._stuck = pending.what
            raise ClauseFailure(f"{pending.what} did not return within {3 * limit_s:g} s")
        return attempt

    def attempt(self, what: str, work: Callable[[], ResultT], limit_s: float) -> Attempt[ResultT]:
        """`begin` and `finish`."""
        return self.finish(self.begin(what, work), limit_s)

    def call(self, what: str, work: Callable[[], ResultT], limit_s: float) -> Attempt[ResultT]:
        """The same, and a raise is a ClauseFailure, too."""
        attempt = self.attempt(what, work, limit_s)
        if attempt.error is not None:
            raise ClauseFailure(f"{what} raises {described(attempt.error)}") from attempt.error
        return attempt

    def close(self) -> None:
        """Ends the thread, unless a call holds it."""
        self._work.put(None)
        if self._stuck is None:
            self._thread.join()

    def _run(self) -> None:
        while (pending := self._work.get()) is not None:
            pending.carry_out()


def within(attempt: Attempt[Any], what: str, limit_s: float) -> None:
    """Raises ClauseFailure when the call took longer than that."""
    if attempt.took_s > limit_s:
        raise ClauseFailure(f"{what} took {attempt.took_s:.2f} s, and may take {limit_s:g} s")
