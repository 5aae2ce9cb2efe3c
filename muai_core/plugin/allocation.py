"""Allocation strategies: which of the eligible devices a replica gets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from muai_core.model.fleet import Fleet, PlacementProblem, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.plugin.options import Configurable


class AllocationStrategy(Configurable, ABC):
    """A policy: a pure function that runs inside the control plane.

    Every answer is checked before it is applied: a placement that names an ineligible device, names
    one twice, has a shape that the deployment does not allow, or claims less than a rank needs or
    more than is free is refused with the reason.

    All ranks of a replica share a CPU, so that there it is one rank to a strategy, which needs the
    sum of their bytes; `Deployment.shared_shape` tells the shape. The planner makes the ranks of
    the answer.
    """

    @abstractmethod
    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        """Called for a replica that needs devices, whenever the fleet has changed.

        Filters run first (platform, affinity, health, shape, memory), so `fleet` holds eligible
        devices only. It must not block, sleep, read clocks, use chance or keep state: equal
        arguments, equal results. If it raises, the replica stays pending with the exception as its
        reason.
        """

    def place_all(self, problem: PlacementProblem) -> Sequence[Placement | Unplaceable] | None:
        """Called instead of `place` for all replicas that need devices at once; must not block.

        Answers in the order of `problem.requests`. None, the default: `place` is called for one
        after the other. If it raises, none of them is placed.
        """
        return None
