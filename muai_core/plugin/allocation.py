"""Allocation strategies: which of the eligible devices a replica gets."""

from abc import ABC, abstractmethod

from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.placement import Placement, Unplaceable
from muai_core.plugin.options import Configurable


class AllocationStrategy(Configurable, ABC):
    """A policy: a pure function that runs inside the control plane.

    Filters run first (health, platform, affinity, memory), so `fleet` holds eligible devices only.
    The result is checked before it is applied: a placement that names an ineligible device, names
    one twice, has the wrong shape or claims more than is free is refused with the reason.
    """

    @abstractmethod
    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        """Called for every replica that needs devices, whenever the fleet has changed.

        It must not block, sleep, read clocks, use chance or keep state: equal arguments, equal
        results. If it raises, the replica stays pending with the exception as its reason.
        """
