"""The OpenAI-compatible door: requests and tokens pass here and nowhere else."""

from muai_core.gateway.observer import FaultKind, NullObserver, Observer
from muai_core.gateway.router import ReplicaLoad
from muai_core.gateway.server import Gateway
from muai_core.gateway.settings import (
    ExposedWithoutKeysError,
    GatewaySettings,
    GatewaySettingsError,
    PortTakenError,
)
from muai_core.gateway.tracing import Tracing

__all__ = [
    "ExposedWithoutKeysError",
    "FaultKind",
    "Gateway",
    "GatewaySettings",
    "GatewaySettingsError",
    "NullObserver",
    "Observer",
    "PortTakenError",
    "ReplicaLoad",
    "Tracing",
]
