"""The fleet as an allocation strategy sees it: an immutable snapshot with the claims applied."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceLink, Platform
from muai_core.model.health import Health
from muai_core.model.memory import Shape
from muai_core.model.placement import Placement, Unplaceable


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device with what is left of it."""

    device: Device
    health: Health
    health_reason: str | None
    #: Capacity less the reserve and what foreign processes hold.
    allocatable_bytes: int
    #: Sum of all claims on the device.
    claimed_bytes: int
    #: Ids of the replicas that hold a claim here.
    claimants: tuple[str, ...] = ()

    @property
    def uuid(self) -> str:
        return self.device.uuid

    @property
    def free_bytes(self) -> int:
        return max(0, self.allocatable_bytes - self.claimed_bytes)


class Fleet(Struct, frozen=True):
    """Devices in a fixed order: node, index, UUID."""

    devices: tuple[DeviceView, ...]
    #: Platforms that the fleet has or had: a model does not slide to a worse one when the devices
    #: of a better one vanish.
    platforms: tuple[Platform, ...] = ()
    #: What lies between two devices, by their UUIDs in both directions.
    links: Mapping[str, Mapping[str, DeviceLink]] = {}

    def nodes(self) -> dict[str, list[DeviceView]]:
        """Devices grouped by node, both in fixed order."""
        grouped: dict[str, list[DeviceView]] = {}
        for view in self.devices:
            grouped.setdefault(view.device.node, []).append(view)
        return grouped


class PlacementRequest(Struct, frozen=True, kw_only=True):
    """One replica that needs devices."""

    replica_id: str
    deployment: Deployment
    #: Nodes on which other replicas of the same deployment sit, one entry per replica.
    sibling_nodes: tuple[str, ...] = ()
    #: `allocation.options` of the config, validated by the strategy's options model.
    options: dict[str, Any] = {}

    def placement_on(
        self, devices: Sequence[DeviceView], reason: str = ""
    ) -> Placement | Unplaceable:
        """Fill the stages with the first devices of `devices`, in that order.

        The shape is the preferred one of those that the deployment allows: the first whose layers,
        cut evenly, fit; if none does, the largest that there are devices for, so that the planner
        can try to cut them unevenly. The planner claims what each rank needs, or whole devices when
        that is unknown.
        """
        shapes = [one for one in self.deployment.shapes if one.device_count <= len(devices)]
        if not shapes:
            need = min(one.device_count for one in self.deployment.shapes)
            return Unplaceable(f"needs {need} devices together, {len(devices)} are eligible")
        shape = next((one for one in shapes if self._fits_evenly(one, devices)), shapes[-1])
        width = shape.tensor_parallel_size
        uuids = [view.uuid for view in devices[: shape.device_count]]
        stages = tuple(tuple(uuids[i : i + width]) for i in range(0, shape.device_count, width))
        return Placement(stages, reason=reason)

    def _fits_evenly(self, shape: Shape, devices: Sequence[DeviceView]) -> bool:
        needs = self.deployment.even_rank_bytes(shape)
        width = shape.tensor_parallel_size
        return all(
            need is None or all(view.free_bytes >= need for view in devices[i * width :][:width])
            for i, need in enumerate(needs)
        )


class PlacementProblem(Struct, frozen=True, kw_only=True):
    """Several replicas that need devices at once, for strategies that plan them together."""

    #: The most urgent first: when not all fit, the later ones wait.
    requests: tuple[PlacementRequest, ...]
    #: All devices, also those that a filter refuses.
    fleet: Fleet
    #: Whether the filters let a request use a device at all (platform, affinity, health); what is
    #: free on it is not asked.
    admits: Callable[[PlacementRequest, DeviceView], bool]
