"""Replicas on the fleet: filter, let the strategy choose, check what it chose, explain the rest."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import msgspec
from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
from muai_core.model.memory import Shape, even_partition
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.filters import Admission
from muai_core.planning.partition import best_partition
from muai_core.planning.refusals import Explainer
from muai_core.planning.sharing import folded, unfolded
from muai_core.planning.wording import described, one_line
from muai_core.plugin.allocation import AllocationStrategy

#: A placement or why there is none, and a complaint about the strategy: it raised, or it chose
#: something that may not be applied.
Answer = tuple[Placement | Unplaceable, str | None]


def place(request: PlacementRequest, fleet: Fleet, strategy: AllocationStrategy) -> Answer:
    """A placement that breaks no rule, or why there is none; and a complaint about the strategy."""
    books = Books(fleet)
    one = books.folded(request)
    return _unfolded(_place_one(one, books, strategy, Explainer()), request, one)


def place_all(
    requests: Sequence[PlacementRequest], fleet: Fleet, strategy: AllocationStrategy
) -> list[Answer]:
    """The same for several replicas at once, in their order; together they over-commit nothing.

    A strategy that plans replicas together is asked once; of its answers those that break a rule
    are refused, the others stand. Any other strategy is asked for one replica after the other, and
    sees the claims of those before. Ranks that share a CPU are one rank to it. Never raises.
    """
    if not requests:
        return []
    books = Books(fleet)
    ones = [books.folded(request) for request in requests]
    answers = _all_placed(ones, books, strategy)
    return list(map(_unfolded, answers, requests, ones))


def _unfolded(answer: Answer, request: PlacementRequest, one: PlacementRequest) -> Answer:
    placed, complaint = answer
    if isinstance(placed, Placement):
        placed = unfolded(placed, request.deployment, one.deployment)
    return placed, complaint


def _all_placed(
    requests: Sequence[PlacementRequest], books: "Books", strategy: AllocationStrategy
) -> list[Answer]:
    problem = PlacementProblem(
        requests=tuple(map(_own_copy, requests)),
        fleet=books.before,
        admits=books.admission.admits,
    )
    try:
        together = _as_many(strategy.place_all(problem), len(requests))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may raise anything at all
        complaint = f"allocation strategy {strategy.name} raised {described(error)}"
        first: Answer = (Unplaceable(complaint), complaint)
        # One call, one complaint; but none of them has devices.
        return [first] + [(first[0], None)] * (len(requests) - 1)
    explainer = Explainer()
    if together is None:
        return _one_after_the_other(requests, books, strategy, explainer)
    return _checked_together(requests, together, books, strategy, explainer)


class Books:
    """The fleet while replicas are placed on it: what each of them may use of what is left."""

    def __init__(self, fleet: Fleet) -> None:
        self.before = fleet
        self.admission = Admission(fleet)
        self._views = {view.uuid: view for view in fleet.devices}
        self._fleet: Fleet | None = fleet
        self._folded: dict[int, tuple[Deployment, Deployment]] = {}

    def folded(self, request: PlacementRequest) -> PlacementRequest:
        """With the ranks that will share a device as one; equal deployments stay one object."""
        deployment = request.deployment
        known = self._folded.get(id(deployment))
        if known is None:
            one = folded(deployment, self.admission.platform(request))
            # The deployment is kept, so that its id stays its own.
            known = self._folded[id(deployment)] = (deployment, one)
        if known[1] is deployment:
            return request
        return structs.replace(request, deployment=known[1])

    def fleet(self) -> Fleet:
        """With the claims so far."""
        if self._fleet is None:
            self._fleet = structs.replace(self.before, devices=tuple(self._views.values()))
        return self._fleet

    def usable(self, request: PlacementRequest, uuids: Sequence[str]) -> dict[str, DeviceView]:
        """Those of the devices that pass every filter."""
        views = ((uuid, self._views.get(uuid)) for uuid in uuids)
        return {
            uuid: view
            for uuid, view in views
            if view is not None and self.admission.refusal(request, view) is None
        }

    def node_of(self, uuid: str) -> str:
        return self._views[uuid].device.node

    def claim(self, request: PlacementRequest, placement: Placement) -> None:
        for uuid, claim in zip(placement.devices, placement.claims, strict=True):
            view = self._views[uuid]
            self._views[uuid] = structs.replace(
                view,
                claimed_bytes=view.claimed_bytes + claim,
                claimants=(*view.claimants, request.replica_id),
            )
        self._fleet = None


def _one_after_the_other(
    requests: Sequence[PlacementRequest],
    books: Books,
    strategy: AllocationStrategy,
    explainer: Explainer,
) -> list[Answer]:
    """Each sees the claims of those before, and where its siblings among them went."""
    answers = []
    nodes: dict[str, tuple[str, ...]] = {}
    for request in requests:
        name = request.deployment.name
        siblings = request.sibling_nodes + nodes.get(name, ())
        answer = _place_one(
            structs.replace(request, sibling_nodes=siblings), books, strategy, explainer
        )
        if isinstance(answer[0], Placement):
            nodes[name] = (*nodes.get(name, ()), books.node_of(answer[0].devices[0]))
        answers.append(answer)
    return answers


def _place_one(
    request: PlacementRequest, books: Books, strategy: AllocationStrategy, explainer: Explainer
) -> Answer:
    fleet = books.fleet()
    candidates = books.admission.eligible(request, fleet)
    if not candidates.devices:
        return explainer.nothing_eligible(request, books.admission, fleet), None
    try:
        chosen = _well_formed(strategy.place(_own_copy(request), candidates))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may raise anything at all
        complaint = f"allocation strategy {strategy.name} raised {described(error)}"
        return Unplaceable(complaint, explainer.refusals(request, books.admission, fleet)), (
            complaint
        )
    if isinstance(chosen, Unplaceable):
        return explainer.explained(chosen, request, books.admission, fleet), None
    views = {view.uuid: view for view in candidates.devices}
    chosen = complete(chosen, request, views)
    faults = check(chosen, request, views)
    if faults:
        complaint = f"allocation strategy {strategy.name} was refused: {'; '.join(faults)}"
        return Unplaceable(complaint, explainer.refusals(request, books.admission, fleet)), (
            complaint
        )
    books.claim(request, chosen)
    return chosen, None


def _as_many(answers: object, count: int) -> Sequence[object] | None:
    """Raises TypeError unless there is one answer for each request, or None at all."""
    if answers is None:
        return None
    if not isinstance(answers, Sequence) or len(answers) != count:
        found = f"{len(answers)} of them" if isinstance(answers, Sequence) else "no sequence"
        raise TypeError(f"expected {count} answers from place_all, got {found}")
    return answers


def _checked_together(
    requests: Sequence[PlacementRequest],
    together: Sequence[object],
    books: Books,
    strategy: AllocationStrategy,
    explainer: Explainer,
) -> list[Answer]:
    """The answers that may stand, claimed in order; the refusals are as of after all of them."""
    answers: list[tuple[Placement | Unplaceable, str | None]] = []
    for request, answer in zip(requests, together, strict=True):
        try:
            chosen = _well_formed(answer)
        except Exception as error:  # noqa: BLE001 - whatever msgspec makes of foreign fields
            complaint = f"allocation strategy {strategy.name} raised {described(error)}"
            answers.append((Unplaceable(complaint), complaint))
            continue
        if isinstance(chosen, Unplaceable):
            answers.append((chosen, None))
            continue
        usable = books.usable(request, chosen.devices)
        chosen = complete(chosen, request, usable)
        faults = check(chosen, request, usable)
        if faults:
            complaint = f"allocation strategy {strategy.name} was refused: {'; '.join(faults)}"
            answers.append((Unplaceable(complaint), complaint))
            continue
        books.claim(request, chosen)
        answers.append((chosen, None))
    return [
        (
            answer
            if isinstance(answer, Placement)
            else explainer.explained(answer, request, books.admission, books.fleet()),
            complaint,
        )
        for request, (answer, complaint) in zip(requests, answers, strict=True)
    ]


def _own_copy(request: PlacementRequest) -> PlacementRequest:
    """The request with options that a strategy may change without changing anybody else's."""
    deployment = request.deployment
    if deployment.engine_options:
        own = deepcopy(deployment.engine_options)
        deployment = structs.replace(deployment, engine_options=own)
    return structs.replace(request, deployment=deployment, options=deepcopy(request.options))


