"""Where facts wait for the control plane."""

import asyncio

from muai_core.control.events import Event


class Inbox:
    """An unbounded queue that is emptied in batches. For the event loop's thread only.

    Unbounded is safe: what drivers send is bounded by their intervals and by the number of
    replicas, and nothing of the data path comes here.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._filled = asyncio.Event()

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._filled.set()

    def peek(self) -> tuple[Event, ...]:
        """Everything that waits, without taking it."""
        return tuple(self._events)

    async def take(self, timeout_s: float | None) -> list[Event]:
        """Everything that waits; an empty list when nothing came within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._filled.wait()
        except TimeoutError:
            return []
        events, self._events = self._events, []
        self._filled.clear()
        return events
