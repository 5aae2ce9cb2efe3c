"""`models.<name>`: what is to be served."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for every instance

from typing import Annotated, Literal

from pydantic import Field

from muai_core.config.schema.base import (
    DeviceSelector,
    Name,
    ParallelSize,
    PluginOptions,
    Section,
)


class AffinityConfig(Section):
    """Where replicas of a model may live; what is left out restricts nothing."""

    devices: list[DeviceSelector] = []
    """Only these devices, by UUID or by display index."""
    nodes: list[Name] = []
    """Only devices of these nodes."""
    platform: Literal["cpu", "cuda", "simulated"] | None = None
    """Only devices of this platform."""


class ModelConfig(Section):
    """One model service."""

    source: Annotated[str, Field(min_length=1, max_length=4096)]
    """The weights: a file (.gguf), a Hugging Face folder, or `package:PACKAGE/FILE` for a file
    inside an installed Python package. Relative to the config file."""
    engine: Name = "auto"
    """The engine that serves it; `auto` takes the best installed one that suits the model and the
    devices."""
    tensor_parallel_size: ParallelSize | None = None
    """Devices that share every layer. Unset: as in `optimization`, else 1."""
    pipeline_parallel_size: ParallelSize | None = None
    """Stages that the layers are cut into. Unset: as in `optimization`, else 1."""
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """Running copies; 0 keeps the model known but stopped."""
    affinity: AffinityConfig = AffinityConfig()
    """Where replicas may live."""
    max_model_len: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Longest prompt plus answer, in tokens. Unset: what the model says."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` leaves it to the engine."""
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """Memory that one rank claims on its device, in GiB. Unset: the engine's estimate, else whole
    devices."""
    engine_options: PluginOptions = {}
    """Options of the engine; they belong to the engine's plugin, so `engine` has to be named."""
