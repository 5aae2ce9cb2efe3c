"""What a config would lead to: the real control plane, one step, no executor."""

import time

from msgspec import Struct

from muai_core.config.loaded import LoadedConfig
from muai_core.control.events import DeploymentsDesired, DevicesObserved
from muai_core.control.plane import ControlPlane
from muai_core.control.state import State
from muai_core.runtime.observation import OBSERVE_DEADLINE_S, observe_once
from muai_core.runtime.resolution import Resolved, resolve


class DryRun(Struct, frozen=True):
    """The state after the first step: what fits is placed, and nothing was started."""

    state: State
    resolved: Resolved
    #: On the state's clock.
    now_s: float


def dry_run(loaded: LoadedConfig, deadline_s: float = OBSERVE_DEADLINE_S) -> DryRun:
    """Observe the devices, choose the engines and let the plane place everything.

    What runs on the devices now, be it another controller's, counts as foreign. Raises ConfigError
    for models that no engine suits.
    """
    on = loaded.device_source_options()
    sources = {loaded.plugins.device_sources[name]: options for name, options in on.items()}
    facts = observe_once(sources, deadline_s)
    found = [fact.inventory for fact in facts if isinstance(fact, DevicesObserved)]
    platforms = {device.platform for inventory in found for device in inventory.devices}
    resolved = resolve(loaded, platforms)
    plane = ControlPlane(
        resolved.settings,
        loaded.plugins.allocation_strategies[resolved.settings.strategy],
        loaded.plugins.recovery_policies[resolved.settings.policy],
    )
    now_s = time.monotonic()
    plane.step(now_s, [*facts, DeploymentsDesired(deployments=resolved.deployments)])
    return DryRun(plane.state, resolved, now_s)
