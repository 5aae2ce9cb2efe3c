"""What a config would lead to: the real control plane, without an executor."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from msgspec import Struct, structs

from muai_core.config.loaded import LoadedConfig
from muai_core.control.events import DeploymentsDesired, DevicesObserved, DeviceSourceFailed, Event
from muai_core.control.plane import ControlPlane
from muai_core.control.state import State
from muai_core.model.deployment import Deployment
from muai_core.model.device import Inventory, Platform
from muai_core.planning.calibration import Calibrate
from muai_core.runtime import assembly
from muai_core.runtime.measured_starts import MeasuredStarts
from muai_core.runtime.observation import OBSERVE_DEADLINE_S, observe_once, without_self_tests
from muai_core.runtime.resolution import Resolved, resolve

#: What a simulated GPU stands for.
_REAL: Platform = "cuda"


class DryRun(Struct, frozen=True):
    """A plane after its first step: what fits is placed, and nothing was started."""

    plane: ControlPlane
    resolved: Resolved
    #: On the state's clock.
    now_s: float
    #: What was said of the devices.
    facts: tuple[Event, ...]

    @property
    def state(self) -> State:
        return self.plane.state


def dry_run(
    loaded: LoadedConfig,
    tell: Callable[[str], None],
    deadline_s: float = OBSERVE_DEADLINE_S,
    state_dir: Path | None = None,
    *,
    inventory: Inventory | None = None,
) -> DryRun:
    """Observe the devices, choose the engines and let the plane place everything.

    What runs on the devices now, be it another controller's, counts as foreign. `tell` gets a line
    for each device source that fails. The starts that a controller measured in `state_dir` correct
    the estimates as they would there; nothing is written. With an `inventory` no device is looked
    at: it is planned on that, and what would run on simulated GPUs runs on its GPUs. Raises
    ConfigError for models that no engine suits.
    """
    facts: list[Event]
    if inventory is None:
        facts = observe_once(assembly.device_sources(loaded), deadline_s)
        for fact in facts:
            if isinstance(fact, DeviceSourceFailed):
                # Told here already, because it may be why no engine suits.
                tell(f"device source {fact.source}: {fact.reason}")
    else:
        now_s = time.monotonic()
        facts = [DevicesObserved(inventory=structs.replace(inventory, observed_at_s=now_s))]
    measured = MeasuredStarts(None)
    if state_dir is not None:
        measured = MeasuredStarts.load(state_dir, tell, keep_broken=False)
    calibrate = measured.calibrator(assembly.device_names_in(facts))
    platforms = assembly.platforms_in(facts)
    if inventory is None:
        resolved = resolve(loaded, platforms, calibrate)
        now_s = time.monotonic()
    else:
        # It is not observed, so it does not age: equal questions get equal answers.
        resolved = _resolved_on(loaded, platforms, calibrate)
    resolved = structs.replace(resolved, settings=without_self_tests(resolved.settings))
    plane = assembly.make_plane(loaded, resolved)
    plane.step(now_s, [*facts, DeploymentsDesired(deployments=resolved.deployments)])
    return DryRun(plane, resolved, now_s, tuple(facts))


def _resolved_on(
    loaded: LoadedConfig, platforms: Collection[Platform], calibrate: Calibrate
) -> Resolved:
    """The config on devices that need not exist: a rehearsal becomes a plan for real GPUs."""
    if _REAL not in platforms:
        return resolve(loaded, platforms, calibrate)
    resolved = resolve(loaded, [*platforms, "simulated"], calibrate)
    if "simulated" in platforms:
        return resolved
    deployments = tuple(map(_on_real_gpus, resolved.deployments))
    return structs.replace(resolved, deployments=deployments)


def _on_real_gpus(deployment: Deployment) -> Deployment:
    affinity = deployment.affinity
    if affinity.platform is not None:
        affinity = structs.replace(affinity, platform=_instead(affinity.platform))
    platforms = tuple(dict.fromkeys(map(_instead, deployment.platforms)))
    return structs.replace(deployment, platforms=platforms, affinity=affinity)


def _instead(platform: Platform) -> Platform:
    return _REAL if platform == "simulated" else platform


def without_devices(facts: Sequence[Event], uuids: Collection[str], now_s: float) -> list[Event]:
    """The same observations, as of `now_s`, without the devices named."""
    left: list[Event] = []
    for fact in facts:
        if isinstance(fact, DevicesObserved):
            inventory = fact.inventory
            left.append(
                DevicesObserved(
                    inventory=structs.replace(
                        inventory,
                        observed_at_s=now_s,
                        devices=tuple(one for one in inventory.devices if one.uuid not in uuids),
                        readings=tuple(one for one in inventory.readings if one.uuid not in uuids),
                        links=tuple(
                            one
                            for one in inventory.links
                            if one.a not in uuids and one.b not in uuids
                        ),
                    )
                )
            )
    return left
