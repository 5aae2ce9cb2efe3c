"""Why a replica finds no devices: device by device, and for the fleet as a whole."""

from collections.abc import Sequence

from msgspec import structs

from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.placement import Refusal, Unplaceable
from muai_core.planning.filters import Admission
from muai_core.planning.needs import NeedKey, NeedTable, ShapeNeed
from muai_core.planning.wording import gib

#: Of a larger fleet, so many refusals of each filter are told; the summary counts all of them.
_TOLD_DEVICES = 512
_TOLD_PER_FILTER = 8


class Explainer:
    """The refusals of one fleet at a time; equal requests cost one look at the devices."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None
        self._table: NeedTable | None = None
        self._known: dict[NeedKey, tuple[dict[str, int], tuple[Refusal, ...], Refusal | None]] = {}

    def refusals(
        self, request: PlacementRequest, admission: Admission, fleet: Fleet
    ) -> tuple[Refusal, ...]:
        """Of the devices that may not be used, in fleet order."""
        return self._look(request, admission, fleet)[1]

    def nothing_eligible(
        self, request: PlacementRequest, admission: Admission, fleet: Fleet
    ) -> Unplaceable:
        """When no device passes the filters."""
        counts, refusals, _ = self._look(request, admission, fleet)
        if not refusals:
            return Unplaceable("the fleet has no devices")
        parts = [f"{count} by {name}" for name, count in counts.items()]
        return Unplaceable(
            f"no device is eligible: refused {', '.join(parts)}; e.g. {refusals[0].message}",
            refusals,
        )

    def explained(
        self,
        answer: Unplaceable,
        request: PlacementRequest,
        admission: Admission,
        fleet: Fleet,
    ) -> Unplaceable:
        """The strategy's answer with everything that the planner can tell beside it."""
        counts, refusals, of_fleet = self._look(request, admission, fleet)
        if sum(counts.values()) == len(fleet.devices) and not answer.refusals:
            return self.nothing_eligible(request, admission, fleet)
        own = answer.refusals if of_fleet is None else (*answer.refusals, of_fleet)
        return structs.replace(answer, refusals=own + refusals)

    def _look(
        self, request: PlacementRequest, admission: Admission, fleet: Fleet
    ) -> tuple[dict[str, int], tuple[Refusal, ...], Refusal | None]:
        if fleet is not self._fleet:
            self._fleet, self._known = fleet, {}
        key = self._needs(fleet).of(request.deployment).key
        if key not in self._known:
            self._known[key] = self._of_devices(request, admission, fleet)
        return self._known[key]

    def _needs(self, fleet: Fleet) -> NeedTable:
        """Made once: claims change, the number of devices of a node does not."""
        if self._table is None:
            self._table = NeedTable(max(map(len, fleet.nodes().values()), default=0))
        return self._table

    def _of_devices(
        self, request: PlacementRequest, admission: Admission, fleet: Fleet
    ) -> tuple[dict[str, int], tuple[Refusal, ...], Refusal | None]:
        limit = len(fleet.devices) if len(fleet.devices) <= _TOLD_DEVICES else _TOLD_PER_FILTER
        counts: dict[str, int] = {}
        told: list[Refusal] = []
        admitted: list[DeviceView] = []
        for view in fleet.devices:
            name = admission.refused_by(request, view)
            if name is None or name == "memory":
                admitted.append(view)
            if name is None:
                continue
            counts[name] = count = counts.get(name, 0) + 1
            if count <= limit and (refusal := admission.refusal(request, view)) is not None:
                told.append(refusal)
        return counts, tuple(told), self._of_fleet(request, admitted, self._needs(fleet))

    def _of_fleet(
        self, request: PlacementRequest, admitted: Sequence[DeviceView], table: NeedTable
    ) -> Refusal:
        """What stands in the way although single devices would do."""
        needs = table.of(request.deployment)
        nodes = Fleet(tuple(admitted)).nodes().values()
        most = max(map(len, nodes), default=0)
        if most < needs.fewest_devices:
            message = (
                f"needs {needs.fewest_devices} devices on one node, "
                f"at most {most} may be used on any"
            )
            return Refusal(None, "shape", message)
        possible = [need for group in needs.groups for need in group if need.devices <= most]
        sizes = dict.fromkeys(
            tuple(sorted((view.allocatable_bytes for view in views), reverse=True))
            for views in nodes
        )
        for need in possible:
            if any(_would_fit(need, largest_first) for largest_first in sizes):
                each = "whole devices" if need.whole else f"up to {gib(need.rank_bytes)} each"
                message = f"{need.words} needs {each}; the others' claims leave too little"
                return Refusal(None, "capacity", message)
        least = min(possible, key=lambda need: need.rank_bytes)
        message = (
            f"{least.words} needs {gib(least.rank_bytes)} of each device: "
            f"no node has {least.devices} so large"
        )
        return Refusal(None, "memory", message)


def _would_fit(need: ShapeNeed, largest_first: Sequence[int]) -> bool:
    """Whether the devices of one node could hold this shape if nobody claimed anything."""
    if len(largest_first) < need.devices:
        return False
    # A stage is as large as its smallest device.
    return need.fit(largest_first[need.width - 1 : need.devices : need.width]) is not None
