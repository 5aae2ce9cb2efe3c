"""A request as received, and what its connection needs of the gateway."""

from typing import TYPE_CHECKING, Protocol

from muai_core.gateway.api_error import ApiError

if TYPE_CHECKING:
    from muai_core.gateway.client_connection import ClientConnection


class Request:
    """One request as received. Header names are lower case; of repeated ones the last counts,
    save for those of a trace."""

    __slots__ = (
        "admitted",
        "arrived_s",
        "body",
        "chunks",
        "headers",
        "id",
        "keep_alive",
        "method",
        "path",
        "refusal",
        "size",
        "url",
        "version",
    )

    def __init__(self, arrived_s: float) -> None:
        self.arrived_s = arrived_s
        self.method = ""
        self.url = b""
        self.path = ""
        self.version = "1.1"
        self.headers: dict[bytes, bytes] = {}
        self.chunks: list[bytes] = []
        self.size = 0
        self.body = b""
        self.id = b""
        self.keep_alive = True
        #: Set when the answer is known before the request is complete.
        self.refusal: ApiError | None = None
        #: True while it counts against `max_concurrent_requests`.
        self.admitted = False


class Site(Protocol):
    """What connections need of the gateway."""

    max_body_bytes: int
    client_timeout_s: float
    #: The present `Date` header, renewed every second.
    date: bytes
    #: True while the gateway drains: answer, then close.
    closing: bool

    def opened(self, connection: "ClientConnection") -> None:
        """A client connected. Raises ApiError to send it away."""

    def closed(self, connection: "ClientConnection") -> None:
        """It is gone."""

    def admit(self, request: Request) -> None:
        """The headers are complete. Raises ApiError to refuse."""

    def leave(self, request: Request) -> None:
        """An admitted request is over, one way or another."""

    async def serve(self, request: Request, client: "ClientConnection") -> None:
        """Answers. Cancelled when the client leaves, or when draining is over; raises nothing
        else."""
