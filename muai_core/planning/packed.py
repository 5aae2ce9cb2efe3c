"""The strategy that keeps whole devices and nodes free for the next large model."""

from collections.abc import Sequence

from muai_core.model.fleet import Fleet, PlacementProblem, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.search import place_many, place_one
from muai_core.planning.styles import Dense
from muai_core.plugin.allocation import AllocationStrategy


class Packed(AllocationStrategy):
    """As many models as possible; each where it opens the fewest devices and leaves the least over.

    Score of a place, in this order: fewer devices; fewer replicas of the same deployment on the
    node; fewer devices and nodes that were empty; the links between tensor-parallel ranks; the
    shape that the deployment prefers; no degraded device; the tightest fit; then node and index.
    """

    name = "packed"

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        return place_one(request, fleet, Dense())

    def place_all(self, problem: PlacementProblem) -> Sequence[Placement | Unplaceable]:
        return place_many(problem.requests, problem.fleet, problem.admits, Dense())
