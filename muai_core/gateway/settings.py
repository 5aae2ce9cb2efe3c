"""What the gateway can be told, and what it refuses to be told."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct


class GatewaySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `gateway` section of the config. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    #: 0 lets the system choose; `Gateway.port` tells which.
    port: int = 8000
    #: A file with one key per line; empty lines and lines that begin with # are skipped.
    api_keys_file: str | None = None
    #: The name of an environment variable that holds keys separated by commas.
    api_keys_env: str | None = None
    #: Allows listening beyond loopback without keys.
    allow_unauthenticated: bool = False
    max_body_bytes: int = 10 * 1024 * 1024
    #: Requests being received or answered at once; one more is told 429.
    max_concurrent_requests: int = 4096
    #: To open a connection to a replica.
    connect_timeout_s: float = 2.0
    #: From sending a streamed request to its first event.
    first_token_timeout_s: float = 120.0
    #: Between two events of a stream.
    inter_token_timeout_s: float = 60.0
    #: For the whole answer of a request that is not streamed.
    response_timeout_s: float = 600.0
    #: For a client to send its request, or to take what it was sent.
    client_timeout_s: float = 60.0
    #: Further replicas to send a request to while nothing has been sent to its client. Refused
    #: connections do not count.
    retries: int = 3
    #: How long a request whose replicas all failed may wait for another to become ready.
    retry_wait_s: float = 30.0


class GatewaySettingsError(ValueError):
    """Settings under which the gateway will not start. `option` names the one to change."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"gateway.{option}: {message}")
        self.option = option


class ExposedWithoutKeysError(GatewaySettingsError):
    """The gateway would listen beyond loopback for anyone to use."""


class PortTakenError(GatewaySettingsError):
    """Another process listens where the gateway should."""


def load_keys(settings: GatewaySettings, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The keys from the file and the environment, together.

    Raises GatewaySettingsError when a source is named but cannot be read, holds no key, or holds
    one that no `Authorization` header can carry. The message never contains a key.
    """
    keys: list[str] = []
    if settings.api_keys_file is not None:
        path = Path(settings.api_keys_file).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GatewaySettingsError(
                "api_keys_file", f"cannot read {path}: {error}; give a text file, one key per line"
            ) from error
        found = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        keys += _usable("api_keys_file", str(path), found)
    if settings.api_keys_env is not None:
        value = environ.get(settings.api_keys_env, "")
        found = [key.strip() for key in value.split(",")]
        keys += _usable("api_keys_env", f"the variable {settings.api_keys_env}", found)
    return keys


def check_exposure(settings: GatewaySettings) -> None:
    """Raises ExposedWithoutKeysError when anyone on the network could use the gateway."""
    has_keys = settings.api_keys_file is not None or settings.api_keys_env is not None
    if has_keys or settings.allow_unauthenticated or _is_loopback(settings.host):
        return
    raise ExposedWithoutKeysError(
        "host",
        f"{settings.host} is reachable from other machines and no API keys are set; "
        "set gateway.api_keys_file or gateway.api_keys_env, listen on 127.0.0.1, "
        "or set gateway.allow_unauthenticated: true",
    )


def _usable(option: str, source: str, found: list[str]) -> list[str]:
    keys = [key for key in found if key]
    if not keys:
        raise GatewaySettingsError(option, f"{source} holds no key; put in at least one")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise GatewaySettingsError(
            option, f"{source} holds a key with a space or a character that is not ASCII"
        )
    return keys


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
