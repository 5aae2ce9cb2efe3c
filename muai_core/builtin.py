"""The plugins that come with the core, and the one way to load all plugins."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.hookspecs import hookimpl
from muai_core.plugin.loading import Plugins, load_plugins
from muai_core.plugin.recovery import RecoveryPolicy


@hookimpl
def muai_device_sources() -> Sequence[DeviceSource]:
    from muai_core.runtime.cpu_source import CpuSource

    return [CpuSource()]


@hookimpl
def muai_allocation_strategies() -> Sequence[AllocationStrategy]:
    from muai_core.planning.balanced import Balanced
    from muai_core.planning.packed import Packed

    return [Balanced(), Packed()]


@hookimpl
def muai_recovery_policies() -> Sequence[RecoveryPolicy]:
    from muai_core.control.recovery import Ladder

    return [Ladder()]


def load(local_files: Sequence[Path] = (), environ: Mapping[str, str] | None = None) -> Plugins:
    """Built-ins, installed plugins and local files. Never raises; see `Plugins.records`."""
    found = os.environ if environ is None else environ
    return load_plugins({"muai-core": sys.modules[__name__]}, local_files, found)
