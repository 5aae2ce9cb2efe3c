"""A fake strategy and a fake policy that keep the whole contract, but for one defect."""

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from muai_core.model.fleet import Fleet, PlacementProblem, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.plugin.allocation import AllocationStrategy
from muai_core.plugin.hookspecs import hookimpl
from muai_core.plugin.recovery import GiveUp, RecoveryPolicy, ReplicaLoss, RestartAfter

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Defect → the number of the clause that it breaks.
ALLOCATION_DEFECTS: dict[str, str] = {
    "shouts_its_name": "A01",
    "accepts_any_option": "A02",
    "slow_to_import": "A03",
    "hooks_raise": "A04",
    "answers_in_words": "A10",
    "dislikes_shards": "A11",
    "claims_too_much": "A12",
    "refuses_silently": "A13",
    "takes_turns": "A14",
    "notes_in_the_options": "A15",
    "throws_dice": "A16",
    "forgets_one_of_many": "A17",
    "is_slow_in_large_fleets": "A18",
    "orders_by_hash": "A19",
}
RECOVERY_DEFECTS: dict[str, str] = {
    "shouts_its_name": "R01",
    "accepts_any_option": "R02",
    "slow_to_import": "R03",
    "hooks_raise": "R04",
    "answers_in_words": "R10",
    "wants_the_past": "R11",
    "says_nothing": "R12",
    "takes_turns": "R13",
    "notes_in_the_options": "R14",
    "reads_the_clock": "R15",
    "thinks_for_long": "R16",
    "orders_by_hash": "R17",
    "waits_for_too_long": "R18",
    "loses_patience": "R19",
    "restarts_all_at_once": "R20",
}
_LARGE = 100
#: Defect → the name of the part: all of them are registered.
_NAMES = {"shouts_its_name": "Fake", "orders_by_hash": "fake-by-hash"}


@hookimpl
def muai_allocation_strategies() -> Sequence[AllocationStrategy]:
    return [FakeStrategy(defect) for defect in ("", *_NAMES)]


@hookimpl
def muai_recovery_policies() -> Sequence[RecoveryPolicy]:
    return [FakePolicy(defect) for defect in ("", *_NAMES)]


def _options_model(defect: str) -> "type[BaseModel]":
    from pydantic import BaseModel, ConfigDict

    extra = "ignore" if defect == "accepts_any_option" else "forbid"

    class FakeOptions(BaseModel):
        model_config = ConfigDict(extra=extra)  # type: ignore[typeddict-item]

        attempts: int = 5

    return FakeOptions


class FakeStrategy(AllocationStrategy):
    """Takes the emptiest devices. `defect` is one of `ALLOCATION_DEFECTS`, or none."""

    name = "fake"

    def __init__(self, defect: str = "", slow_s: float = 0.0) -> None:
        """`slow_s` is how long the slow one takes."""
        self._defect = defect
        self._slow_s = slow_s
        self._calls = 0
        self.name = _NAMES.get(defect, "fake")

    def options_model(self) -> "type[BaseModel]":
        return _options_model(self._defect)

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        self._calls += 1
        if self._defect == "is_slow_in_large_fleets" and len(fleet.devices) > _LARGE:
            time.sleep(self._slow_s)
        if self._defect == "dislikes_shards" and request.deployment.tensor_parallel_size > 1:
            return Unplaceable("it dislikes shards")
        if self._defect == "notes_in_the_options":
            request.options["seen"] = True
        if self._defect == "throws_dice":
            random.random()
        answer = self._place(request, fleet)
        if self._defect == "answers_in_words" and isinstance(answer, Unplaceable):
            words: Any = "no"
            return words  # type: ignore[no-any-return]
        return answer

    def _place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        best: Placement | Unplaceable = Unplaceable("no device is eligible")
        for views in fleet.nodes().values():
            chosen = sorted(views, key=lambda view: (-view.free_bytes, view.uuid))
            best = request.placement_on(chosen, "the emptiest")
            if isinstance(best, Placement):
                break
        if isinstance(best, Unplaceable):
            return Unplaceable("") if self._defect == "refuses_silently" else best
        if self._defect == "claims_too_much":
            return structs.replace(best, claims=(2**60,) * len(best.devices))
        if self._defect == "takes_turns":
            return structs.replace(best, reason=f"call {self._calls}")
        if self._defect == "orders_by_hash":
            return structs.replace(best, reason=f"hash {hash(best.devices)}")
        return best

    def place_all(self, problem: PlacementProblem) -> list[Placement | Unplaceable] | None:
        if self._defect != "forgets_one_of_many" or len(problem.requests) < 2:
            return None
        return [Unplaceable("later")] * (len(problem.requests) - 1)


class FakePolicy(RecoveryPolicy):
    """Waits and tries again, some times. `defect` is one of `RECOVERY_DEFECTS`, or none."""

    name = "fake"

    def __init__(self, defect: str = "", slow_s: float = 0.0) -> None:
        """`slow_s` is how long the slow one takes."""
        self._defect = defect
        self._slow_s = slow_s
        self._calls = 0
        self.name = _NAMES.get(defect, "fake")

    def options_model(self) -> "type[BaseModel]":
        return _options_model(self._defect)

    def decide(
        self, loss: ReplicaLoss, backoff_initial_s: float, backoff_max_s: float
    ) -> RestartAfter | GiveUp:
        self._calls += 1
        if self._defect == "notes_in_the_options":
            loss.options["seen"] = True
        if self._defect == "reads_the_clock":
            time.monotonic()
        if self._defect == "thinks_for_long":
            end_s = time.perf_counter_ns() + self._slow_s * 1e9
            while time.perf_counter_ns() < end_s:
                pass
        reason = "" if self._defect == "says_nothing" else f"failure {loss.failures}"
        if loss.failures > loss.options["attempts"]:
            return GiveUp(reason)
        if self._defect == "answers_in_words":
            words: Any = "again"
            return words  # type: ignore[no-any-return]
        if self._defect == "wants_the_past":
            return RestartAfter(-1.0, reason)
        delay_s = min(backoff_initial_s * loss.failures, backoff_max_s)
        if self._defect == "loses_patience":
            delay_s = backoff_max_s / loss.failures
        if self._defect != "restarts_all_at_once":
            # Replicas that are lost together do not all come back at the same moment.
            delay_s *= 1 - loss.jitter / 2
        if self._defect == "waits_for_too_long":
            delay_s += backoff_max_s
        if self._defect == "orders_by_hash":
            reason = f"hash {hash(loss.replica_id)}"
        if self._defect == "takes_turns":
            reason = f"call {self._calls}"
        return RestartAfter(delay_s, reason)
