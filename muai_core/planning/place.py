"""One replica on the fleet: filter, let the strategy choose, check what it chose."""

from copy import deepcopy

import msgspec
from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.memory import Shape, even_partition
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
    chosen = complete(chosen, request, candidates)
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


def complete(placement: Placement, request: PlacementRequest, candidates: Fleet) -> Placement:
    """The placement with its layers cut and its claims made, where the strategy left that open.

    One that breaks a rule comes back as it is, for `check` to refuse.
    """
    deployment = request.deployment
    if placement.claims or not placement.stages or placement.shape not in deployment.shapes:
        return placement
    free = {view.uuid: view.free_bytes for view in candidates.devices}
    layers = placement.layers
    if deployment.memory is not None and not layers:
        sharded = deployment.memory.at(placement.shape.tensor_parallel_size)
        layers = even_partition(sharded.layer_count, len(placement.stages))
    needs = rank_bytes(deployment, placement.shape, layers)
    claims = [
        free.get(uuid, 0) if need is None else need
        for stage, need in zip(placement.stages, needs, strict=True)
        for uuid in stage
    ]
    return structs.replace(placement, claims=tuple(claims), layers=layers)


def rank_bytes(
    deployment: Deployment, shape: Shape, layers: tuple[int, ...]
) -> tuple[int | None, ...]:
    """What a rank of each stage needs; None: unknown, so a whole device."""
    if deployment.memory_bytes_per_device is not None or deployment.memory is None:
        return (deployment.memory_bytes_per_device,) * shape.pipeline_parallel_size
    return tuple(rank.total_bytes for rank in deployment.memory.ranks(shape, layers))


def check(placement: Placement, request: PlacementRequest, candidates: Fleet) -> list[str]:
    """Every rule that a strategy's answer breaks, in words; empty when it may be applied."""
    deployment = request.deployment
    stage_sizes = [len(stage) for stage in placement.stages]
    allowed = [
        [shape.tensor_parallel_size] * shape.pipeline_parallel_size for shape in deployment.shapes
    ]
    if stage_sizes not in allowed:
        return [f"the shape is {stage_sizes}, wanted {_shapes_in_words(deployment)}"]
    faults = []
    devices = placement.devices
    if len(set(devices)) != len(devices):
        faults.append("a device is named twice")
    if len(placement.claims) != len(devices):
        faults.append(f"{len(placement.claims)} claims for {len(devices)} devices")
        return faults
    memory = deployment.memory
    if memory is not None and (
        len(placement.layers) != len(placement.stages)
        or min(placement.layers) < 1
        or sum(placement.layers) != memory.sharded[0].layer_count
    ):
        faults.append(f"the layers {list(placement.layers)} do not cut the model into its stages")
        return faults
    needs = rank_bytes(deployment, placement.shape, placement.layers)
    free = {view.uuid: view.free_bytes for view in candidates.devices}
    claims = iter(placement.claims)
    for stage, need in zip(placement.stages, needs, strict=True):
        for uuid in stage:
            claim = next(claims)
            if uuid not in free:
                faults.append(f"{uuid} is not eligible")
            elif not (need or 0) <= claim <= free[uuid]:
                faults.append(
                    f"claims {claim} bytes of {uuid}: needs {need or 0}, {free[uuid]} are free"
                )
    return faults


def _shapes_in_words(deployment: Deployment) -> str:
    wanted = deployment.shapes
    words = ", ".join(
        f"{shape.pipeline_parallel_size} stage(s) of {shape.tensor_parallel_size}"
        for shape in wanted[:8]
    )
    return f"one of {words}" if len(wanted) > 1 else words


def _summary(refusals: tuple[Refusal, ...]) -> str:
    if not refusals:
        return "the fleet has no devices"
    counts: dict[str, int] = {}
    for refusal in refusals:
        counts[refusal.filter] = counts.get(refusal.filter, 0) + 1
    parts = [f"{count} by {name}" for name, count in counts.items()]
    return f"no device is eligible: refused {', '.join(parts)}; e.g. {refusals[0].message}"
