"""What a config would lead to: the real control plane, one step, no executor."""

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from muai_core.config.loaded import LoadedConfig
from muai_core.control.events import DeploymentsDesired, DeviceSourceFailed
from muai_core.control.state import State
from muai_core.runtime import assembly
from muai_core.runtime.measured_starts import MeasuredStarts
from muai_core.runtime.observation import OBSERVE_DEADLINE_S, observe_once
from muai_core.runtime.resolution import Resolved, resolve


class DryRun(Struct, frozen=True):
    """The state after the first step: what fits is placed, and nothing was started."""

    state: State
    resolved: Resolved
    #: On the state's clock.
    now_s: float


def dry_run(
    loaded: LoadedConfig,
    tell: Callable[[str], None],
    deadline_s: float = OBSERVE_DEADLINE_S,
    state_dir: Path | None = None,
) -> DryRun:
    """Observe the devices, choose the engines and let the plane place everything.

    What runs on the devices now, be it another controller's, counts as foreign. `tell` gets a line
    for each device source that fails. The starts that a controller measured in `state_dir` correct
    the estimates as they would there; nothing is written. Raises ConfigError for models that no
    engine suits.
    """
    facts = observe_once(assembly.device_sources(loaded), deadline_s)
    for fact in facts:
        if isinstance(fact, DeviceSourceFailed):
            # Told here already, because it may be why no engine suits.
            tell(f"device source {fact.source}: {fact.reason}")
    measured = MeasuredStarts(None)
    if state_dir is not None:
        measured = MeasuredStarts.load(state_dir, tell, keep_broken=False)
    calibrator = measured.calibrator(assembly.device_names_in(facts))
    resolved = resolve(loaded, assembly.platforms_in(facts), calibrator)
    plane = assembly.make_plane(loaded, resolved)
    now_s = time.monotonic()
    plane.step(now_s, [*facts, DeploymentsDesired(deployments=resolved.deployments)])
    return DryRun(plane.state, resolved, now_s)
