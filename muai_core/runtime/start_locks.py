"""Who may load on which device: engines that measure free memory must not load side by side."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence


class StartLocks:
    """One lock per device. Used on the event loop."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(
        self, devices: Sequence[str], waits: Callable[[str], None]
    ) -> tuple[asyncio.Lock, ...]:
        """Waits for the locks of all devices; the caller releases them. Cancel it at any time.

        They are taken in one order, so that two replicas cannot wait for each other. `waits` is
        told of a device that another one loads on.
        """
        taken: list[asyncio.Lock] = []
        try:
            for uuid in sorted(set(devices)):
                lock = self._locks[uuid]
                if lock.locked():
                    waits(uuid)
                await lock.acquire()
                taken.append(lock)
        except asyncio.CancelledError:
            for lock in taken:
                lock.release()
            raise
        return tuple(taken)
