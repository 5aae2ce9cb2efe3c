"""MuAI: one endpoint for several models on one GPU box or a rack, still serving when a GPU dies.

This module is the one public door: plugin authors and scripts import from here.
Names are resolved on first use, so `import muai_core` stays cheap and pulls in no heavy library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from muai_core.model.architecture import (
        Architecture,
        ModelDescription,
        ModelError,
        Quantization,
        TensorInfo,
        UnknownFamily,
    )
    from muai_core.model.deployment import Affinity, Deployment
    from muai_core.model.device import (
        Device,
        DeviceLink,
        DeviceMeasurements,
        DeviceProcess,
        DeviceReading,
        HostFault,
        Inventory,
        Measurement,
    )
    from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
    from muai_core.model.health import Finding, Health
    from muai_core.model.memory import MemoryNeeds, RankMemory, Shape, ShardedMemory
    from muai_core.model.metrics import MetricFamily, MetricPoint
    from muai_core.model.objective import link_score, plan_value, replica_value, stage_score
    from muai_core.model.placement import Placement, Refusal, Unplaceable
    from muai_core.model.requests import RequestRecord, TraceContext
    from muai_core.model_files import describe_model
    from muai_core.planning.balanced import Balanced
    from muai_core.planning.engine_profiles import engine_profile
    from muai_core.planning.partition import best_partition
    from muai_core.plugin.allocation import AllocationStrategy
    from muai_core.plugin.capability import Capability
    from muai_core.plugin.device_source import DeviceSource, Happening, SelfTest, SelfTestResult
    from muai_core.plugin.engine import (
        Complaint,
        Engine,
        LaunchRequest,
        LaunchSpec,
        ProgressMetrics,
        Suitability,
    )
    from muai_core.plugin.exit_rules import ExitRule, failure_from, general_failure
    from muai_core.plugin.failure import ExitEvidence, Failure, FailureKind
    from muai_core.plugin.hookspecs import hookimpl
    from muai_core.plugin.installation import installed_version
    from muai_core.plugin.memory import (
        KvCacheLayout,
        MemoryProfile,
        OverheadTerms,
        ParallelismLimits,
        Sharding,
    )
    from muai_core.plugin.metric_sink import MetricSink, SinkError, SinkUnavailable
    from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss, RestartAfter

_HOMES = {
    "muai_core.model.architecture": (
        "Architecture",
        "ModelDescription",
        "ModelError",
        "Quantization",
        "TensorInfo",
        "UnknownFamily",
    ),
    "muai_core.model.deployment": ("Affinity", "Deployment"),
    "muai_core.model.device": (
        "Device",
        "DeviceLink",
        "DeviceMeasurements",
        "DeviceProcess",
        "DeviceReading",
        "HostFault",
        "Inventory",
        "Measurement",
    ),
    "muai_core.model.fleet": ("DeviceView", "Fleet", "PlacementProblem", "PlacementRequest"),
    "muai_core.model.health": ("Finding", "Health"),
    "muai_core.model.memory": ("MemoryNeeds", "RankMemory", "Shape", "ShardedMemory"),
    "muai_core.model.metrics": ("MetricFamily", "MetricPoint"),
    "muai_core.model.objective": ("link_score", "plan_value", "replica_value", "stage_score"),
    "muai_core.model.placement": ("Placement", "Refusal", "Unplaceable"),
    "muai_core.model.requests": ("RequestRecord", "TraceContext"),
    "muai_core.planning.balanced": ("Balanced",),
    "muai_core.planning.engine_profiles": ("engine_profile",),
    "muai_core.planning.partition": ("best_partition",),
    "muai_core.model_files": ("describe_model",),
    "muai_core.plugin.allocation": ("AllocationStrategy",),
    "muai_core.plugin.device_source": ("DeviceSource", "Happening", "SelfTest", "SelfTestResult"),
    "muai_core.plugin.engine": (
        "Complaint",
        "Engine",
        "LaunchRequest",
        "LaunchSpec",
        "ProgressMetrics",
        "Suitability",
    ),
    "muai_core.plugin.exit_rules": ("ExitRule", "failure_from", "general_failure"),
    "muai_core.plugin.failure": ("ExitEvidence", "Failure", "FailureKind"),
    "muai_core.plugin.capability": ("Capability",),
    "muai_core.plugin.hookspecs": ("hookimpl",),
    "muai_core.plugin.installation": ("installed_version",),
    "muai_core.plugin.memory": (
        "KvCacheLayout",
        "MemoryProfile",
        "OverheadTerms",
        "ParallelismLimits",
        "Sharding",
    ),
    "muai_core.plugin.metric_sink": ("MetricSink", "SinkError", "SinkUnavailable"),
    "muai_core.plugin.recovery": ("GiveUp", "RecoveryPolicy", "ReplicaLoss", "RestartAfter"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Affinity",
    "AllocationStrategy",
    "Architecture",
    "Balanced",
    "Capability",
    "Complaint",
    "Deployment",
    "Device",
    "DeviceLink",
    "DeviceMeasurements",
    "DeviceProcess",
    "DeviceReading",
    "DeviceSource",
    "DeviceView",
    "Engine",
    "ExitEvidence",
    "ExitRule",
    "Failure",
    "FailureKind",
    "Finding",
    "Fleet",
    "GiveUp",
    "Happening",
    "Health",
    "HostFault",
    "Inventory",
    "KvCacheLayout",
    "LaunchRequest",
    "LaunchSpec",
    "Measurement",
    "MemoryNeeds",
    "MemoryProfile",
    "MetricFamily",
    "MetricPoint",
    "MetricSink",
    "ModelDescription",
    "ModelError",
    "OverheadTerms",
    "ParallelismLimits",
    "Placement",
    "PlacementProblem",
    "PlacementRequest",
    "ProgressMetrics",
    "Quantization",
    "RankMemory",
    "RecoveryPolicy",
    "Refusal",
    "ReplicaLoss",
    "RequestRecord",
    "RestartAfter",
    "SelfTest",
    "SelfTestResult",
    "Shape",
    "ShardedMemory",
    "Sharding",
    "SinkError",
    "SinkUnavailable",
    "Suitability",
    "TensorInfo",
    "TraceContext",
    "UnknownFamily",
    "Unplaceable",
    "__version__",
    "best_partition",
    "describe_model",
    "engine_profile",
    "failure_from",
    "general_failure",
    "hookimpl",
    "installed_version",
    "link_score",
    "plan_value",
    "replica_value",
    "stage_score",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # It takes 20 ms to import, most of the time that this module may take.
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("muai-core")
        except PackageNotFoundError:
            found = "0+unknown"
        # It reads a file, and metrics ask every second.
        globals()["__version__"] = found
        return found
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'muai_core' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
