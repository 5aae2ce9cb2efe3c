"""Every way to place one replica on a fleet that it has for itself."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import DeviceView, Fleet
from muai_core.model.memory import Shape
from muai_core.model.objective import topology_score, worth
from muai_cpsat.classes import DeviceClass
from muai_cpsat.cutting import Cut, Cutter

#: Classes of the ranks of one stage, ascending.
Stage = tuple[int, ...]
#: So many times the limit of candidates may be looked at: many ways turn out to be the same.
_LOOKS_PER_CANDIDATE = 4


class Candidate(Struct, frozen=True):
    """One way to place a replica, up to the choice of devices inside their classes."""

    stages: tuple[Stage, ...]
    cut: Cut
    #: In the objective's hundredths of a point, without what concerns the whole plan.
    value: int
    #: How many devices of which class it claims how much of; bytes of None: the whole device.
    use: tuple[tuple[int, int | None, int], ...]


class Candidates(Struct, frozen=True):
    """What was found, the most valuable first; `complete`: no limit left any out."""

    found: tuple[Candidate, ...]
    complete: bool


def candidates(
    deployment: Deployment,
    fleet: Fleet,
    classes: Sequence[DeviceClass],
    admitted: Sequence[int],
    limit: int,
) -> Candidates:
    """The ways to place a replica of `deployment` on devices of the `admitted` classes.

    At most so many that they, and the devices for each of their claims, are `limit` together. All
    stages of a way are on one node. Ways that claim the same of the same classes differ in their
    topology only, so only the best of them stays. The preferred shapes come first.
    """
    best: dict[tuple[tuple[int, int | None, int], ...], Candidate] = {}
    looks = _LOOKS_PER_CANDIDATE * limit
    claims: set[tuple[int, int | None]] = set()
    size = 0
    complete = True
    for one in _Search(deployment, fleet, classes, admitted).run():
        known = best.get(one.use)
        if known is None:
            size += 1
            for index, need, _ in one.use:
                if (index, need) not in claims:
                    claims.add((index, need))
                    size += len(classes[index])
        looks -= 1
        if looks < 0 or size > limit:
            complete = False
            break
        if known is None or one.value > known.value:
            best[one.use] = one
    return Candidates(tuple(sorted(best.values(), key=lambda one: -one.value)), complete)


class _Search:
    """The enumeration, with what it needs to know of classes."""

    def __init__(
        self,
        deployment: Deployment,
        fleet: Fleet,
        classes: Sequence[DeviceClass],
        admitted: Sequence[int],
    ) -> None:
        self._deployment = deployment
        self._fleet = fleet
        self._classes = classes
        self._cutter = Cutter(deployment)
        self._first = [fleet.devices[members[0]] for members in classes]
        self._nodes: dict[str, list[int]] = {}
        for index in admitted:
            if self._usable(view := self._first[index]):
                self._nodes.setdefault(view.device.node, []).append(index)

    def _usable(self, view: DeviceView) -> bool:
        least = self._deployment.least_rank_bytes
        if least is None:
            return not view.claimants and view.free_bytes > 0
        return view.free_bytes >= least

    def run(self) -> Iterator[Candidate]:
        for shape in self._deployment.shapes:
            for indices in self._nodes.values():
                yield from self._on_node(shape, indices)

    def _on_node(self, shape: Shape, indices: Sequence[int]) -> Iterator[Candidate]:
        left = {index: len(self._classes[index]) for index in indices}
        if sum(left.values()) < shape.device_count:
            return
        for stages in self._arrangements(shape, left, ()):
            free = tuple(min(self._first[index].free_bytes for index in stage) for stage in stages)
            for cut in self._cutter.cuts(shape, free):
                yield candidate_on(self._deployment, self._fleet, stages, self._places(stages), cut)

    def _arrangements(
        self, shape: Shape, left: dict[int, int], chosen: tuple[Stage, ...]
    ) -> Iterator[tuple[Stage, ...]]:
        """Classes for the stages that are not `chosen` yet, in every order that matters."""
        place = len(chosen)
        if place == shape.pipeline_parallel_size:
            yield chosen
            return
        least = chosen[-1] if self._cutter.interchangeable(shape, place) else ()
        for stage in combinations_with_replacement(left, shape.tensor_parallel_size):
            if stage < least:
                continue
            taken = Counter(stage)
            if any(left[index] < number for index, number in taken.items()):
                continue
            rest = {index: number - taken[index] for index, number in left.items()}
            yield from self._arrangements(shape, rest, (*chosen, stage))

    def _places(self, stages: tuple[Stage, ...]) -> list[list[int]]:
        """Some devices of these classes, each of them once."""
        members = {index: iter(self._classes[index]) for stage in stages for index in stage}
        return [[next(members[index]) for index in stage] for stage in stages]


def candidate_on(
    deployment: Deployment,
    fleet: Fleet,
    stages: tuple[Stage, ...],
    devices: Sequence[Sequence[int]],
    cut: Cut,
) -> Candidate:
    """The candidate with these classes in each stage; `devices` are any of them."""
    lowest = min(shape.cost for shape in deployment.shapes)
    shape = Shape(len(stages[0]), len(stages))
    views = [[fleet.devices[place] for place in stage] for stage in devices]
    use = Counter(
        (index, need) for stage, need in zip(stages, cut.needs, strict=True) for index in stage
    )
    return Candidate(
        stages=stages,
        cut=cut,
        value=worth(lowest, shape.cost, topology_score(views, fleet.links)),
        use=tuple(sorted(((*key, number) for key, number in use.items()), key=_by_claim)),
    )


def _by_claim(use: tuple[int, int | None, int]) -> tuple[int, int]:
    index, need, _ = use
    return index, -1 if need is None else need
