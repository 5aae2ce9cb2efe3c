"""A model whose layers lie in several ranks: rank 0 leads, the others follow its commands."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from muai_torch.memory import held_bytes
from muai_torch.model import TextModel
from muai_torch.passes import Pass
from muai_torch.slots import Shape
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from muai_deepspeed.messages import (
    Forward,
    Measure,
    Measured,
    Message,
    MoveRow,
    Open,
    Peer,
    PeerLostError,
    Ready,
    Resize,
    Stop,
)
from muai_deepspeed.place import Place
from muai_deepspeed.ranks import Inbox, collective, verdict_first
from muai_deepspeed.stage import Stage


class Followers:
    """Rank 0's connections to all other ranks."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._peers: dict[int, Peer] = {}
        self._inboxes: dict[int, Inbox] = {}

    def add(self, rank: int, peer: Peer, inbox: Inbox) -> None:
        self._peers[rank], self._inboxes[rank] = peer, inbox

    def tell(self, message: Message) -> None:
        """To all, in one order. Raises `PeerLostError`."""
        for peer in self._peers.values():
            peer.send(message)

    def hear(self, rank: int) -> tuple[Message, torch.Tensor | None]:
        """The next message of a rank; waits for it."""
        return self._inboxes[rank].get()

    def hear_all(self) -> list[Message]:
        return [self.hear(rank)[0] for rank in sorted(self._inboxes)]

    def stop(self) -> None:
        """Ends all other ranks with status 0; those that are gone are not missed."""
        self.stopping.set()
        for peer in self._peers.values():
            try:
                peer.send(Stop())
            except PeerLostError:
                continue


class PipelineModel(TextModel):
    """The whole model as rank 0 sees it: its own stage, and what the others do."""

    def __init__(
        self,
        stage: Stage,
        place: Place,
        followers: Followers,
        successor: Peer | None,
        texts: tuple[PreTrainedConfig, GenerationConfig | None, PreTrainedTokenizerBase],
    ) -> None:
        super().__init__(*texts)
        self.stage, self.place = stage, place
        self.device, self.dtype = stage.device, stage.dtype
        self.followers = followers
        self.successor = successor
        self._held = [held_bytes(stage.network)]
        for message in followers.hear_all():
            assert isinstance(message, Ready)
            self._held.append(message.held_bytes)

    def executor(self) -> "PipelineExecutor":
        return PipelineExecutor(self)

    @torch.inference_mode()
    def probe(self) -> int:
        """One pass over two uneven rows; returns the bytes one token takes where it takes most."""
        executor = self.executor()
        executor.resize(Shape(2, 4), Shape(0, 0))
        executor.submit(Pass([0, 1], [0, 0], [[0], [0, 0]], [0, 1]))
        executor.collect()
        return executor.bytes_per_token()

    def held_bytes(self) -> Mapping[str, int]:
        return max(self._held, key=lambda held: sum(held.values()))


class PipelineExecutor:
    """Passes through all stages. Every rank does the same to its cache in the same order."""

    def __init__(self, model: PipelineModel) -> None:
        self._model = model
        self._stage, self._place = model.stage, model.place
        self._followers = model.followers
        self._cache = self._stage.cache()
        self._own: deque[torch.Tensor] = deque()
        self.depth = self._place.stages
        self._followers.tell(Open())

    @property
    def shape(self) -> Shape:
        return self._cache.shape

    def resize(self, shape: Shape, used: Shape) -> None:
        self._followers.tell(Resize(shape.rows, shape.tokens, used.rows, used.tokens))
        self._cache.resize(shape, used)

    def move_row(self, source: int, target: int, tokens: int) -> None:
        self._followers.tell(MoveRow(source, target, tokens))
        self._cache.move_row(source, target, tokens)

    def submit(self, step: Pass) -> None:
        with verdict_first(), collective(self._place.shards):
            self._followers.tell(Forward(step))
            output = self._stage.run(step, self._cache, None)
            if self._model.successor is None:
                self._own.append(output)
            else:
                self._model.successor.send_values(output)

    def collect(self) -> torch.Tensor:
        if self._place.is_last:
            return self._own.popleft()
        _, logits = self._followers.hear(self._place.answering_rank)
        assert logits is not None
        return logits.to(self._model.device)

    def bytes_per_token(self) -> int:
        """In the rank where it takes most. Known after the first pass."""
        self._followers.tell(Measure())
        sizes = [self._cache.bytes_per_token()]
        for message in self._followers.hear_all():
            assert isinstance(message, Measured)
            sizes.append(message.bytes_per_token)
        return max(sizes)


class Follower:
    """A rank other than 0, after it has loaded."""

    def __init__(
        self,
        stage: Stage,
        place: Place,
        leader: Peer,
        commands: Inbox,
        hidden: Inbox | None,
        successor: Peer | None,
    ) -> None:
        self._stage, self._place = stage, place
        self._leader, self._commands = leader, commands
        self._hidden, self._successor = hidden, successor
        self._cache: Any = stage.cache()

    @torch.inference_mode()
    def run(self) -> None:
        """Follows commands until the process ends. Raises `PeerLostError`."""
        self._leader.send(Ready(held_bytes(self._stage.network)))
        while True:
            command, _ = self._commands.get()
            self._obey(command)

    def _obey(self, command: Message) -> None:
        match command:
            case Open():
                self._cache = self._stage.cache()
            case Resize(rows, tokens, used_rows, used_tokens):
                self._cache.resize(Shape(rows, tokens), Shape(used_rows, used_tokens))
            case MoveRow(source, target, tokens):
                self._cache.move_row(source, target, tokens)
            case Forward(step):
                self._forward(step)
            case Measure():
                self._leader.send(Measured(self._cache.bytes_per_token()))
            case _:
                raise PeerLostError(f"rank 0 said {type(command).__name__}, which is no command")

    def _forward(self, step: Pass) -> None:
        received = self._hidden.get()[1] if self._hidden is not None else None
        with collective(self._place.shards):
            output = self._stage.run(step, self._cache, received)
        if self._successor is not None:
            self._successor.send_values(output)
        elif self._place.rank == self._place.answering_rank:
            self._leader.send_values(output)
