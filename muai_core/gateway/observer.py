"""What the gateway tells whoever watches it."""

from typing import Literal, Protocol

from muai_core.model.requests import RequestRecord

#: Why a replica is to blame for a failed try. Clients that leave or are slow appear nowhere here.
FaultKind = Literal[
    "connect",
    "connect_timeout",
    "reset",
    "first_token_timeout",
    "inter_token_timeout",
    "response_timeout",
    "garbled",
    "too_large",
    "status_5xx",
]


class Observer(Protocol):
    """Called on the event loop for every request: must not block. What it raises is logged
    and changes nothing for the client."""

    def request_finished(self, request: RequestRecord) -> None:
        """After the last byte was handed to the client's connection, or the client left."""

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        """For every try that failed through the replica's fault, retried or not."""


class NullObserver:
    """Watches nothing."""

    def request_finished(self, request: RequestRecord) -> None:
        """Does nothing."""

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        """Does nothing."""
