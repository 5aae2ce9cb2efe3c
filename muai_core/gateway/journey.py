"""What is known of one request while it is on its way, and in the end."""

from muai_core.gateway.attempt import Answer, ReplicaFault
from muai_core.gateway.client_connection import ClientConnection
from muai_core.gateway.client_request import Request
from muai_core.gateway.observer import FinishedRequest, Outcome
from muai_core.gateway.router import ReplicaKey

#: What is counted for a client that left before it was answered.
_CLIENT_LEFT = 499


class Journey:
    """One request on its way: what is known of it so far."""

    __slots__ = (
        "cancelled",
        "client",
        "completion_tokens",
        "cut",
        "events",
        "fault",
        "first_token_s",
        "model",
        "prompt_tokens",
        "refused",
        "replica_id",
        "request",
        "sent",
        "sent_away",
        "streamed",
        "tried",
        "tries",
        "wait_until_s",
    )

    def __init__(self, request: Request, client: ClientConnection) -> None:
        self.request = request
        self.client = client
        self.model: str | None = None
        self.streamed = False
        self.replica_id: str | None = None
        self.tries = 0
        #: Tries in which the replica got the request. Only these are limited: a request that kills
        #: whoever reads it must not kill everyone, but a refused connection proves nothing.
        self.sent = 0
        self.tried: set[ReplicaKey] = set()
        #: Why the last try failed, and the answer it got if it got one.
        self.fault: ReplicaFault | None = None
        self.sent_away: Answer | None = None
        #: Until when to wait for a ready replica; set when the last known one failed.
        self.wait_until_s: float | None = None
        self.first_token_s: float | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.events = 0
        self.refused = False
        #: A fault ended the stream after it had begun.
        self.cut = False
        self.cancelled = False

    def finished(self, now_s: float) -> FinishedRequest:
        """The record for the observer."""
        outcome: Outcome = "ok"
        if self.cancelled:
            outcome = "cancelled"
        elif self.refused and not self.tries:
            outcome = "refused"
        elif self.refused or self.cut or self.client.status >= 500:
            outcome = "failed"
        return FinishedRequest(
            model=self.model,
            replica_id=self.replica_id,
            status=self.client.status or _CLIENT_LEFT,
            outcome=outcome,
            streamed=self.streamed,
            duration_s=now_s - self.request.arrived_s,
            first_token_s=self.first_token_s,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            events=self.events,
            retries=max(0, self.tries - 1),
        )
