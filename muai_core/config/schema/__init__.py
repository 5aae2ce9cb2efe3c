"""The config file as pydantic models, one file per group of sections."""

# ruff: noqa: RUF012 - pydantic copies a mutable default for every instance

from typing import Annotated

from pydantic import Field

from muai_core.config.schema.base import MODEL_NAME_PATTERN, Name, Section
from muai_core.config.schema.gateway import GatewayConfig
from muai_core.config.schema.models import AffinityConfig, ModelConfig
from muai_core.config.schema.sections import (
    AllocationConfig,
    DeepspeedOptimization,
    DevicesConfig,
    EngineConfig,
    HealthConfig,
    OptimizationConfig,
    RecoveryConfig,
    SinkConfig,
    VllmOptimization,
)

ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]


class Config(Section):
    """One config file, with every default filled in."""

    models: dict[ModelName, ModelConfig] = {}
    """What is to be served, by the name that clients ask for. At least one."""
    devices: DevicesConfig = DevicesConfig()
    """What sees the devices."""
    allocation: AllocationConfig = AllocationConfig()
    """Who chooses the devices of a replica."""
    recovery: RecoveryConfig = RecoveryConfig()
    """What happens when a replica is lost."""
    gateway: GatewayConfig = GatewayConfig()
    """Where clients connect."""
    sinks: dict[Name, SinkConfig] = {}
    """Where metrics go, by the sink's name."""
    plugins: list[Annotated[str, Field(min_length=1, max_length=4096)]] = []
    """Local Python files with plugins. Relative to the config file."""
    optimization: OptimizationConfig = OptimizationConfig()
    """Parallelism defaults per engine."""
    engines: dict[Name, EngineConfig] = {}
    """The environment that engines run in, by the engine's name."""


__all__ = [
    "MODEL_NAME_PATTERN",
    "AffinityConfig",
    "AllocationConfig",
    "Config",
    "DeepspeedOptimization",
    "DevicesConfig",
    "EngineConfig",
    "GatewayConfig",
    "HealthConfig",
    "ModelConfig",
    "OptimizationConfig",
    "RecoveryConfig",
    "Section",
    "SinkConfig",
    "VllmOptimization",
]
