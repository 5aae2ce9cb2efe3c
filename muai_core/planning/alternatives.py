"""Every shape that a replica may take, and why it is not the one that was chosen."""

from collections.abc import Sequence

from msgspec import Struct, structs

from muai_core.model.fleet import Fleet, PlacementRequest
from muai_core.model.memory import Shape
from muai_core.planning.candidates import Candidate, best_on
from muai_core.planning.filters import Admission
from muai_core.planning.needs import ShapeNeed
from muai_core.planning.search import Search
from muai_core.planning.sharing import folded
from muai_core.planning.styles import Spread, Style
from muai_core.planning.wording import gib


class Alternative(Struct, frozen=True):
    """One allowed shape with its verdict: `chosen`, `fits` or `refused`."""

    shape: Shape
    verdict: str
    #: One line for people.
    reason: str


def alternatives(
    request: PlacementRequest, fleet: Fleet, style: Style | None = None
) -> tuple[Alternative, ...]:
    """Every allowed shape, in the order of preference; at most one of them is chosen.

    `fleet` is without the replica's own claims. Beyond the shape, nothing is asked of the strategy:
    the best devices of each shape are taken as `style` (that of `balanced` unless given) takes
    them.
    """
    admission = Admission(fleet)
    one = folded(request.deployment, admission.platform(request))
    if one is not request.deployment:
        shared = structs.replace(request, deployment=one)
        return _of_shared(shared, request.deployment.shapes, fleet, style)
    search = Search([request], fleet, admission.admits, style or Spread(), every_shape=True)
    item = search.items[0]
    needs = sorted((need for group in item.needs.groups for need in group), key=lambda n: n.place)
    best = {need.place: _best(search, need) for need in needs}
    fitting = [candidate for candidate in best.values() if candidate is not None]
    chosen = min(fitting, key=lambda one: search.score(item, one), default=None)
    return tuple(_judged(search, need, best[need.place], chosen) for need in needs)


def _of_shared(
    request: PlacementRequest, shapes: Sequence[Shape], fleet: Fleet, style: Style | None
) -> tuple[Alternative, ...]:
    """Where all ranks share a device: the first shape is judged, the others bring nothing."""
    (first,) = alternatives(request, fleet, style)
    why = f"its ranks would share the CPU as those of {shapes[0]} do, and be more"
    return (
        structs.replace(first, shape=shapes[0]),
        *(Alternative(shape, "refused", why) for shape in shapes[1:]),
    )


def _best(search: Search, need: ShapeNeed) -> Candidate | None:
    item = search.items[0]
    found = (
        best_on(node, need, search.board.admitted(item.needs, item.request, node), search.style)
        for node in search.board.walk(item.request, need.least_bytes)
    )
    return min(
        (candidate for candidate in found if candidate is not None),
        key=lambda candidate: search.score(item, candidate),
        default=None,
    )


def _judged(
    search: Search, need: ShapeNeed, own: Candidate | None, chosen: Candidate | None
) -> Alternative:
    if own is None:
        return Alternative(need.shape, "refused", _why_refused(search, need))
    assert chosen is not None
    if own is chosen:
        return Alternative(need.shape, "chosen", _why_chosen(own))
    return Alternative(need.shape, "fits", _why_not_chosen(search, own, chosen))


def _why_chosen(own: Candidate) -> str:
    words = f"{_devices(own.need.devices)} of node {own.node.name}"
    if own.need.width > 1:
        words += f", links {own.topology} of 100"
    return words


def _why_not_chosen(search: Search, own: Candidate, chosen: Candidate) -> str:
    more = own.need.devices - chosen.need.devices
    if more > 0:
        return f"fits, but takes {_devices(more)} more"
    seams = own.need.stages - chosen.need.stages
    if own.need.shape.cost > chosen.need.shape.cost:
        return f"fits, but has {seams} stage(s) more than {chosen.need.shape}"
    item = search.items[0]
    siblings = search.siblings(item, own.node) - search.siblings(item, chosen.node)
    if siblings > 0:
        return f"fits, but only on node {own.node.name} beside another replica of the model"
    if own.topology < chosen.topology:
        return (
            f"fits, but its ranks are linked worse: {own.topology} of 100, "
            f"{chosen.need.shape} has {chosen.topology}"
        )
    if own.need.place > chosen.need.place:
        return f"fits as well, but {chosen.need.shape} has fewer stages"
    return f"fits, but on devices that suit the strategy less than those of {chosen.need.shape}"


def _why_refused(search: Search, need: ShapeNeed) -> str:
    item = search.items[0]
    room: list[int] = []
    for node in search.board.nodes:
        admitted = search.board.admitted(item.needs, item.request, node)
        if need.whole:
            room.append(len(node.fitting(need, admitted, 0)))
        else:
            free = sorted((node.free[place] for place in admitted), reverse=True)
            room.append(free[need.devices - 1] if len(free) >= need.devices else -1)
    most = max(room, default=-1)
    if need.whole:
        return (
            f"needs {_devices(need.devices)} of one node all to itself, "
            f"at most {max(most, 0)} are unclaimed"
        )
    if most < 0:
        widest = max(
            (
                len(search.board.admitted(item.needs, item.request, node))
                for node in search.board.nodes
            ),
            default=0,
        )
        return f"needs {_devices(need.devices)} of one node, at most {widest} may be used"
    where = "" if need.devices == 1 else f" on {need.devices} devices of one node"
    return f"needs {gib(need.rank_bytes)} per rank, at most {gib(most)} are free{where}"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
