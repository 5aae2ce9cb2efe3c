"""`models.<name>`: what is to be served."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for every instance

from typing import Annotated, Literal

from pydantic import Field

from muai_core.config.schema.base import (
    DeviceSelector,
    Name,
    PlannedSize,
    PluginOptions,
    Section,
)
from muai_core.plugin.capability import Capability


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
    inside an installed Python package. A config.json alone is enough to plan. Relative to the
    config file."""
    engine: Name = "auto"
    """The engine that serves it; `auto` takes the best installed one that suits the model and the
    devices."""
    requires: list[Capability] = []
    """What the engine must be able to do: `auto` passes over engines that cannot, and a named one
    that cannot is an error."""
    tensor_parallel_size: PlannedSize | None = None
    """Devices that share every layer; `auto`: the planner chooses. Unset: as in `optimization`,
    else `auto`, or 1 where only the other size is given."""
    pipeline_parallel_size: PlannedSize | None = None
    """Stages that the layers are cut into; `auto`: the planner chooses. Unset: as in
    `optimization`, else `auto`, or 1 where only the other size is given."""
    replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """Running copies; 0 keeps the model known but stopped."""
    affinity: AffinityConfig = AffinityConfig()
    """Where replicas may live."""
    max_model_len: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Longest prompt plus answer, in tokens. Unset: what the model says."""
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Sequences of `max_model_len` tokens whose keys and values must fit at once; many more shorter
    ones fit into the same memory."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` leaves it to the engine."""
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Number format of the keys and values; `auto`: that of the activations."""
    memory_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """Memory that one rank claims on its device, in GiB. Unset: as estimated from the model's files
    and the engine, else whole devices."""
    engine_options: PluginOptions = {}
    """Options of the engine; they belong to the engine's plugin, so `engine` has to be named."""
