"""Where a rank stands: which stage of the pipeline, which shard of the stage. Imports no torch."""

from msgspec import Struct


class Place(Struct, frozen=True, kw_only=True):
    """One rank of a replica; ranks of a stage are neighbours: rank = stage * shards + shard."""

    rank: int
    shards: int
    """Tensor-parallel size."""
    layers: tuple[int, ...]
    """Layers of each stage; their number is the pipeline-parallel size."""

    @property
    def stages(self) -> int:
        return len(self.layers)

    @property
    def world(self) -> int:
        return self.shards * self.stages

    @property
    def stage(self) -> int:
        return self.rank // self.shards

    @property
    def shard(self) -> int:
        return self.rank % self.shards

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.stages - 1

    @property
    def span(self) -> tuple[int, int]:
        """First layer of the stage, and the one after its last."""
        begin = sum(self.layers[: self.stage])
        return begin, begin + self.layers[self.stage]

    @property
    def successor(self) -> int | None:
        """The rank that continues with this rank's hidden states."""
        return None if self.is_last else self.rank + self.shards

    @property
    def answering_rank(self) -> int:
        """The rank whose logits are used: every shard of the last stage has them."""
        return (self.stages - 1) * self.shards
