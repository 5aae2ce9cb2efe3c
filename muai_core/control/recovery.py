"""The built-in recovery policy, and the decision around any policy."""

from hashlib import blake2b

import msgspec
from msgspec import structs

from muai_core.planning.wording import described, one_line
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss, RestartAfter

#: Restarts are spread over this share of the delay, so that replicas do not start in step.
_SPREAD = 0.2

_DECISION: msgspec.json.Decoder[RestartAfter | GiveUp] = msgspec.json.Decoder(RestartAfter | GiveUp)


class Ladder(RecoveryPolicy):
    """Start the replica again, after a delay that doubles with each failure in a row."""

    name = "ladder"

    def decide(
        self, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float
    ) -> RestartAfter | GiveUp:
        # Bounded exponent: 2**1100 does not fit a float.
        doubled = backoff_initial_s * 2.0 ** min(loss.failures - 1, 60)
        delay_s = min(backoff_max_s, doubled) * (1 - _SPREAD * loss.jitter)
        return RestartAfter(round(delay_s, 3), f"failure {loss.failures} in a row")


def jitter(replica_id: str, attempt: int) -> float:
    """A number in [0, 1) that is the same in every process for the same replica and attempt."""
    digest = blake2b(f"{replica_id}\0{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def decide(
    policy: RecoveryPolicy, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float
) -> tuple[RestartAfter | GiveUp, str | None]:
    """Ask the policy. A raise or a wrong answer becomes the longest backoff and a complaint."""
    try:
        return _well_formed(policy.decide(loss, backoff_initial_s, backoff_max_s)), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may raise anything at all
        complaint = f"recovery policy {policy.name} raised {described(error)}"
        return RestartAfter(backoff_max_s, complaint), complaint


def _well_formed(answer: object) -> RestartAfter | GiveUp:
    """The answer as the plane's own record. Raises TypeError, ValueError or what msgspec raises."""
    if not isinstance(answer, RestartAfter | GiveUp):
        raise TypeError(f"expected RestartAfter or GiveUp, got {type(answer).__name__}")
    decision = _DECISION.decode(msgspec.json.encode(answer))
    if isinstance(decision, RestartAfter) and decision.delay_s < 0:
        raise ValueError(f"a delay of {decision.delay_s} s")
    return structs.replace(decision, reason=one_line(decision.reason))
