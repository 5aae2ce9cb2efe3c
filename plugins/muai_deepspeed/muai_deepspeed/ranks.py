"""How the ranks of a replica find each other, and how a rank learns that another one is lost.

Rank 0 keeps a small store at the master port. It says there where it can be reached; so does every
rank that gets hidden states. All others connect to rank 0 at once, before they load anything.
"""

import contextlib
import logging
import queue
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
from muai_torch.log_streams import end_process
from torch._C._distributed_c10d import PrefixStore, TCPStore

from muai_deepspeed.messages import Alive, Hello, Message, Peer, PeerLostError, Stop
from muai_deepspeed.place import Place

HOST = "127.0.0.1"
#: All ranks are started at the same time; on a busy machine importing torch takes its time.
MEETING_TIMEOUT = timedelta(seconds=300)
#: What says nothing for so long after it has connected is no rank.
STRANGER_TIMEOUT_S = 30.0
#: A rank says that it is alive so many times in the time in which it may be silent.
BEATS = 4
#: A rank that waits in vain cannot tell for whom; the thread that listens learns it so soon.
VERDICT_TIMEOUT_S = 5.0

_logger = logging.getLogger(__name__)
Inbox = queue.SimpleQueue[tuple[Message, torch.Tensor | None]]


def meet(place: Place, master_port: int) -> TCPStore:
    """The store of this replica. Raises RuntimeError when rank 0 is not there in time."""
    return TCPStore(
        HOST,
        master_port,
        is_master=place.rank == 0,
        timeout=MEETING_TIMEOUT,
        wait_for_workers=False,
    )


def join_group(place: Place, store: TCPStore, backend: str, timeout_s: float) -> None:
    """Makes the shards of this stage torch's default process group; nothing with one shard.

    A collective that waits longer than `timeout_s` for its peers fails.

    A stage is a world of its own: DeepSpeed assumes in several places that the tensor-parallel
    group is the world, or begins at rank 0.
    """
    if place.shards == 1:
        return
    mine = PrefixStore(f"stage-{place.stage}", store)
    wait_for_shards(place, store, "started")
    torch.distributed.init_process_group(
        backend,
        store=mine,
        rank=place.shard,
        world_size=place.shards,
        timeout=timedelta(seconds=timeout_s),
    )


def wait_for_shards(place: Place, store: TCPStore, event: str) -> None:
    """Returns when all shards of this stage are here. Not a collective: waits as long as it takes.

    A shard that dies meanwhile is noticed on the connections to rank 0.
    """
    first = place.stage * place.shards
    store.set(f"{event}/{place.rank}", "yes")
    store.wait([f"{event}/{first + n}" for n in range(place.shards)], timedelta(days=1))


class Door:
    """Where other ranks connect to this one; only those that know the secret from the store."""

    def __init__(self, place: Place, store: TCPStore) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._secret = secrets.token_hex(16)
        port = self._listener.getsockname()[1]
        store.set(f"door/{place.rank}", f"{port} {self._secret}")

    def admit(self, ranks: set[int]) -> dict[int, Peer]:
        """Waits for these ranks; strangers are turned away."""
        peers: dict[int, Peer] = {}
        while ranks - peers.keys():
            connection, _ = self._listener.accept()
            peer = Peer(connection)
            # A stranger that says nothing must not keep the ranks out.
            peer.limit_silence(STRANGER_TIMEOUT_S)
            try:
                hello, _ = peer.receive()
            except PeerLostError:
                peer.close()
                continue
            if isinstance(hello, Hello) and hello.secret == self._secret and hello.rank in ranks:
                peer.limit_silence(None)
                peers[hello.rank] = peer
            else:
                peer.close()
        self._listener.close()
        return peers


def visit(place: Place, store: TCPStore, rank: int) -> Peer:
    """Connects to another rank's door, once it has one."""
    key = f"door/{rank}"
    store.wait([key], MEETING_TIMEOUT)
    port, secret = store.get(key).decode().split()
    peer = Peer(socket.create_connection((HOST, int(port))))
    peer.send(Hello(place.rank, secret))
    return peer


@contextlib.contextmanager
def collective(shards: int) -> Iterator[None]:
    """Around what computes with other shards: losing one of them becomes a `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if shards == 1 or not ("gloo" in words or isinstance(error, torch.distributed.DistError)):
            raise
        raise PeerLostError(" ".join(words.split())) from error


@contextlib.contextmanager
def verdict_first() -> Iterator[None]:
    """Holds back a `PeerLostError`, so that the thread that listens can end the process before.

    It knows which rank was lost, or that the replica is stopping.
    """
    try:
        yield
    except PeerLostError:
        time.sleep(VERDICT_TIMEOUT_S)
        raise


def listen(
    peer: Peer, name: str, timeout_s: float, stopping: threading.Event | None = None
) -> Inbox:
    """Reads all that a peer says into a queue, and says that this rank is alive; in two threads.

    When the peer is lost, or silent for `timeout_s`, the process ends with status 1, because no
    pass can be finished without it (unless `stopping` is set); when it says `Stop`, with status 0.
    """
    inbox: Inbox = queue.SimpleQueue()
    peer.limit_silence(timeout_s)

    def beat() -> None:
        with contextlib.suppress(PeerLostError):  # the other thread learns it, too
            while True:
                peer.send(Alive())
                time.sleep(timeout_s / BEATS)

    def read() -> None:
        while True:
            try:
                message, values = peer.receive()
            except PeerLostError as error:
                if stopping is not None and stopping.is_set():
                    return
                _logger.error("muai_deepspeed: lost %s: %s", name, error)
                end_process(1)
                return
            if isinstance(message, Stop):
                end_process(0)
            if not isinstance(message, Alive):
                inbox.put((message, values))

    threading.Thread(target=read, name=f"listen to {name}", daemon=True).start()
    threading.Thread(target=beat, name=f"beats for {name}", daemon=True).start()
    return inbox


def receive_values(peer: Peer, name: str) -> Inbox:
    """As `listen`, for hidden states: losing the peer is rank 0's to tell, which loses it, too."""
    inbox: Inbox = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                inbox.put(peer.receive())
            except PeerLostError:
                return

    threading.Thread(target=read, name=f"hidden states of {name}", daemon=True).start()
    return inbox
