"""The desired service of one model."""

from typing import Any

from msgspec import Struct

from muai_core.model.device import Platform


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
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    #: Kinds of device that the engine can run this model on, best first.
    platforms: tuple[Platform, ...]
    affinity: Affinity = Affinity()
    max_model_len: int | None = None
    dtype: str = "auto"
    #: What one rank claims on its device. None: unknown, so the replica claims whole devices.
    memory_bytes_per_device: int | None = None
    #: Validated by the engine's own options model.
    engine_options: dict[str, Any] = {}
    #: Why this engine: shown by `muai explain`.
    engine_reason: str = "named in the config"

    @property
    def devices_per_replica(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size
