"""An engine under test, with what its clauses need to start and to ask replicas of it."""

import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.memory import Shape
from muai_core.plugin.device_source import DeviceSource
from muai_core.plugin.engine import Engine


class Limits(Struct, frozen=True, kw_only=True):
    """How long what is tested may take, in seconds."""

    #: One start, until the replica serves.
    start_s: float = 180.0
    #: One answer.
    answer_s: float = 60.0
    #: What a replica gets to end by itself.
    stop_grace_s: float = 30.0
    #: From the end of a connection until nothing is generated for it any more.
    abort_s: float = 1.0
    #: From the death of a rank until it is told.
    rank_loss_s: float = 0.5


class EngineSubject:
    """One engine and one deployment."""

    def __init__(
        self,
        engine: Engine,
        deployment: Deployment | None,
        *,
        folder: Path,
        devices: tuple[Device, ...] = (),
        device_source: DeviceSource | None = None,
        shapes: tuple[Shape, ...] = (),
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        plugin_module: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`deployment` None: the clauses that need a model are not applicable."""
        self.engine = engine
        self.deployment = deployment

    @property
    def capabilities(self) -> tuple[str, ...]:
        return self.engine.capabilities

    def close(self) -> None:
        """Ends what runs."""
