"""One HTTP request on a socket and the answer to it; the connection ends with it."""

import json
import select
import socket

_LIMIT_BYTES = 4 * 1024 * 1024


class Exchange:
    """Raises OSError when the client goes away or sends no request."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(len(data))
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path = lines[0].split(" ")[:2]
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        wanted = int(headers.get("content-length", "0"))
        while len(body) < wanted:
            body += self._more(len(body))
        self.body = body

    def send(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        """A whole answer."""
        head = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        self._connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)

    def send_json(self, status: int, content: object) -> None:
        self.send(status, json.dumps(content).encode(), "application/json")

    def begin_stream(self) -> None:
        """The head of an answer that lasts until the connection ends."""
        self._connection.sendall(
            b"HTTP/1.1 200 -\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )

    def send_piece(self, data: bytes) -> None:
        self._connection.sendall(data)

    @property
    def is_alone(self) -> bool:
        """Whether the client has gone."""
        readable, _, _ = select.select([self._connection], [], [], 0)
        return bool(readable) and self._connection.recv(1, socket.MSG_PEEK) == b""

    def _more(self, so_far: int) -> bytes:
        chunk = self._connection.recv(65536)
        if not chunk or so_far > _LIMIT_BYTES:
            raise ConnectionResetError("no request came")
        return chunk
