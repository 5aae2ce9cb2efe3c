"""Free loopback ports for engines."""

import random
import socket
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"
_EPHEMERAL_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 20_000
_HIGHEST_PORT = 65_535
_TRIES = 200


class NoFreePort(Exception):
    """No loopback port could be found; the text says where was looked."""


class PortAllocator:
    """Hands out loopback ports that nothing listens on, and none twice within `hold_s`.

    An engine binds its port seconds or minutes after it was chosen. Until then a port in the
    kernel's ephemeral range can be taken by any outgoing connection, and the gateway opens many;
    so ports outside that range are preferred.
    """

    def __init__(self, hold_s: float = 600.0) -> None:
        self._hold_s = hold_s
        self._handed_out_at: dict[int, float] = {}

    def free_port(self) -> int:
        """Raises NoFreePort."""
        now = time.monotonic()
        self._handed_out_at = {
            port: at for port, at in self._handed_out_at.items() if now - at < self._hold_s
        }
        candidates = _ports_outside_ephemeral_range()
        for _ in range(_TRIES):
            port = random.choice(candidates) if candidates else 0
            chosen = None if port in self._handed_out_at else _bindable(port)
            if chosen is not None and chosen not in self._handed_out_at:
                self._handed_out_at[chosen] = now
                return chosen
        raise NoFreePort(f"no free port on {LOOPBACK} in {_TRIES} tries; see `ss -tln`")


def _bindable(port: int) -> int | None:
    """The port (a free one for 0) when it can be bound, else None.

    Without SO_REUSEADDR on purpose: a port with connections in TIME_WAIT is left alone, because
    not every engine sets that option.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return None
        number: int = probe.getsockname()[1]
        return number


def _ports_outside_ephemeral_range() -> range:
    """The longer stretch of ports from 20000 up that the kernel does not use by itself."""
    try:
        low, high = map(int, _EPHEMERAL_RANGE_FILE.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return range(0)
    below = range(_LOWEST_PORT, low)
    above = range(max(high + 1, _LOWEST_PORT), _HIGHEST_PORT + 1)
    return max(below, above, key=len)
