"""The allocation strategy `cpsat`. Imports OR-tools only when a plan needs it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from muai_core.model.fleet import Fleet, PlacementProblem, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.plugin.allocation import AllocationStrategy
from muai_cpsat.candidates import Candidates, candidates
from muai_cpsat.classes import DeviceClass, device_classes
from muai_cpsat.search import (
    Choice,
    Plan,
    Question,
    begun_with,
    best_alone,
    plain_bound,
    plan_value,
)

if TYPE_CHECKING:
    from pydantic import BaseModel


class Answer(Struct, frozen=True):
    """A whole plan, and what is known of better ones."""

    question: Question
    plan: Plan
    #: In the objective's hundredths of a point, as is `bound`.
    value: int
    #: No plan is worth more; None when candidates were left out, so that nothing is known.
    bound: int | None

    def placements(self) -> list[Placement | Unplaceable]:
        """In the order of the requests."""
        return [
            _placement(self, choice) if choice is not None else _unplaceable(self, number)
            for number, choice in enumerate(self.plan)
        ]

    @property
    def gap(self) -> float | None:
        """How far below the bound the plan is, as a share of the bound; None: not known."""
        if self.bound is None:
            return None
        return (self.bound - self.value) / max(1, self.bound)

    @property
    def verdict(self) -> str:
        """In words, for people."""
        if self.gap is None:
            return "the best of the candidates that max_variables allows"
        if self.gap == 0:
            return "proven optimal"
        return f"within {max(self.gap, 0.0001):.2%} of the bound"


class CpSat(AllocationStrategy):
    """Plans all replicas at once for the highest value of `muai_core.model.objective`.

    Where one replica alone is to be placed, all ways are compared without a solver.
    """

    name = "cpsat"

    def options_model(self) -> "type[BaseModel]":
        from muai_cpsat.config import CpSatOptions

        return CpSatOptions

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        problem = PlacementProblem(requests=(request,), fleet=fleet, admits=lambda *_: True)
        (placed,) = self.place_all(problem)
        return placed

    def place_all(self, problem: PlacementProblem) -> Sequence[Placement | Unplaceable]:
        if not problem.requests:
            return []
        return answer(problem, problem.requests[0].options).placements()


def answer(problem: PlacementProblem, options: dict[str, Any]) -> Answer:
    """The best plan within the options. Raises pydantic's ValidationError for bad ones."""
    from muai_cpsat.config import CpSatOptions

    chosen = CpSatOptions.model_validate(options)
    question, complete = _question(problem, chosen.max_variables)
    if len(problem.requests) == 1:
        plan = best_alone(question)
        value = bound = plan_value(question, plan)
    else:
        from muai_core import Balanced

        others = Balanced().place_all(problem)
        question, plan = begun_with(question, problem.requests, others)
        value, bound = plan_value(question, plan), plain_bound(question)
    if value < bound:
        from muai_cpsat.formulation import solve

        solution = solve(question, plan, chosen.deterministic_time_limit)
        if solution.plan is not None and (better := plan_value(question, solution.plan)) > value:
            plan, value = solution.plan, better
        if solution.bound is not None:
            bound = min(bound, solution.bound)
    return Answer(question, plan, value, bound if complete else None)


def _question(problem: PlacementProblem, max_variables: int) -> tuple[Question, bool]:
    """What there is to choose from, and whether that is everything."""
    kinds: dict[tuple[str, int], int] = {}
    alike = tuple(
        kinds.setdefault((one.deployment.name, one.deployment.generation), len(kinds))
        for one in problem.requests
    )
    examples = [problem.requests[alike.index(kind)] for kind in range(len(kinds))]
    classes = tuple(
        device_classes(
            problem.fleet, lambda view: tuple(problem.admits(one, view) for one in examples)
        )
    )
    share = max_variables // len(problem.requests)
    ways = [_ways(problem, one, classes, share) for one in examples]
    question = Question(
        fleet=problem.fleet,
        classes=classes,
        candidates=tuple(ways[kind].found for kind in alike),
        alike=alike,
        siblings=tuple(one.sibling_nodes for one in problem.requests),
    )
    return question, all(one.complete for one in ways)


def _ways(
    problem: PlacementProblem,
    request: PlacementRequest,
    classes: tuple[DeviceClass, ...],
    limit: int,
) -> Candidates:
    admitted = [
        index
        for index, members in enumerate(classes)
        if problem.admits(request, problem.fleet.devices[members[0]])
    ]
    return candidates(request.deployment, problem.fleet, classes, admitted, limit)


def _placement(found: Answer, choice: Choice) -> Placement:
    devices = found.question.fleet.devices
    return Placement(
        stages=tuple(
            tuple(devices[position].uuid for position in stage) for stage in choice.devices
        ),
        claims=tuple(claim for _, claim in choice.claims(found.question.fleet)),
        reason=f"{found.verdict}: {_served(found)} placed",
        layers=choice.candidate.cut.layers,
    )


def _unplaceable(found: Answer, number: int) -> Unplaceable:
    if found.question.candidates[number]:
        return Unplaceable(f"waits for room: the plan serves {_served(found)}, {found.verdict}")
    if found.bound is None:
        return Unplaceable("no way to place it was found; allocation.options.max_variables is low")
    return Unplaceable("no shape that it may have fits on any node, even with no other replica")


def _served(found: Answer) -> str:
    placed = sum(choice is not None for choice in found.plan)
    return f"{placed} of {len(found.plan)} replica{'s' if len(found.plan) > 1 else ''}"
