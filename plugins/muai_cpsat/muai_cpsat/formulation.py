"""The plan as a CP-SAT model, and what the solver makes of it.

Variables, for request r, candidate c, device d and a claim of b bytes:

- `chosen[r, c]`: r gets c;
- `holds[r, b, d]`: a rank of r claims b bytes of d. Candidates name classes of interchangeable
  devices, not devices, so there are few of them; these choose inside the classes;
- `fullest`: the highest claimed share of any device, in hundredths.

Maximise the sum of the candidates' values + BALANCE × (100 − fullest), where

- each request gets at most one candidate;
- of a class, as many devices hold b bytes for r as the candidate of r says;
- no device holds two ranks of one request;
- claims on a device fit what is free of it; what is claimed of it is at most `fullest`.
"""

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from muai_core.model.objective import BALANCE, SCALE
from muai_cpsat.search import Choice, Plan, Question, arranged, fullest_share

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, CpSolver

#: One fixed seed: equal questions, equal answers.
_SEED = 1
#: Claims above a half, a third and a quarter of a device are counted.
_FRACTIONS = (1, 2, 3)


class Solution(Struct, frozen=True):
    """What the solver found; `plan` None: nothing within its limit."""

    plan: Plan | None
    #: No plan of these candidates is worth more, in hundredths of a point; None: not known.
    bound: int | None


def solve(question: Question, hint: Plan, deterministic_time_limit: float) -> Solution:
    """The best plan that is found within the limit; `hint` is where the search begins.

    Runs in the calling thread with one worker and a limit on work, not on time: equal arguments,
    equal results.
    """
    from ortools.sat.python import cp_model

    formulation = _Formulation(cp_model.CpModel(), question)
    formulation.hint(hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = _SEED
    # Linear relaxations of all constraints: the bounds come from them.
    solver.parameters.linearization_level = 2
    solver.parameters.max_deterministic_time = deterministic_time_limit
    status = solver.solve(formulation.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    bound = round(solver.best_objective_bound)
    # Before it has found any, the solver says 0.
    is_bound = found and bound >= round(solver.objective_value)
    return Solution(formulation.plan(solver) if found else None, bound if is_bound else None)


class _Formulation:
    """The model, with the variables by what they mean."""

    def __init__(self, model: "CpModel", question: Question) -> None:
        self.model = model
        self._question = question
        #: By request, then as its candidates.
        self._chosen: list[list[Any]] = []
        #: By request, then by class and claim: (position in the fleet, variable).
        self._holds: list[dict[tuple[int, int | None], list[tuple[int, Any]]]] = []
        #: By position in the fleet: terms of what is claimed.
        self._claimed: dict[int, list[Any]] = {}
        for number in range(len(question.candidates)):
            self._add_request(number)
        self._fullest = model.new_int_var(fullest_share(question), SCALE, "fullest")
        self._add_devices()
        self._count_large_claims()
        self._break_symmetry()
        model.maximize(
            sum(
                one.value * variable
                for ones, variables in zip(question.candidates, self._chosen, strict=True)
                for one, variable in zip(ones, variables, strict=True)
            )
            + BALANCE * SCALE
            - BALANCE * self._fullest
        )

    def _add_request(self, number: int) -> None:
        candidates = self._question.candidates[number]
        chosen = [self.model.new_bool_var(f"r{number}c{place}") for place in range(len(candidates))]
        self.model.add_at_most_one(chosen)
        wanted: dict[tuple[int, int | None], list[Any]] = {}
        for one, variable in zip(candidates, chosen, strict=True):
            for index, need, count in one.use:
                wanted.setdefault((index, need), []).append(count * variable)
        holds: dict[tuple[int, int | None], list[tuple[int, Any]]] = {}
        on_device: dict[int, list[Any]] = {}
        for place, ((index, need), terms) in enumerate(wanted.items()):
            members = self._question.classes[index]
            variables = [self.model.new_bool_var(f"r{number}h{place}d{d}") for d in members]
            self.model.add(sum(variables) == sum(terms))
            holds[index, need] = list(zip(members, variables, strict=True))
            for position, variable in holds[index, need]:
                on_device.setdefault(position, []).append(variable)
                free = self._question.fleet.devices[position].free_bytes
                term = (free if need is None else need) * variable
                self._claimed.setdefault(position, []).append(term)
        for variables in on_device.values():
            if len(variables) > 1:
                self.model.add_at_most_one(variables)
        self._chosen.append(chosen)
        self._holds.append(holds)

    def _add_devices(self) -> None:
        for position, terms in self._claimed.items():
            view = self._question.fleet.devices[position]
            claimed = sum(terms)
            self.model.add(claimed <= view.free_bytes)
            self.model.add(
                SCALE * claimed + SCALE * view.claimed_bytes
                <= view.allocatable_bytes * self._fullest
            )

    def _count_large_claims(self) -> None:
        """Redundant, for better bounds: on a device fit 1 claim above a half, 2 above a third, ...

        Dual feasible functions, one for each k: with claims as shares of a device, those that fit
        on it together have floors of (k + 1) × share that sum up to at most k, where no claim
        times (k + 1) is whole (Fekete and Schepers, Mathematical Programming 91, 2001).
        """
        question = self._question
        for index, members in enumerate(question.classes):
            free = question.fleet.devices[members[0]].free_bytes
            for k in _FRACTIONS:
                terms = [
                    count * floor * variable
                    for ones, variables in zip(question.candidates, self._chosen, strict=True)
                    for one, variable in zip(ones, variables, strict=True)
                    for used, need, count in one.use
                    if used == index and (floor := _floor(need, free, k))
                ]
                if terms:
                    self.model.add(sum(terms) <= k * len(members))

    def _break_symmetry(self) -> None:
        """Of requests that want the same, the earlier is served if any is."""
        last: dict[int, int] = {}
        for number, kind in enumerate(self._question.alike):
            if kind in last and self._chosen[number]:
                earlier = self._chosen[last[kind]]
                self.model.add(sum(earlier) >= sum(self._chosen[number]))
            last[kind] = number

    def hint(self, plan: Plan) -> None:
        """Tell the solver of a plan."""
        question = self._question
        for number, choice in enumerate(plan):
            held: dict[tuple[int, int | None], set[int]] = {}
            if choice is not None:
                for stage, need in zip(choice.devices, choice.candidate.cut.needs, strict=True):
                    for position in stage:
                        index = self._class_of(position)
                        held.setdefault((index, need), set()).add(position)
            for one, variable in zip(
                question.candidates[number], self._chosen[number], strict=True
            ):
                self.model.add_hint(variable, choice is not None and one is choice.candidate)
            for key, holds in self._holds[number].items():
                for position, variable in holds:
                    self.model.add_hint(variable, position in held.get(key, ()))

    def _class_of(self, position: int) -> int:
        return next(
            index for index, members in enumerate(self._question.classes) if position in members
        )

    def plan(self, solver: "CpSolver") -> Plan:
        return tuple(self._choice(solver, number) for number in range(len(self._chosen)))

    def _choice(self, solver: "CpSolver", number: int) -> Choice | None:
        for one, variable in zip(
            self._question.candidates[number], self._chosen[number], strict=True
        ):
            if solver.boolean_value(variable):
                devices = {
                    key: [position for position, held in holds if solver.boolean_value(held)]
                    for key, holds in self._holds[number].items()
                }
                return arranged(one, devices)
        return None


def _floor(need: int | None, free: int, k: int) -> int:
    """Of `k` places on a device, how many a claim takes for sure."""
    if need is None:
        return k
    places, rest = divmod((k + 1) * need, free)
    return places if rest else k * need // free
