"""The desired service of one model."""

from typing import Any

from msgspec import Struct

from muai_core.model.device import Platform
from muai_core.model.memory import MemoryNeeds, RankMemory, Shape, even_partition
from muai_core.model.placement import Placement


class Affinity(Struct, frozen=True, kw_only=True):
    """Where replicas of a deployment may live. Empty tuples allow everything."""

    #: Device UUIDs, or display indices written as decimal strings.
    devices: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    platform: Platform | None = None


class Deployment(Struct, frozen=True, kw_only=True):
    """One model as it should be served. `generation` counts the changes of this wish."""

    name: str
    source: str
    engine: str
    generation: int = 1
    replicas: int = 1
    #: The shape of a replica; with `memory`, the first that it allows.
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    #: Kinds of device that the engine can run this model on, best first.
    platforms: tuple[Platform, ...]
    affinity: Affinity = Affinity()
    max_model_len: int | None = None
    dtype: str = "auto"
    #: Format of keys and values, as in "fp8"; "auto": that of the activations.
    kv_cache_dtype: str = "auto"
    #: Sequences of full length whose keys and values must fit at once.
    concurrency: int = 1
    #: What one rank claims on its device, whatever the shape. None: see `memory`.
    memory_bytes_per_device: int | None = None
    #: What the estimate says, for every shape that is allowed. None beside an unknown
    #: `memory_bytes_per_device`: the replica claims whole devices.
    memory: MemoryNeeds | None = None
    #: Set by the planner where all ranks share one device: their shape. What a strategy then sees
    #: is one rank that stands for them all and needs the sum of their bytes.
    shared_shape: Shape | None = None
    #: How the need for memory is known, or why not.
    memory_reason: str = ""
    #: Validated by the engine's own options model.
    engine_options: dict[str, Any] = {}
    #: Why this engine: shown by `muai explain`.
    engine_reason: str = "named in the config"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that a replica may take, the preferred first."""
        if self.memory is not None:
            return self.memory.shapes
        return (Shape(self.tensor_parallel_size, self.pipeline_parallel_size),)

    def even_rank_bytes(self, shape: Shape) -> tuple[int | None, ...]:
        """What a rank of each stage claims with the layers cut evenly; None: a whole device.

        Raises KeyError when the tensor-parallel size is not among the allowed ones.
        """
        if self.memory_bytes_per_device is not None or self.memory is None:
            return (self.memory_bytes_per_device,) * shape.pipeline_parallel_size
        sharded = self.memory.at(shape.tensor_parallel_size)
        partition = even_partition(sharded.layer_count, shape.pipeline_parallel_size)
        return tuple(rank.total_bytes for rank in self.memory.ranks(shape, partition))

    def ranks(self, placement: Placement) -> tuple[RankMemory, ...]:
        """What a rank of each stage holds, by kind; empty when only the sum is known."""
        if self.memory_bytes_per_device is not None or self.memory is None:
            return ()
        return self.memory.ranks(placement.shape, placement.layers)

    @property
    def least_rank_bytes(self) -> int | None:
        """What no rank of any shape can do with less than; None: unknown."""
        if self.memory_bytes_per_device is not None or self.memory is None:
            return self.memory_bytes_per_device
        return self.memory.least_rank_bytes