def _well_formed(answer: object) -> Placement | Unplaceable:
    """The answer as the plane's own record, every field of the right type.

    Raises TypeError if it is neither a placement nor a refusal, and what msgspec raises if a field
    is malformed: nothing else may get into the state.
    """
    if isinstance(answer, Placement):
        return msgspec.json.decode(msgspec.json.encode(answer), type=Placement)
    if isinstance(answer, Unplaceable):
        found = msgspec.json.decode(msgspec.json.encode(answer), type=Unplaceable)
        return structs.replace(found, summary=one_line(found.summary, 500))
    raise TypeError(f"expected Placement or Unplaceable, got {type(answer).__name__}")


def complete(
    placement: Placement, request: PlacementRequest, views: Mapping[str, DeviceView]
) -> Placement:
    """The placement with its layers cut and its claims made, where the strategy left that open.

    One that breaks a rule comes back as it is, for `check` to refuse.
    """
    deployment = request.deployment
    if placement.claims or not placement.stages or placement.shape not in deployment.shapes:
        return placement
    if any(len(stage) != len(placement.stages[0]) for stage in placement.stages):
        return placement
    free = {uuid: views[uuid].free_bytes if uuid in views else 0 for uuid in placement.devices}
    layers = placement.layers
    if deployment.memory is not None and not layers:
        sharded = deployment.memory.at(placement.shape.tensor_parallel_size)
        scarcest = [min(free[uuid] for uuid in stage) for stage in placement.stages]
        layers = best_partition(sharded, scarcest) or even_partition(
            sharded.layer_count, len(scarcest)
        )
    elif deployment.memory is not None and not _cuts(layers, placement, deployment):
        return placement
    needs = rank_bytes(deployment, placement.shape, layers)
    claims = [
        free[uuid] if need is None else need
        for stage, need in zip(placement.stages, needs, strict=True)
        for uuid in stage
    ]
    return structs.replace(placement, claims=tuple(claims), layers=layers)


