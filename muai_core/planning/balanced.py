"""The default strategy: spread the load, keep tensor parallelism on fast links."""

from collections.abc import Sequence

from muai_core.model.fleet import Fleet, PlacementProblem, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.search import place_many, place_one
from muai_core.planning.styles import Dense, Spread
from muai_core.plugin.allocation import AllocationStrategy


class Balanced(AllocationStrategy):
    """As many models as possible; each in a cheap shape, well linked, where little is claimed.

    Score of a place, in this order: the cheaper shape; fewer replicas of the same deployment on the
    node; the links between tensor-parallel ranks; the shape that the deployment prefers; no
    degraded device; the smallest claimed share; then node and index. A replica stays on one node.
    When some would wait on a small fleet, and packing serves more, they are packed.
    """

    name = "balanced"

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        return place_one(request, fleet, Spread())

    def place_all(self, problem: PlacementProblem) -> Sequence[Placement | Unplaceable]:
        return place_many(problem.requests, problem.fleet, problem.admits, Spread(), Dense())
