"""The kit for device sources as a pytest class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from muai_core.plugin.device_source import DeviceSource
from muai_core.testing.clauses import Kind
from muai_core.testing.conformance import Conformance
from muai_core.testing.device_source import DeviceSourceLimits, DeviceSourceSubject


class DeviceSourceConformance(Conformance):
    """Opens a source twice, observes what is there, and looks at what is left after its end."""

    kind: ClassVar[Kind] = "device source"
    #: The module with the plugin's hooks; unset: that of its entry point, else the source's own.
    plugin_module: ClassVar[str | None] = None
    limits: ClassVar[DeviceSourceLimits] = DeviceSourceLimits()

    def make_source(self) -> DeviceSource:
        """The source that is tested, not opened yet. The more devices it finds, the better."""
        raise NotImplementedError

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        """Its options, as `devices.<name>` in a config."""
        return {}

    def make_subject(self, tmp_path: Path) -> DeviceSourceSubject:
        return DeviceSourceSubject(
            self.make_source(),
            self.make_options(tmp_path),
            plugin_module=self.plugin_module,
            limits=self.limits,
        )
