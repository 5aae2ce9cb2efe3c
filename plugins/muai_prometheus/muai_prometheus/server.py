"""A small HTTP server for scrapes, in threads of its own."""

import errno
import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

import psutil

from muai_core.plugin.metric_sink import SinkError

logger = logging.getLogger(__name__)

#: Takes the `Accept` header, returns body and content type.
Render = Callable[[str], tuple[bytes, str]]

#: Scrapers are few; more connections than this are closed unanswered instead of piling up threads.
MAX_CONNECTIONS = 32
#: A connection that is silent this long is closed.
IDLE_TIMEOUT_S = 30.0
_POLL_S = 0.2


class MetricsServer(ThreadingHTTPServer):
    """Serves `render` at `path`, and nothing else. Bound once constructed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, path: str, render: Render, settings: str = "sinks.prometheus."
    ) -> None:
        """Raises SinkError when it cannot listen there, with the reason and the way out.

        `settings` stands before `host` and `port` where the text names them.
        """
        self.path = path
        self._render = render
        self._broken = False
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._thread: threading.Thread | None = None
        try:
            family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.address_family = family
            super().__init__((str(address[0]), port), ScrapeHandler)
        except OSError as error:
            raise SinkError(_cannot_listen(host, port, settings, error)) from error

    @property
    def url(self) -> str:
        """Where the metrics are, with the port that the system chose if it was asked to."""
        host, port = str(self.server_address[0]), int(self.server_address[1])
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{self.path}"

    def start(self) -> None:
        """Answer from a thread until `stop`."""
        self._thread = threading.Thread(
            target=self.serve_forever, args=(_POLL_S,), name="prometheus-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
        self.server_close()

    def metrics(self, accept: str) -> tuple[bytes, str] | None:
        """Body and content type; None when rendering failed, logged once until it works."""
        try:
            rendered = self._render(accept)
        except Exception:
            if not self._broken:
                logger.exception("cannot render the metrics")
            self._broken = True
            return None
        self._broken = False
        return rendered

    def server_bind(self) -> None:
        # HTTPServer's own looks up the host's full name here, which blocks when DNS does.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("scrape from %s broke off", client_address, exc_info=True)


class ScrapeHandler(BaseHTTPRequestHandler):
    """One connection of a scraper."""

    protocol_version = "HTTP/1.1"
    server_version = "muai"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    # Head and body leave together: apart, the second may wait for the scraper's delayed ACK.
    wbufsize = 2**16
    disable_nagle_algorithm = True
    server: MetricsServer

    def do_GET(self) -> None:
        if urlsplit(self.path).path != self.server.path:
            text = f"nothing here; the metrics are at {self.server.path}\n"
            self._answer(HTTPStatus.NOT_FOUND, text.encode(), "text/plain; charset=utf-8")
            return
        rendered = self.server.metrics(self.headers.get("Accept", ""))
        if rendered is None:
            text = "cannot render the metrics; the controller's log says why\n"
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self._answer(status, text.encode(), "text/plain; charset=utf-8")
            return
        self._answer(HTTPStatus.OK, *rendered)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


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
