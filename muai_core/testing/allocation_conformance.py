"""The kit for allocation strategies as a pytest class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from muai_core.plugin.allocation import AllocationStrategy
from muai_core.testing.allocation import AllocationLimits, AllocationSubject
from muai_core.testing.clauses import Kind
from muai_core.testing.conformance import Conformance


class AllocationConformance(Conformance):
    """Asks a strategy to place replicas on fleets of all kinds."""

    kind: ClassVar[Kind] = "allocation strategy"
    #: The module with the plugin's hooks; unset: that of its entry point, else the strategy's own.
    plugin_module: ClassVar[str | None] = None
    limits: ClassVar[AllocationLimits] = AllocationLimits()

    def make_strategy(self) -> AllocationStrategy:
        """The strategy that is tested."""
        raise NotImplementedError

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        """Its options, as `allocation.options` in a config."""
        return {}

    def make_subject(self, tmp_path: Path) -> AllocationSubject:
        return AllocationSubject(
            self.make_strategy(),
            self.make_options(tmp_path),
            plugin_module=self.plugin_module,
            limits=self.limits,
        )
