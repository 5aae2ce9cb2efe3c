"""The five hooks. A hook only registers; the typed interfaces next door do the work.

Each hook is called once, when plugins are loaded, in the controller and in every `muai` command.
It must be light: no I/O, no torch, no CUDA context, under 100 ms including the plugin's import.
It may raise: the plugin is then marked failed with the reason and nothing else is affected.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from muai_core.plugin.allocation import AllocationStrategy
    from muai_core.plugin.device_source import DeviceSource
    from muai_core.plugin.engine import Engine
    from muai_core.plugin.metric_sink import MetricSink
    from muai_core.plugin.recovery import RecoveryPolicy

PROJECT = "muai"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def muai_device_sources() -> Sequence["DeviceSource"]:
    """Register device sources: who discovers devices and reads their state."""


@hookspec
def muai_allocation_strategies() -> Sequence["AllocationStrategy"]:
    """Register allocation strategies: who chooses the devices of a replica."""


@hookspec
def muai_engines() -> Sequence["Engine"]:
    """Register engines: how a model server is started, probed and stopped."""


@hookspec
def muai_recovery_policies() -> Sequence["RecoveryPolicy"]:
    """Register recovery policies: what to try, in which order, when a replica is lost."""


@hookspec
def muai_metric_sinks() -> Sequence["MetricSink"]:
    """Register metric sinks: where samples go."""
