"""The sections beside `models` and `gateway`."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for every instance

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from muai_core.config.schema.base import Name, ParallelSize, PluginOptions, Seconds, Section


class HealthConfig(Section):
    """`devices.health`: how long trouble counts, and when a device is put to the test."""

    clean_readings: Annotated[int, Field(ge=1, le=1000)] = 3
    """Readings in a row that must be clean before a device that was degraded or suspect is healthy
    again."""
    repeat_window_s: Seconds = 86400.0
    """Seconds within which the same event on the same device counts as repeated, and makes it
    suspect."""
    burst_s: Seconds = 180.0
    """Events of one kind within so many seconds count once."""
    self_test: Literal["off", "suspect", "idle"] = "suspect"
    """Which devices are tested by a small computation of known result: none, suspect ones, or idle
    ones too. Never one without room for it."""
    self_test_interval_s: Seconds = 3600.0
    """Seconds between two tests of an idle device."""
    self_test_retry_s: Seconds = 60.0
    """Seconds between two tests of a suspect device."""
    self_test_deadline_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds that a test may take."""


class DevicesConfig(Section):
    """`devices`: what sees the devices. The other keys are device sources with their options."""

    model_config = ConfigDict(extra="allow")

    sources: list[Name] | None = None
    """Device sources to run. Unset: every source that is on by default, and every source whose
    options are given in this section."""
    observe_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 5.0
    """Seconds between two readings of a device source."""
    memory_reserve_gib: Annotated[float, Field(ge=0, le=65536)] = 0.0
    """Memory left unclaimed on every device, in GiB."""
    health: HealthConfig = HealthConfig()
    """When a device counts as unwell, and when as well again."""


class AllocationConfig(Section):
    """`allocation`: who chooses the devices of a replica."""

    strategy: Name = "balanced"
    """The allocation strategy."""
    options: PluginOptions = {}
    """Options of the strategy; they belong to its plugin."""


class RecoveryConfig(Section):
    """`recovery`: what happens when a replica is lost, and how long its stages may take."""

    policy: Name = "ladder"
    """The recovery policy."""
    options: PluginOptions = {}
    """Options of the policy; they belong to its plugin."""
    backoff_initial_s: Seconds = 1.0
    """Wait before the first restart, in seconds; it doubles with every failure in a row."""
    backoff_max_s: Seconds = 60.0
    """Longest wait before a restart, in seconds."""
    stable_after_s: Seconds = 60.0
    """Ready for so many seconds, a replica's earlier failures are forgotten."""
    stop_grace_s: Seconds = 10.0
    """Seconds between asking an engine to stop and killing its process group."""
    drain_s: Seconds = 30.0
    """Seconds that running requests get before a replica is stopped."""
    spawn_deadline_s: Seconds = 60.0
    """Seconds until an engine's server answers on its port."""
    load_deadline_s: Seconds = 600.0
    """Seconds until the weights are loaded."""
    ready_deadline_s: Seconds = 60.0
    """Seconds until a loaded engine answers its first request."""


class SinkConfig(Section):
    """`sinks.<name>`: one metric sink. The other keys are the sink's options."""

    model_config = ConfigDict(extra="allow")

    enabled: bool = True
    """False turns off a sink that would be on."""


class VllmOptimization(Section):
    """`optimization.vllm`: defaults of the engine vllm."""

    enabled: bool = True
    """False forbids the engine: `auto` passes it over, and a model that names it is an error."""
    tensor_parallel_size: ParallelSize | None = None
    """For models on this engine that set no `tensor_parallel_size` of their own."""


class DeepspeedOptimization(Section):
    """`optimization.deepspeed`: defaults of the engine deepspeed."""

    enabled: bool = True
    """False forbids the engine: `auto` passes it over, and a model that names it is an error."""
    tensor_parallel: ParallelSize | None = None
    """For models on this engine that set no `tensor_parallel_size` of their own."""
    pipeline_parallel: ParallelSize | None = None
    """For models on this engine that set no `pipeline_parallel_size` of their own."""


class OptimizationConfig(Section):
    """`optimization`: parallelism defaults per engine; a model's own value is stronger."""

    vllm: VllmOptimization = VllmOptimization()
    """Defaults of the engine vllm."""
    deepspeed: DeepspeedOptimization = DeepspeedOptimization()
    """Defaults of the engine deepspeed."""


class EngineConfig(Section):
    """`engines.<name>`: the environment that an engine's processes run in."""

    python: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The Python interpreter to run the engine with, for stacks that need an environment of their
    own. Unset: the controller's."""
    env: dict[str, str] = {}
    """Environment variables added for the engine's processes. Never printed."""
