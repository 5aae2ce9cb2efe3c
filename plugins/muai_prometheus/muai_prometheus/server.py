"""A small HTTP server for scrapes, in a thread of its own."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus

import psutil

from muai_core.plugin.metric_sink import SinkError
from muai_prometheus.connection import Answer, Connection

logger = logging.getLogger(__name__)

#: Takes the `Accept` header, returns body and content type.
Render = Callable[[str], tuple[bytes, str]]

#: Scrapers are few; more connections than this are closed unanswered.
MAX_CONNECTIONS = 32
_BACKLOG = 128


class MetricsServer:
    """Serves `render` at `path`, and nothing else. Bound once constructed."""

    def __init__(
        self, host: str, port: int, path: str, render: Render, settings: str = "sinks.prometheus."
    ) -> None:
        """Raises SinkError when it cannot listen there, with the reason and the way out.

        `settings` stands before `host` and `port` where the text names them.
        """
        self._path = path
        self._render = render
        self._broken = False
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread: threading.Thread | None = None
        try:
            self._socket = _listening(host, port)
        except OSError as error:
            self._loop.close()
            raise SinkError(_cannot_listen(host, port, settings, error)) from error
        self._address: tuple[str, int] = self._socket.getsockname()[:2]

    @property
    def url(self) -> str:
        """Where the metrics are, with the port that the system chose if it was asked to."""
        host, port = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{self._path}"

    def start(self) -> None:
        """Answer from a thread until `stop`."""
        # A daemon: nobody has to stop a server that a script forgot.
        self._thread = threading.Thread(target=self._run, name="prometheus-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread is None:
            self._loop.close()
        else:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(
            lambda: Connection(self._respond, self._admit, self._connections.discard),
            sock=self._socket,
            backlog=_BACKLOG,
        )
        await self._stopping.wait()
        server.close()
        for connection in list(self._connections):
            connection.close()
        # What is closed is told so at the loop's next turn.
        await asyncio.sleep(0)

    def _admit(self, connection: Connection) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def _respond(self, path: str, accept: str) -> Answer:
        if path != self._path:
            text = f"nothing here; the metrics are at {self._path}\n"
            return Answer(HTTPStatus.NOT_FOUND, text.encode())
        try:
            body, content_type = self._render(accept)
        except Exception:
            # Logged once until it works again: the next scrape would say the same.
            if not self._broken:
                logger.exception("cannot render the metrics")
            self._broken = True
            text = "cannot render the metrics; the controller's log says why\n"
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, text.encode())
        self._broken = False
        return Answer(HTTPStatus.OK, body, content_type)


def _listening(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)


def _cannot_listen(host: str, port: int, settings: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder, way_out = _holder(port)
        return (
            f"port {port} on {host} is in use by {holder}; "
            f"set {settings}port to a free port, or stop {way_out}"
        )
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges; set {settings}port to 1024 or above"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{host} is no address of this machine ({error.strerror}); "
            f"set {settings}host, for example to 127.0.0.1"
        )
    return (
        f"cannot listen on {host} port {port}: {error.strerror or error}; "
        f"set {settings}host and {settings}port"
    )


def _holder(port: int) -> tuple[str, str]:
    """Who listens on the port, as far as we may see it, and what to stop."""
    unknown = ("another process", "that process")
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            if connection.laddr and connection.laddr.port == port:
                name = psutil.Process(connection.pid).name()
                return f"{name} (pid {connection.pid})", name
    except psutil.Error:
        return unknown
    return unknown
