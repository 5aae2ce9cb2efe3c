"""The routing table: all that the data path knows of the control plane."""

from typing import Literal

from msgspec import Struct

ModelState = Literal["ready", "starting", "recovering", "pending", "stopped"]


class Route(Struct, frozen=True, kw_only=True):
    """One ready replica. Requests for `model` may go to `endpoint` while it is in the table."""

    model: str
    replica_id: str
    epoch: int
    #: Base URL without a trailing slash, e.g. http://127.0.0.1:40001
    endpoint: str
    engine: str


class ModelStatus(Struct, frozen=True, kw_only=True):
    """One deployment as clients may see it."""

    name: str
    desired: int
    ready: int
    state: ModelState
    #: One line for people when not every desired replica is ready.
    reason: str | None = None
    #: When it may be worth asking again, in seconds; None when unknown.
    retry_after_s: float | None = None


class RoutingTable(Struct, frozen=True):
    """Immutable; a higher version replaces a lower one whole."""

    version: int = 0
    models: tuple[ModelStatus, ...] = ()
    routes: tuple[Route, ...] = ()
