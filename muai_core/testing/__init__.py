"""The conformance kits: what a plugin of each kind must do, as numbered clauses.

With pytest, derive a class and get one test for each clause:

    from muai_core.testing import EngineConformance

    class TestMyEngine(EngineConformance):
        def make_engine(self):
            return MyEngine()

        def make_deployment(self, tmp_path):
            return Deployment(name="tiny", source=..., engine="mine", platforms=("cpu",))

Without it, `run_clauses(kind, subject)`. Names are resolved on first use: pytest is imported only
with the classes that need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muai_core.testing.allocation_conformance import AllocationConformance
    from muai_core.testing.clauses import (
        Clause,
        ClauseFailure,
        ClauseResult,
        ClauseSkipped,
        clause,
        clauses_of,
        run_clause,
        run_clauses,
    )
    from muai_core.testing.conformance import Conformance
    from muai_core.testing.device_source_conformance import DeviceSourceConformance
    from muai_core.testing.engine_conformance import EngineConformance
    from muai_core.testing.metric_sink_conformance import MetricSinkConformance
    from muai_core.testing.recovery_conformance import RecoveryConformance
    from muai_core.testing.running_muai import RunningMuai

_HOMES = {
    "muai_core.testing.allocation_conformance": ("AllocationConformance",),
    "muai_core.testing.clauses": (
        "Clause",
        "ClauseFailure",
        "ClauseResult",
        "ClauseSkipped",
        "clause",
        "clauses_of",
        "run_clause",
        "run_clauses",
    ),
    "muai_core.testing.conformance": ("Conformance",),
    "muai_core.testing.device_source_conformance": ("DeviceSourceConformance",),
    "muai_core.testing.engine_conformance": ("EngineConformance",),
    "muai_core.testing.metric_sink_conformance": ("MetricSinkConformance",),
    "muai_core.testing.recovery_conformance": ("RecoveryConformance",),
    "muai_core.testing.running_muai": ("RunningMuai",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AllocationConformance",
    "Clause",
    "ClauseFailure",
    "ClauseResult",
    "ClauseSkipped",
    "Conformance",
    "DeviceSourceConformance",
    "EngineConformance",
    "MetricSinkConformance",
    "RecoveryConformance",
    "RunningMuai",
    "clause",
    "clauses_of",
    "run_clause",
    "run_clauses",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'muai_core.testing' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
