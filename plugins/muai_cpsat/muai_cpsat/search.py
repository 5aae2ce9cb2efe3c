"""A whole plan as choices of candidates, and what it is worth."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.memory import Shape
from muai_core.model.objective import BALANCE, SCALE, balance_value
from muai_core.model.placement import Placement
from muai_cpsat.candidates import Candidate, candidate_on
from muai_cpsat.classes import DeviceClass
from muai_cpsat.cutting import Cutter


class Question(Struct, frozen=True):
    """What there is to choose from."""

    fleet: Fleet
    classes: tuple[DeviceClass, ...]
    #: For each request, the most valuable first.
    candidates: tuple[tuple[Candidate, ...], ...]
    #: Requests with equal numbers want the same, so that their answers may be swapped.
    alike: tuple[int, ...]
    #: For each request, the nodes of replicas that better stand elsewhere.
    siblings: tuple[tuple[str, ...], ...]


class Choice(Struct, frozen=True):
    """A candidate with the devices for it: positions in the fleet, by what they claim."""

    candidate: Candidate
    devices: tuple[tuple[int, ...], ...]

    def claims(self, fleet: Fleet) -> list[tuple[int, int]]:
        """Position and bytes for every rank, in rank order."""
        return [
            (position, fleet.devices[position].free_bytes if need is None else need)
            for stage, need in zip(self.devices, self.candidate.cut.needs, strict=True)
            for position in stage
        ]


#: One entry per request; None: it waits.
Plan = tuple[Choice | None, ...]


def plan_value(question: Question, plan: Plan) -> int:
    """The objective's value, in hundredths of a point."""
    claimed: dict[str, int] = {}
    for choice in plan:
        for position, claim in [] if choice is None else choice.claims(question.fleet):
            uuid = question.fleet.devices[position].uuid
            claimed[uuid] = claimed.get(uuid, 0) + claim
    value = sum(choice.candidate.value for choice in plan if choice is not None)
    return value + balance_value(question.fleet, claimed)


def fullest_share(question: Question) -> int:
    """The highest claimed share of any device before the plan, in hundredths, at most 100."""
    return SCALE - balance_value(question.fleet, {}) // BALANCE


def plain_bound(question: Question) -> int:
    """No plan is worth more than this: each request gets its best way, and no device fills up."""
    most = sum(ones[0].value for ones in question.candidates if ones)
    return most + balance_value(question.fleet, {})


def best_alone(question: Question) -> Plan:
    """The most valuable plan for a single request, by comparing all ways."""
    (ones,) = question.candidates
    nothing = BALANCE * SCALE
    plans = [(_fit_anywhere(question, one),) for one in ones if one.value > ones[0].value - nothing]
    return max(
        plans,
        key=lambda plan: (plan_value(question, plan), -_crowding(question, 0, plan[0])),
        default=(None,),
    )


def _fit_anywhere(question: Question, candidate: Candidate) -> Choice:
    """The candidate on an untouched fleet, where it always fits: the first of each class."""
    left = {index: iter(question.classes[index]) for index, _, _ in candidate.use}
    devices = {
        (index, need): [next(left[index]) for _ in range(count)]
        for index, need, count in candidate.use
    }
    return arranged(candidate, devices)


def _crowding(question: Question, number: int, choice: Choice) -> int:
    """How many siblings of the replica are on the node of this choice."""
    node = question.fleet.devices[choice.devices[0][0]].device.node
    return question.siblings[number].count(node)


def arranged(
    candidate: Candidate, devices: Mapping[tuple[int, int | None], Sequence[int]]
) -> Choice:
    """The candidate on these devices, which are by class and claim, ascending."""
    left = {key: iter(positions) for key, positions in devices.items()}
    stages = tuple(
        tuple(next(left[index, need]) for index in stage)
        for stage, need in zip(candidate.stages, candidate.cut.needs, strict=True)
    )
    return Choice(candidate, stages)


def begun_with(
    question: Question, requests: Sequence[PlacementRequest], answers: Sequence[object]
) -> tuple[Question, Plan]:
    """The plan that another strategy made, as choices; and the question with its candidates.

    A placement that names unknown devices, or claims more than is free, is left out.
    """
    position = {view.uuid: place for place, view in enumerate(question.fleet.devices)}
    class_of = {place: index for index, members in enumerate(question.classes) for place in members}
    free = {place: question.fleet.devices[place].free_bytes for place in class_of}
    candidates, plan = list(question.candidates), []
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        choice = None
        if isinstance(answer, Placement) and all(uuid in position for uuid in answer.devices):
            places = [[position[uuid] for uuid in stage] for stage in answer.stages]
            choice = _choice(question.fleet, request.deployment, places, answer.layers, class_of)
            claims = choice.claims(question.fleet)
            if any(claim > free[place] for place, claim in claims):
                choice = None
            else:
                for place, claim in claims:
                    free[place] -= claim
        if choice is not None:
            own = choice.candidate
            same = next((one for one in candidates[number] if one.use == own.use), None)
            if same is None or same.value < own.value:
                kept = [one for one in candidates[number] if one is not same]
                candidates[number] = tuple(sorted([own, *kept], key=lambda one: -one.value))
            elif same.stages == own.stages and same.cut == own.cut:
                choice = Choice(same, choice.devices)
            else:
                held: dict[tuple[int, int | None], list[int]] = {}
                for stage, need in zip(choice.devices, own.cut.needs, strict=True):
                    for place in stage:
                        held.setdefault((class_of[place], need), []).append(place)
                choice = arranged(same, held)
        plan.append(choice)
    return structs.replace(question, candidates=tuple(candidates)), tuple(plan)


def _choice(
    fleet: Fleet,
    deployment: Deployment,
    places: Sequence[Sequence[int]],
    layers: tuple[int, ...],
    class_of: Mapping[int, int],
) -> Choice:
    stages = [sorted(stage, key=lambda place: (class_of[place], place)) for stage in places]
    candidate = candidate_on(
        deployment,
        fleet,
        stages=tuple(tuple(class_of[place] for place in stage) for stage in stages),
        devices=stages,
        cut=Cutter(deployment).made(Shape(len(stages[0]), len(stages)), layers),
    )
    return Choice(candidate, tuple(map(tuple, stages)))
