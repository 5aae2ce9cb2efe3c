"""What this plugin registers: the device source `nvml`."""

from collections.abc import Sequence

from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.hookspecs import hookimpl


@hookimpl
def muai_device_sources() -> Sequence[DeviceSource]:
    from muai_nvml.source import NvmlSource

    return [NvmlSource()]
