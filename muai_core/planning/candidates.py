"""Where one replica could go on one node: its devices as stages, scored."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import comb
from typing import NamedTuple

from muai_core.planning.board import Node
from muai_core.planning.needs import Fit, ShapeNeed
from muai_core.planning.styles import Score, Style
from muai_core.planning.topology import Stages

#: Sets of devices that are looked at on one node: all four of eight.
_SETS_MAX = 70


class Candidate(NamedTuple):
    """A replica on devices of one node; the lower score is better."""

    #: The fewest devices, then what the style prefers, then the node and the places.
    score: Score
    node: Node
    need: ShapeNeed
    #: Places on the node, by stage.
    stages: Stages
    layers: tuple[int, ...]
    #: Bytes in rank order.
    claims: tuple[int, ...]
    topology: int

    @property
    def places(self) -> list[int]:
        """In rank order."""
        return [place for stage in self.stages for place in stage]


def best_on(node: Node, need: ShapeNeed, admitted: Sequence[int], style: Style) -> Candidate | None:
    """The best set of devices of the node for this shape; None: it does not fit there."""
    if len(admitted) < need.devices:
        return None
    fitting = node.fitting(need, admitted, need.rank_bytes)
    if len(fitting) >= need.devices:
        if need.devices == 1:
            place = min(fitting, key=lambda place: style.rank(node, place, need.rank_bytes))
            found = _scored(node, need, ((place,),), style)
        else:
            fitting.sort(key=lambda place: style.rank(node, place, need.rank_bytes))
            found = _scored(node, need, _form(node, fitting, need), style)
        if found is not None:
            return found
    if not need.staged:
        return None
    # Cut unevenly it may fit where evenly it does not: then on the devices with the most memory.
    fitting = node.fitting(need, admitted, need.least_bytes)
    if len(fitting) < need.devices:
        return None
    fitting.sort(key=lambda place: (-node.free[place], place))
    found = _scored(node, need, _form(node, fitting, need), style)
    if found is not None or need.width == 1:
        return found
    width = need.width
    return _scored(
        node,
        need,
        tuple(tuple(sorted(fitting[i : i + width])) for i in range(0, need.devices, width)),
        style,
    )


def every_on(
    node: Node, need: ShapeNeed, admitted: Sequence[int], style: Style
) -> Iterator[Candidate]:
    """One candidate for every set of devices that differs from the others in more than names.

    Where there are too many sets, the best alone.
    """
    fitting = node.fitting(need, admitted, need.least_bytes)
    if len(fitting) < need.devices:
        return
    if need.devices > 1 and comb(len(fitting), need.devices) > _SETS_MAX:
        best = best_on(node, need, admitted, style)
        if best is not None:
            yield best
        return
    kinds: dict[object, list[int]] = {}
    for place in fitting:
        role = node.layout.roles[place] if need.width > 1 else 0
        kinds.setdefault((role, node.state(place)), []).append(place)
    for chosen in _sets(list(kinds.values()), need.devices):
        found = best_on(node, need, chosen, style)
        if found is None:
            continue
        yield found
        if need.staged:
            free = [min(node.free[place] for place in stage) for stage in found.stages]
            for fit in need.fits(free)[1:]:
                yield _with_fit(node, need, found.stages, fit, style)


def _sets(kinds: list[list[int]], size: int) -> Iterator[list[int]]:
    """Every way to take `size` devices, of each kind the first ones."""
    if size == 1:
        yield from ([members[0]] for members in kinds)
        return
    for counts in product(*(range(min(size, len(members)) + 1) for members in kinds)):
        if sum(counts) == size:
            yield [
                place
                for members, count in zip(kinds, counts, strict=True)
                for place in members[:count]
            ]


def _form(node: Node, ordered: Sequence[int], need: ShapeNeed) -> Stages:
    if need.width == 1:
        return tuple((place,) for place in sorted(ordered[: need.devices]))
    return node.layout.form(ordered, need.width, need.stages)


def _scored(node: Node, need: ShapeNeed, stages: Stages, style: Style) -> Candidate | None:
    free = node.free
    fit = need.fit([min(free[place] for place in stage) for stage in stages])
    return None if fit is None else _with_fit(node, need, stages, fit, style)


def _with_fit(node: Node, need: ShapeNeed, stages: Stages, fit: Fit, style: Style) -> Candidate:
    order, layers, each = fit
    stages = tuple(stages[place] for place in order)
    if need.whole:
        claims = tuple(node.free[place] for stage in stages for place in stage)
    else:
        claims = tuple(claim for claim in each for _ in range(need.width))
    topology = 100 if need.width == 1 else node.layout.score(stages)
    places = [place for stage in stages for place in stage]
    score = (
        need.shape.cost,
        *style.score(node, places, claims, topology, need.place),
        node.place,
        *places,
    )
    return Candidate(score, node, need, stages, layers, claims, topology)


def with_siblings(candidate: Candidate, siblings: int) -> Score:
    """The cheaper shape first, then apart from the siblings, then the style."""
    return (candidate.score[0], siblings, *candidate.score[1:])
