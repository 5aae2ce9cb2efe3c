"""Filters: which devices a replica may use at all, and for the others the one reason why not."""

from collections.abc import Callable
from functools import lru_cache

from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.device import Platform
from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.placement import Refusal
from muai_core.planning import sharing
from muai_core.planning.wording import gib

#: Returns why the device is refused, or None. `platform` is the one chosen for this request.
Filter = Callable[[PlacementRequest, DeviceView, Platform | None], str | None]


def choose_platform(request: PlacementRequest, fleet: Fleet) -> Platform | None:
    """The best platform of the engine that the fleet has or had, or the one the config names.

    A model never slides to a slower platform because the better one is full or its devices are
    gone: that would be a silent loss of quality. Name the platform in `affinity.platform` to choose
    the slower one.
    """
    if request.deployment.affinity.platform is not None:
        return request.deployment.affinity.platform
    there = {*fleet.platforms, *(view.device.platform for view in fleet.devices)}
    return next((platform for platform in request.deployment.platforms if platform in there), None)


def _platform(request: PlacementRequest, view: DeviceView, platform: Platform | None) -> str | None:
    own = view.device.platform
    if own not in request.deployment.platforms:
        runs_on = ", ".join(request.deployment.platforms)
        return f"engine {request.deployment.engine} runs on {runs_on}, this is a {own} device"
    if own == platform:
        return None
    if request.deployment.affinity.platform is not None:
        return f"affinity.platform is {platform}, this is a {own} device"
    return f"{platform} comes first on this fleet; to use {own}, set affinity.platform: {own}"


def _affinity(request: PlacementRequest, view: DeviceView, platform: Platform | None) -> str | None:
    affinity = request.deployment.affinity
    device = view.device
    if affinity.nodes and device.node not in affinity.nodes:
        return f"affinity.nodes allows {', '.join(affinity.nodes)}, this node is {device.node}"
    if affinity.devices and not {device.uuid, str(device.index)} & set(affinity.devices):
        return f"affinity.devices allows {', '.join(affinity.devices)}"
    return None


def _health(request: PlacementRequest, view: DeviceView, platform: Platform | None) -> str | None:
    if view.health.placeable:
        return None
    return f"{view.health.value}: {view.health_reason or 'no reason given by its source'}"


def _sharing(request: PlacementRequest, view: DeviceView, platform: Platform | None) -> str | None:
    return sharing.refusal(request.deployment, view.device)


def _memory(need: int | None, view: DeviceView) -> str | None:
    if need is None:
        if view.claimants:
            holders = ", ".join(view.claimants)
            return f"memory need unknown, so a whole device is needed; {holders} is on this one"
        return None if view.free_bytes > 0 else "no memory is free"
    if view.free_bytes >= need:
        return None
    return _too_little(need, view.free_bytes, view.allocatable_bytes, view.claimed_bytes)


@lru_cache(maxsize=1024)  # a large fleet refuses thousands of devices with a handful of texts
def _too_little(need: int, free: int, allocatable: int, claimed: int) -> str:
    return (
        f"needs {gib(need)}, {gib(free)} free "
        f"(allocatable {gib(allocatable)}, claimed {gib(claimed)})"
    )


#: In this order, and then `memory`; the first that refuses names the reason.
_ADMISSION: dict[str, Filter] = {
    "platform": _platform,
    "affinity": _affinity,
    "health": _health,
    "shape": _sharing,
}


class Admission:
    """What the filters say on one fleet. The platform of equal requests is chosen once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._platforms: dict[tuple[tuple[Platform, ...], Platform | None], Platform | None] = {}
        self._least_bytes: dict[int, tuple[Deployment, int | None]] = {}

    def platform(self, request: PlacementRequest) -> Platform | None:
        """The one that `choose_platform` says."""
        deployment = request.deployment
        key = (deployment.platforms, deployment.affinity.platform)
        if key not in self._platforms:
            self._platforms[key] = choose_platform(request, self._fleet)
        return self._platforms[key]

    def admits(self, request: PlacementRequest, view: DeviceView) -> bool:
        """Whether the request may use the device, whatever is free on it."""
        platform = self.platform(request)
        return (
            _platform(request, view, platform) is None
            and _affinity(request, view, platform) is None
            and view.health.placeable
            and _sharing(request, view, platform) is None
        )

    def refusal(self, request: PlacementRequest, view: DeviceView) -> Refusal | None:
        """Of the first filter that refuses the device."""
        platform = self.platform(request)
        for name, accepts in _ADMISSION.items():
            message = accepts(request, view, platform)
            if message is not None:
                return Refusal(view.uuid, name, message)
        message = _memory(self._least(request.deployment), view)
        return None if message is None else Refusal(view.uuid, "memory", message)

    def refused_by(self, request: PlacementRequest, view: DeviceView) -> str | None:
        """The name of the filter of `refusal`, without the cost of its words."""
        need = self._least(request.deployment)
        if need is None or not self.admits(request, view):
            refusal = self.refusal(request, view)
            return None if refusal is None else refusal.filter
        return None if view.free_bytes >= need else "memory"

    def _least(self, deployment: Deployment) -> int | None:
        """What no rank can do with less of; summed up over the layers once, not for each device."""
        known = self._least_bytes.get(id(deployment))
        if known is None:
            # The deployment is kept, so that its id stays its own.
            known = self._least_bytes[id(deployment)] = (deployment, deployment.least_rank_bytes)
        return known[1]

    def eligible(self, request: PlacementRequest, fleet: Fleet) -> Fleet:
        """The devices of `fleet`, which has the same platforms, that pass every filter."""
        passed = (view for view in fleet.devices if self.refusal(request, view) is None)
        return structs.replace(fleet, devices=tuple(passed))


def eligible(request: PlacementRequest, fleet: Fleet) -> tuple[Fleet, tuple[Refusal, ...]]:
    """The devices that pass every filter, and one refusal for each of the others."""
    admission = Admission(fleet)
    one = sharing.folded(request.deployment, admission.platform(request))
    request = structs.replace(request, deployment=one)
    passed: list[DeviceView] = []
    refusals: list[Refusal] = []
    for view in fleet.devices:
        refusal = admission.refusal(request, view)
        if refusal is None:
            passed.append(view)
        else:
            refusals.append(refusal)
    return structs.replace(fleet, devices=tuple(passed)), tuple(refusals)
