"""What listening takes of the system: file descriptors, and a free address."""

import errno
import resource

from muai_core.gateway.settings import GatewaySettings, GatewaySettingsError, PortTakenError

#: File descriptors for everything that is not a request: logs, journal, engines' pipes.
_SPARE_FILES = 512


def raise_file_limit(max_concurrent_requests: int) -> int:
    """Asks for descriptors enough for all requests; returns how many clients may connect.

    A request takes one descriptor for its client and one for its replica.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * max_concurrent_requests + _SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    usable = wanted if soft == resource.RLIM_INFINITY else soft
    return max(_SPARE_FILES, usable - _SPARE_FILES) // 2


def listen_error(settings: GatewaySettings, error: OSError) -> GatewaySettingsError:
    """Why the gateway cannot listen, and what to do."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return PortTakenError(
            "port",
            f"{where} is taken by another process; stop that one, or choose another port with "
            f"gateway.port (0 takes any free one)",
        )
    if error.errno == errno.EACCES:
        return GatewaySettingsError(
            "port", f"no permission to listen on {where}; choose a port above 1023"
        )
    return GatewaySettingsError("host", f"cannot listen on {where}: {error}")
