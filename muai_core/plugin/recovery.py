"""Recovery policies: what to try when a replica is lost."""

from abc import ABC, abstractmethod
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.plugin.failure import Failure
from muai_core.plugin.options import Configurable


class ReplicaLoss(Struct, frozen=True, kw_only=True):
    """A replica that failed although it was desired."""

    replica_id: str
    epoch: int
    deployment: Deployment
    #: One line: "exited with status 1", "did not load within 600 s".
    cause: str
    #: What the engine called it; None: nothing tells.
    failure: Failure | None = None
    #: Failures in a row, this one counted; a replica that stayed ready long enough resets it.
    failures: int
    #: A stable number in [0, 1) that differs by replica and attempt: use it to spread restarts.
    jitter: float
    #: `recovery.options` of the config, validated by the policy's options model.
    options: dict[str, Any] = {}


class RestartAfter(Struct, frozen=True, tag=True):
    """Start the replica again, as a new epoch, after `delay_s` seconds; the reason is one line."""

    delay_s: float
    reason: str


class GiveUp(Struct, frozen=True, tag=True):
    """Leave the replica down until the desired state changes."""

    reason: str


class RecoveryPolicy(Configurable, ABC):
    """A policy: a pure function that runs inside the control plane."""

    @abstractmethod
    def decide(
        self, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float
    ) -> RestartAfter | GiveUp:
        """Called once for each loss. It must not block, read clocks, use chance or keep state.

        A delay is at most `backoff_max_s`, spread by the loss's jitter, and does not shrink while
        failures go on.

        If it raises, the replica is restarted after `backoff_max_s` and the exception is reported.
        """