def _cuts(layers: tuple[int, ...], placement: Placement, deployment: Deployment) -> bool:
    """Whether `layers` gives every stage a part of the model, and nothing is left over."""
    assert deployment.memory is not None
    return (
        len(layers) == len(placement.stages)
        and min(layers) >= 1
        and sum(layers) == deployment.memory.sharded[0].layer_count
    )


def rank_bytes(
    deployment: Deployment, shape: Shape, layers: tuple[int, ...]
) -> tuple[int | None, ...]:
    """What a rank of each stage needs; None: unknown, so a whole device."""
    if deployment.memory_bytes_per_device is not None or deployment.memory is None:
        return (deployment.memory_bytes_per_device,) * shape.pipeline_parallel_size
    return tuple(rank.total_bytes for rank in deployment.memory.ranks(shape, layers))


def check(
    placement: Placement, request: PlacementRequest, views: Mapping[str, DeviceView]
) -> list[str]:
    """Every rule that a strategy's answer breaks, in words; empty when it may be applied.

    `views` are the devices that the request may use, by UUID.
    """
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
    nodes = sorted({views[uuid].device.node for uuid in devices if uuid in views})
    if len(nodes) > 1:
        faults.append(f"the devices are on nodes {', '.join(nodes)}; a replica runs on one")
    if deployment.memory is not None and not _cuts(placement.layers, placement, deployment):
        faults.append(f"the layers {list(placement.layers)} do not cut the model into its stages")
        return faults
    if len(placement.claims) != len(devices):
        faults.append(f"{len(placement.claims)} claims for {len(devices)} devices")
        return faults
    needs = rank_bytes(deployment, placement.shape, placement.layers)
    claims = iter(placement.claims)
    for stage, need in zip(placement.stages, needs, strict=True):
        for uuid in stage:
            claim = next(claims)
            if uuid not in views:
                faults.append(f"{uuid} is not eligible")
            elif not (need or 0) <= claim <= views[uuid].free_bytes:
                free = views[uuid].free_bytes
                faults.append(f"claims {claim} bytes of {uuid}: needs {need or 0}, {free} are free")
    return faults


def _shapes_in_words(deployment: Deployment) -> str:
    wanted = deployment.shapes
    words = ", ".join(
        f"{shape.pipeline_parallel_size} stage(s) of {shape.tensor_parallel_size}"
        for shape in wanted[:8]
    )
    return f"one of {words}" if len(wanted) > 1 else words
