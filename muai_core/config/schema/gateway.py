"""`gateway`: the OpenAI-compatible door."""

from typing import Annotated

from pydantic import Field

from muai_core.config.schema.base import Seconds, Section, Words

VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
VARIABLE_WORDS = Words("the name of an environment variable")


class GatewayConfig(Section):
    """`gateway`: where clients connect, who may, and how long they wait."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    """Address to listen on. Beyond loopback, API keys are required."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    api_keys_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """File with one API key per line; lines that begin with # are skipped. Relative to the config
    file."""
    api_keys_env: Annotated[str, Field(pattern=VARIABLE_PATTERN), VARIABLE_WORDS] | None = None
    """Name of an environment variable that holds API keys, separated by commas."""
    allow_unauthenticated: bool = False
    """True lets the gateway listen beyond loopback without keys."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 10 * 1024 * 1024
    """Longest request body, in bytes; longer ones get status 413."""
    max_concurrent_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Requests being received or answered at once; one more gets status 429."""
    connect_timeout_s: Seconds = 2.0
    """Seconds to open a connection to a replica."""
    first_token_timeout_s: Seconds = 120.0
    """Seconds from sending a streamed request to a replica to its first event."""
    inter_token_timeout_s: Seconds = 60.0
    """Seconds between two events of a stream."""
    response_timeout_s: Seconds = 600.0
    """Seconds for the whole answer of a request that is not streamed."""
    client_timeout_s: Seconds = 60.0
    """Seconds for a client to send its request, or to take what it was sent."""
    retry_wait_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """Seconds that a request whose replicas all failed may wait for another to become ready."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Further replicas to try while nothing has been sent to the client."""
