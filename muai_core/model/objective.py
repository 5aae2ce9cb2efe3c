"""What a plan is worth: the one objective of `balanced`, `packed` and any solver.

In points, the sum over all placed replicas of

- SERVED    for being served at all;
- ECONOMY   × the lowest cost of any shape that is allowed / the cost of the one used (Shape.cost:
              its devices, and one for each seam between stages);
- STAYED    if it runs already and stays where it is;
- TOPOLOGY  × the mean link score of its stages,

and for the whole plan BALANCE × (1 − the highest claimed share of any device). The weights are far
enough apart to decide one after the other for up to some 70 replicas: models served, parallelism
kept, moves, topology.

Everything is an integer, for solvers need integers: scores are 0 to 100, values hundredths of a
point.
"""

from collections.abc import Iterable, Mapping, Sequence

from muai_core.model.deployment import Deployment
from muai_core.model.device import DeviceLink
from muai_core.model.fleet import DeviceView, Fleet
from muai_core.model.placement import Placement

SERVED = 10_000
ECONOMY = 100
STAYED = 30
TOPOLOGY = 10
BALANCE = 1

#: Values are in hundredths of a point, scores in hundredths of the best.
SCALE = 100

Links = Mapping[str, Mapping[str, DeviceLink]]

#: The order and spacing of go-gpuallocator's pair scores (github.com/NVIDIA/go-gpuallocator,
#: gpuallocator/besteffort_policy.go), with its NVLinks pressed into what is left up to 100.
_LINK_SCORES = {"SYS": 10, "NODE": 20, "PHB": 30, "PXB": 40, "PIX": 50, "NVL": 64}
_PER_NVLINK = 2
#: What one GPU of the H100 kind has; more is not told apart.
_NVLINKS_MAX = 18


def link_score(a: DeviceView, b: DeviceView, links: Links) -> int:
    """How well two devices reach each other, 0 (not at all: other nodes) to 100.

    By the link between them, where it is known: NVLink by the number of links, then PIX, PXB, PHB,
    NODE, SYS. Else 100 inside an island, less inside a NUMA node, least across. Half of it for
    different cards, because the slower one and the smaller one set the pace.
    """
    if a.device.node != b.device.node:
        return 0
    link = links.get(a.uuid, {}).get(b.uuid)
    if link is not None:
        score = _LINK_SCORES[link.kind]
        if link.kind == "NVL":
            score += _PER_NVLINK * min(link.nvlinks, _NVLINKS_MAX)
    elif a.device.island is not None and a.device.island == b.device.island:
        score = 100
    elif a.device.numa_node is not None and a.device.numa_node == b.device.numa_node:
        score = _LINK_SCORES["NODE"]
    else:
        score = _LINK_SCORES["SYS"]
    return score if a.device.name == b.device.name else score // 2


def stage_score(views: Sequence[DeviceView], links: Links) -> int:
    """The worst link between any two ranks of one stage, 0 to 100; 100 for a single rank."""
    return min(
        (link_score(a, b, links) for place, a in enumerate(views) for b in views[place + 1 :]),
        default=100,
    )


def topology_score(stages: Iterable[Sequence[DeviceView]], links: Links) -> int:
    """The mean of the stages' scores, rounded down."""
    scores = [stage_score(stage, links) for stage in stages]
    return sum(scores) // len(scores)


def worth(lowest_cost: int, used_cost: int, topology: int, *, stayed: bool = False) -> int:
    """The value of one placed replica by its parts; `topology` is a score of 0 to 100."""
    return (
        SERVED * SCALE
        + ECONOMY * SCALE * lowest_cost // used_cost
        + (STAYED * SCALE if stayed else 0)
        + TOPOLOGY * topology
    )


def replica_value(
    deployment: Deployment,
    placement: Placement,
    views: Mapping[str, DeviceView],
    links: Links,
    *,
    stayed: bool = False,
) -> int:
    """The value of one placed replica, in hundredths of a point. `views` are by UUID.

    Raises KeyError when the placement names a device that is not among them.
    """
    lowest = min(shape.cost for shape in deployment.shapes)
    stages = [[views[uuid] for uuid in stage] for stage in placement.stages]
    topology = topology_score(stages, links)
    return worth(lowest, placement.shape.cost, topology, stayed=stayed)


def balance_value(fleet: Fleet, claimed_bytes: Mapping[str, int]) -> int:
    """The part of the whole plan; `claimed_bytes` by UUID, beside what the fleet shows."""
    highest = 0
    for view in fleet.devices:
        claimed = view.claimed_bytes + claimed_bytes.get(view.uuid, 0)
        if claimed:
            # Rounded up, so that a full device is full.
            highest = max(highest, -(-SCALE * claimed // max(1, view.allocatable_bytes)))
    return BALANCE * max(0, SCALE - highest)


def plan_value(
    fleet: Fleet,
    deployments: Mapping[str, Deployment],
    placements: Mapping[str, Placement],
    running: Mapping[str, Placement] | None = None,
) -> int:
    """The value of a whole plan, in hundredths of a point; all mappings are by replica id.

    `placements` are the replicas that the plan places, `running` where some of them run now; the
    claims of the latter must not be in the fleet. Raises KeyError for an unknown device or id.
    """
    views = {view.uuid: view for view in fleet.devices}
    claimed: dict[str, int] = {}
    value = 0
    for replica_id, placement in placements.items():
        before = None if running is None else running.get(replica_id)
        value += replica_value(
            deployments[replica_id],
            placement,
            views,
            fleet.links,
            stayed=before is not None and before.stages == placement.stages,
        )
        for uuid, claim in zip(placement.devices, placement.claims, strict=True):
            claimed[uuid] = claimed.get(uuid, 0) + claim
    return value + balance_value(fleet, claimed)
