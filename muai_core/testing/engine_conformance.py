"""The kit for engines as a pytest class."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.memory import Shape
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine
from muai_core.testing.clauses import Kind
from muai_core.testing.conformance import Conformance
from muai_core.testing.engine import EngineSubject, Limits


class EngineConformance(Conformance):
    """Starts real replicas of an engine, with the supervisor of `muai run`, and asks over HTTP."""

    kind: ClassVar[Kind] = "engine"
    #: The interpreter of the engine's processes, as `engines.<name>.python`.
    python: ClassVar[str] = sys.executable
    #: As `engines.<name>.env`.
    environment: ClassVar[Mapping[str, str]] = {}
    #: The module with the plugin's hooks; unset: that of its entry point, else the engine's own.
    plugin_module: ClassVar[str | None] = None
    limits: ClassVar[Limits] = Limits()

    def make_engine(self) -> Engine:
        """The engine that is tested."""
        raise NotImplementedError

    def make_deployment(self, tmp_path: Path) -> Deployment:
        """A small model, which the engine serves in one shape with any number of devices."""
        raise NotImplementedError

    def make_devices(self) -> tuple[Device, ...]:
        """Devices to run on. None, the default: the CPU of this machine."""
        return ()

    def make_device_source(self) -> DeviceSource | None:
        """An opened source that sees those devices and the memory of the engine's processes."""
        return None

    def make_shapes(self) -> tuple[Shape, ...]:
        """Shapes beside the deployment's own in which the answers must be the same."""
        return ()

    def make_subject(self, tmp_path: Path) -> EngineSubject:
        return EngineSubject(
            self.make_engine(),
            self.make_deployment(tmp_path),
            folder=tmp_path,
            devices=self.make_devices(),
            device_source=self.make_device_source(),
            shapes=self.make_shapes(),
            python=self.python,
            environment=self.environment,
            plugin_module=self.plugin_module,
            limits=self.limits,
        )
