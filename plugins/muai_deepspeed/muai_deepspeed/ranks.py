"""How the ranks of a replica find each other, and how a rank learns that another one is gone.

Rank 0 keeps a small store at the master port. It says there where it can be reached; so does every
rank that gets hidden states. All others connect to rank 0 at once, before they load anything.
"""

import logging
import os
import queue
import secrets
import socket
import sys
import threading
from datetime import timedelta

import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from muai_deepspeed.messages import Hello, Message, Peer, PeerLostError, Stop
from muai_deepspeed.place import Place

HOST = "127.0.0.1"
#: All ranks are started at the same time; on a busy machine importing torch takes its time.
MEETING_TIMEOUT = timedelta(seconds=300)
#: A collective that waits longer for its peers has lost one.
COLLECTIVE_TIMEOUT = timedelta(seconds=30)

_logger = logging.getLogger(__name__)
Inbox = queue.SimpleQueue[tuple[Message, torch.Tensor | None]]


def end_now(status: int) -> None:
    """Ends the process at once, whatever its other threads compute or wait for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def meet(place: Place, master_port: int) -> TCPStore:
    """The store of this replica. Raises RuntimeError when rank 0 is not there in time."""
    return TCPStore(
        HOST,
        master_port,
        is_master=place.rank == 0,
        timeout=MEETING_TIMEOUT,
        wait_for_workers=False,
    )


def join_group(place: Place, store: TCPStore, backend: str) -> None:
    """Makes the shards of this stage torch's default process group; nothing with one shard.

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
        timeout=COLLECTIVE_TIMEOUT,
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
            # A stranger that says nothing must not keep the ranks out.
            connection.settimeout(COLLECTIVE_TIMEOUT.total_seconds())
            peer = Peer(connection)
            try:
                hello, _ = peer.receive()
            except PeerLostError:
                peer.close()
                continue
            if isinstance(hello, Hello) and hello.secret == self._secret and hello.rank in ranks:
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


def listen(peer: Peer, name: str, stopping: threading.Event | None = None) -> Inbox:
    """Reads all that a peer says into a queue, in a thread of its own.

    When the peer is lost, the process ends with status 1, because no pass can be finished without
    it (unless `stopping` is set); when it says `Stop`, with status 0.
    """
    inbox: Inbox = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                message, values = peer.receive()
            except PeerLostError as error:
                if stopping is not None and stopping.is_set():
                    return
                _logger.error("muai_deepspeed: lost %s: %s", name, error)
                end_now(1)
                return
            if isinstance(message, Stop):
                end_now(0)
            inbox.put((message, values))

    threading.Thread(target=read, name=f"listen to {name}", daemon=True).start()
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
