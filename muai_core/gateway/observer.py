"""What the gateway tells whoever watches it."""

from typing import Literal, Protocol

from msgspec import Struct

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

#: "refused" never reached a replica; "cancelled" means that the client left.
Outcome = Literal["ok", "refused", "failed", "cancelled"]


class FinishedRequest(Struct, frozen=True):
    """One request, told once, when nothing more will be sent to its client."""

    #: None when the request was refused before its model was known.
    model: str | None
    #: The replica that answered last; None when none was asked.
    replica_id: str | None
    #: The status sent; 499 when the client left before one was sent.
    status: int
    outcome: Outcome
    streamed: bool
    duration_s: float
    #: From the arrival of the request to the first event of its stream.
    first_token_s: float | None
    #: From the engine's `usage`, when the answer has one and is not streamed.
    prompt_tokens: int | None
    completion_tokens: int | None
    #: Events sent to the client in a stream; about one per token.
    events: int
    #: Tries beyond the first.
    retries: int


class Observer(Protocol):
    """Called on the event loop for every request: must not block. What it raises is logged
    and changes nothing for the client."""

    def request_finished(self, request: FinishedRequest) -> None:
        """After the last byte was handed to the client's connection, or the client left."""

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        """For every try that failed through the replica's fault, retried or not."""


class NullObserver:
    """Watches nothing."""

    def request_finished(self, request: FinishedRequest) -> None:
        """Does nothing."""

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        """Does nothing."""
