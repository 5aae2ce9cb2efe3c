"""What ranks say to each other, and how it goes over a socket.

Rank 0 tells all others what to do, in one order; nobody polls and nothing times out while there is
nothing to do. A rank that ends closes its sockets, and the others learn it at once.
"""

import socket
import struct
import threading
from typing import Any

import msgspec
import torch
from msgspec import Struct
from muai_torch.passes import Pass

_LENGTHS = struct.Struct("<IQ")
_TIMEVAL = struct.Struct("@ll")  # of SO_RCVTIMEO, socket(7)
HEADER_BYTES_MAX = 2**26


class Hello(Struct, frozen=True, tag=True):
    """First words on a connection: who it is from, and that it was told where to connect."""

    rank: int
    secret: str


class Ready(Struct, frozen=True, tag=True):
    """To rank 0: the weights are loaded; what is held, in bytes by term."""

    held_bytes: dict[str, int]


class Open(Struct, frozen=True, tag=True):
    """Start with a fresh, empty cache."""


class Resize(Struct, frozen=True, tag=True):
    rows: int
    tokens: int
    used_rows: int
    used_tokens: int


class MoveRow(Struct, frozen=True, tag=True):
    source: int
    target: int
    tokens: int


class Forward(Struct, frozen=True, tag=True):
    step: Pass


class Measure(Struct, frozen=True, tag=True):
    """Answer with what one token takes in the cache."""


class Measured(Struct, frozen=True, tag=True):
    bytes_per_token: int


class Alive(Struct, frozen=True, tag=True):
    """Said every few seconds by both sides, also while they compute: a stopped process does not."""


class Stop(Struct, frozen=True, tag=True):
    """The replica is stopping: end with status 0."""


class Values(Struct, frozen=True, tag=True):
    """Hidden states or logits; the numbers follow."""

    shape: list[int]
    dtype: str


Message = (
    Hello | Ready | Open | Resize | MoveRow | Forward | Measure | Measured | Alive | Stop | Values
)
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()


class PeerLostError(Exception):
    """The other rank is gone or silent, or says what no rank says."""


class Peer:
    """A connection to another rank. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._sending = threading.Lock()
        self._patience_s: float | None = None

    def limit_silence(self, patience_s: float | None) -> None:
        """From now on `receive` raises when nothing comes for so long. None: it waits on.

        The kernel counts from the last byte; a process that was itself stopped begins anew.
        """
        self._patience_s = patience_s
        seconds, fraction = divmod(patience_s or 0.0, 1)
        limit = _TIMEVAL.pack(int(seconds), int(fraction * 1e6))
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def send(self, message: Message, values: torch.Tensor | None = None) -> None:
        """Blocks while the other side is behind. Raises `PeerLostError`."""
        header = _encoder.encode(message)
        body: Any = b"" if values is None else _bytes_of(values)
        with self._sending:
            try:
                self._connection.sendall(_LENGTHS.pack(len(header), len(body)) + header)
                if len(body):
                    self._connection.sendall(body)
            except OSError as error:
                raise PeerLostError(str(error)) from error

    def send_values(self, values: torch.Tensor) -> None:
        """Sends hidden states or logits. Raises `PeerLostError`."""
        name = str(values.dtype).removeprefix("torch.")
        self.send(Values(list(values.shape), name), values)

    def receive(self) -> tuple[Message, torch.Tensor | None]:
        """Waits for the next message, as long as `limit_silence` allows. Raises `PeerLostError`."""
        header_bytes, body_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if header_bytes > HEADER_BYTES_MAX:
            raise PeerLostError(f"announced a message of {header_bytes} bytes")
        try:
            message = _decoder.decode(self._read(header_bytes))
        except msgspec.DecodeError as error:
            raise PeerLostError(f"said something that is no message: {error}") from error
        body = self._read(body_bytes)
        if not isinstance(message, Values):
            return message, None
        dtype: torch.dtype = getattr(torch, message.dtype)
        if not body:
            return message, torch.empty(message.shape, dtype=dtype)
        return message, torch.frombuffer(body, dtype=dtype).reshape(message.shape)

    def close(self) -> None:
        self._connection.close()

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            try:
                got = self._connection.recv_into(view)
            except BlockingIOError:
                raise PeerLostError(f"silent for {self._patience_s:g} s") from None
            except OSError as error:
                raise PeerLostError(str(error)) from error
            if not got:
                raise PeerLostError("it closed the connection")
            view = view[got:]
        return buffer


def _bytes_of(values: torch.Tensor) -> memoryview:
    flat = values.detach().contiguous().cpu().reshape(-1)
    view: Any = flat.view(torch.uint8).numpy()
    return memoryview(view)
