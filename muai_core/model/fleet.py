"""The fleet as an allocation strategy sees it: an immutable snapshot with the claims applied."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, Platform
from muai_core.model.health import Health
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
        """Fill the stages with the first tensor × pipeline devices of `devices`, in that order.

        Each device is claimed for the deployment's bytes per device, or whole when that is unknown.
        """
        need = self.deployment.devices_per_replica
        if len(devices) < need:
            return Unplaceable(f"needs {need} devices together, {len(devices)} are eligible")
        chosen = devices[:need]
        width = self.deployment.tensor_parallel_size
        uuids = [view.uuid for view in chosen]
        stages = tuple(tuple(uuids[i : i + width]) for i in range(0, need, width))
        want = self.deployment.memory_bytes_per_device
        claims = tuple(view.free_bytes if want is None else want for view in chosen)
        return Placement(stages, claims, reason)
