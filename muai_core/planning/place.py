"""One replica on the fleet: filter, let the strategy choose, check what it chose."""

from copy import deepcopy

import msgspec
from msgspec import structs

from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.placement import Placement, Refusal, Unplaceable
from muai_core.planning.filters import eligible
from muai_core.planning.wording import described, one_line
from muai_core.plugin.allocation import AllocationStrategy


def place(
    request: PlacementRequest, fleet: Fleet, strategy: AllocationStrategy
) -> tuple[Placement | Unplaceable, str | None]:
    """A placement that breaks no rule, or why there is none; and a complaint about the strategy.

    The complaint is set when the strategy raised or chose something that may not be applied.
    """
    candidates, refusals = eligible(request, fleet)
    if not candidates.devices:
        return Unplaceable(_summary(refusals), refusals), None
    try:
        chosen = _well_formed(strategy.place(_own_copy(request), candidates))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may raise anything at all
        complaint = f"allocation strategy {strategy.name} raised {described(error)}"
        return Unplaceable(complaint, refusals), complaint
    if isinstance(chosen, Unplaceable):
        return Unplaceable(one_line(chosen.summary, 500), chosen.refusals + refusals), None
    faults = check(chosen, request, candidates)
    if faults:
        complaint = f"allocation strategy {strategy.name} was refused: {'; '.join(faults)}"
        return Unplaceable(complaint, refusals), complaint
    return chosen, None


def _own_copy(request: PlacementRequest) -> PlacementRequest:
    """The request with options that a strategy may change without changing anybody else's."""
    deployment = request.deployment
    own = structs.replace(deployment, engine_options=deepcopy(deployment.engine_options))
    return structs.replace(request, deployment=own, options=deepcopy(request.options))


def _well_formed(answer: object) -> Placement | Unplaceable:
    """The answer as the plane's own record, every field of the right type.

    Raises TypeError if it is neither a placement nor a refusal, and what msgspec raises if a field
    is malformed: nothing else may get into the state.
    """
    if isinstance(answer, Placement):
        return msgspec.json.decode(msgspec.json.encode(answer), type=Placement)
    if isinstance(answer, Unplaceable):
        return msgspec.json.decode(msgspec.json.encode(answer), type=Unplaceable)
    raise TypeError(f"expected Placement or Unplaceable, got {type(answer).__name__}")


def check(placement: Placement, request: PlacementRequest, candidates: Fleet) -> list[str]:
    """Every rule that a strategy's answer breaks, in words; empty when it may be applied."""
    deployment = request.deployment
    width, depth = deployment.tensor_parallel_size, deployment.pipeline_parallel_size
    faults = []
    shape = [len(stage) for stage in placement.stages]
    if shape != [width] * depth:
        faults.append(f"the shape is {shape}, wanted {depth} stage(s) of {width}")
    devices = placement.devices
    if len(set(devices)) != len(devices):
        faults.append("a device is named twice")
    if len(placement.claims) != len(devices):
        faults.append(f"{len(placement.claims)} claims for {len(devices)} devices")
        return faults
    free = {view.uuid: view.free_bytes for view in candidates.devices}
    need = deployment.memory_bytes_per_device or 0
    for uuid, claim in zip(devices, placement.claims, strict=True):
        if uuid not in free:
            faults.append(f"{uuid} is not eligible")
        elif not need <= claim <= free[uuid]:
            faults.append(f"claims {claim} bytes of {uuid}: needs {need}, {free[uuid]} are free")
    return faults


def _summary(refusals: tuple[Refusal, ...]) -> str:
    if not refusals:
        return "the fleet has no devices"
    counts: dict[str, int] = {}
    for refusal in refusals:
        counts[refusal.filter] = counts.get(refusal.filter, 0) + 1
    parts = [f"{count} by {name}" for name, count in counts.items()]
    return f"no device is eligible: refused {', '.join(parts)}; e.g. {refusals[0].message}"
