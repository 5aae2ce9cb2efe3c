"""Which replica gets the next request, and how many each has now."""

import asyncio
from collections import Counter
from collections.abc import Container
from typing import Self
from urllib.parse import urlsplit

from msgspec import Struct

from muai_core.gateway.observer import FaultKind
from muai_core.gateway.replica_pool import ReplicaPool
from muai_core.model.routing import ModelStatus, Route, RoutingTable

ReplicaKey = tuple[str, int]

#: For how long a replica that just refused or dropped a connection is asked last. The control
#: plane takes a dead one out of the table well before; this only bridges the gap.
SUSPICION_S = 1.0


class ReplicaLoad(Struct, frozen=True):
    """What the gateway knows of one replica epoch."""

    replica_id: str
    epoch: int
    #: Requests in flight.
    outstanding: int
    #: Failed tries by kind, since the replica entered the table.
    faults: dict[FaultKind, int]
    #: False while it only finishes what it has.
    routed: bool


class Slot:
    """One replica epoch: its requests in flight and its connections."""

    __slots__ = (
        "faults",
        "header",
        "key",
        "outstanding",
        "pool",
        "route",
        "routed",
        "suspect_until_s",
        "waiters",
    )

    def __init__(self, route: Route) -> None:
        self.key: ReplicaKey = (route.replica_id, route.epoch)
        self.route = route
        self.header = b"x-muai-replica: " + route.replica_id.encode("latin-1", "replace") + b"\r\n"
        self.outstanding = 0
        self.faults: Counter[FaultKind] = Counter()
        self.routed = True
        self.suspect_until_s = 0.0
        self.waiters: list[asyncio.Future[None]] = []
        address = urlsplit(route.endpoint)
        if address.scheme != "http" or address.hostname is None:
            raise ValueError(
                f"route of {route.replica_id}: endpoint {route.endpoint!r} must be http://HOST:PORT"
            )
        self.pool = ReplicaPool(address.hostname, address.port or 80, address.netloc)


class Lease:
    """One request's place at a replica. Counted from creation to the first `release`."""

    __slots__ = ("_released", "_router", "slot")

    def __init__(self, router: "Router", slot: Slot) -> None:
        self._router = router
        self._released = False
        self.slot = slot
        slot.outstanding += 1

    def release(self) -> None:
        """Gives the place back; safe to call again."""
        if self._released:
            return
        self._released = True
        self.slot.outstanding -= 1
        if self.slot.outstanding == 0 and not self.slot.routed:
            self._router.retire(self.slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class Router:
    """The published table with the gateway's own counts beside it."""

    def __init__(self) -> None:
        self.table = RoutingTable()
        self.statuses: dict[str, ModelStatus] = {}
        self._slots: dict[ReplicaKey, Slot] = {}
        self._draining: dict[ReplicaKey, Slot] = {}
        self._by_model: dict[str, list[Slot]] = {}
        self._turn = 0
        self._changed: list[asyncio.Future[None]] = []

    def publish(self, table: RoutingTable) -> None:
        """Swaps in `table` whole. A table older than the present one is ignored.

        Raises ValueError, and keeps the present table, when an endpoint is not an http URL.
        """
        if table.version < self.table.version:
            return
        by_model: dict[str, list[Slot]] = {status.name: [] for status in table.models}
        slots: dict[ReplicaKey, Slot] = {}
        for route in table.routes:
            key = (route.replica_id, route.epoch)
            slot = slots.get(key) or self._find(key) or Slot(route)
            slots[key] = slot
            by_model.setdefault(route.model, []).append(slot)
        before, self._slots = self._slots, slots
        self._by_model = by_model
        self.statuses = {status.name: status for status in table.models}
        self.table = table
        for slot in slots.values():
            slot.routed = True
            self._draining.pop(slot.key, None)
        for key, slot in before.items():
            if key not in slots:
                slot.routed = False
                self._draining[key] = slot
                if slot.outstanding == 0:
                    self.retire(slot)
        waiting, self._changed = self._changed, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def choose(self, model: str, now: float, tried: Container[ReplicaKey] = ()) -> Lease | None:
        """A place at the ready replica of `model` with the fewest requests outstanding.

        Ties go around in turn; replicas under suspicion come last, those in `tried` never.
        """
        slots = self._by_model.get(model)
        if not slots:
            return None
        count = len(slots)
        self._turn += 1
        best: Slot | None = None
        best_load = (True, 0)
        for offset in range(count):
            slot = slots[(self._turn + offset) % count]
            if slot.key in tried:
                continue
            load = (slot.suspect_until_s > now, slot.outstanding)
            if best is None or load < best_load:
                best, best_load = slot, load
        return None if best is None else Lease(self, best)

    def has_route(self, model: str) -> bool:
        """True while some replica of `model` is ready."""
        return bool(self._by_model.get(model))

    async def changed_within(self, timeout_s: float) -> bool:
        """True after the next `publish`, False when there is none in time."""
        waiter = asyncio.get_running_loop().create_future()
        self._changed.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            if waiter in self._changed:
                self._changed.remove(waiter)
        return True

    async def drained(self, replica_id: str, epoch: int) -> None:
        """Returns once the replica is out of the table and has no request outstanding."""
        slot = self._find((replica_id, epoch))
        if slot is None:
            return
        waiter = asyncio.get_running_loop().create_future()
        slot.waiters.append(waiter)
        await waiter

    def retire(self, slot: Slot) -> None:
        """Forgets a replica that is out of the table and has no request outstanding."""
        del self._draining[slot.key]
        slot.pool.close()
        for waiter in slot.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _find(self, key: ReplicaKey) -> Slot | None:
        return self._slots.get(key) or self._draining.get(key)

    def loads(self) -> list[ReplicaLoad]:
        """Every replica that is in the table or still has requests."""
        slots = [*self._slots.values(), *self._draining.values()]
        return [
            ReplicaLoad(*slot.key, slot.outstanding, dict(slot.faults), slot.routed)
            for slot in slots
        ]

    def close(self) -> None:
        """Closes every connection to replicas."""
        for slot in [*self._slots.values(), *self._draining.values()]:
            slot.pool.close()
