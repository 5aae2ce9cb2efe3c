"""What this plugin registers: the device source `simulated` and the engine `simulated`."""

from collections.abc import Sequence

from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine
from muai_core.plugin.hookspecs import hookimpl


@hookimpl
def muai_device_sources() -> Sequence[DeviceSource]:
    from muai_simulated.devices import SimulatedDevices

    return [SimulatedDevices()]


@hookimpl
def muai_engines() -> Sequence[Engine]:
    from muai_simulated.engine import SimulatedEngine

    return [SimulatedEngine()]
