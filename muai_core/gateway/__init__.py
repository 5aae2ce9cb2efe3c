"""The OpenAI-compatible door: requests and tokens pass here and nowhere else."""

from muai_core.gateway.observer import FaultKind, FinishedRequest, NullObserver, Observer, Outcome
from muai_core.gateway.router import ReplicaLoad
from muai_core.gateway.server import Gateway
from muai_core.gateway.settings import (
    ExposedWithoutKeysError,
    GatewaySettings,
    GatewaySettingsError,
    PortTakenError,
)

__all__ = [
    "ExposedWithoutKeysError",
    "FaultKind",
    "FinishedRequest",
    "Gateway",
    "GatewaySettings",
    "GatewaySettingsError",
    "NullObserver",
    "Observer",
    "Outcome",
    "PortTakenError",
    "ReplicaLoad",
]
