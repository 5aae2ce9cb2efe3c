"""The kit for recovery policies as a pytest class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from muai_core.plugin.recovery import RecoveryPolicy
from muai_core.testing.clauses import Kind
from muai_core.testing.conformance import Conformance
from muai_core.testing.recovery import RecoveryLimits, RecoverySubject


class RecoveryConformance(Conformance):
    """Asks a policy about losses of all kinds."""

    kind: ClassVar[Kind] = "recovery policy"
    #: The module with the plugin's hooks; unset: that of its entry point, else the policy's own.
    plugin_module: ClassVar[str | None] = None
    limits: ClassVar[RecoveryLimits] = RecoveryLimits()

    def make_policy(self) -> RecoveryPolicy:
        """The policy that is tested."""
        raise NotImplementedError

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        """Its options, as `recovery.options` in a config."""
        return {}

    def make_subject(self, tmp_path: Path) -> RecoverySubject:
        return RecoverySubject(
            self.make_policy(),
            self.make_options(tmp_path),
            plugin_module=self.plugin_module,
            limits=self.limits,
        )
