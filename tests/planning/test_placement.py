"""Placement: filters with reasons, the balanced strategy, and rules that hold for any fleet."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core import (
    Affinity,
    Deployment,
    Device,
    DeviceView,
    Fleet,
    Health,
    Placement,
    PlacementRequest,
    Unplaceable,
)
from muai_core.planning.balanced import Balanced
from muai_core.planning.filters import eligible
from muai_core.planning.place import check, place

GIB = 1024**3


def view(uuid: str, **changes: Any) -> DeviceView:
    """A healthy 80 GiB card on node n1 whose index is the number in its name."""
    device = {
        "uuid": uuid,
        "node": "n1",
        "index": int(uuid.lstrip("gpu") or 0),
        "kind": "gpu",
        "platform": "cuda",
        "name": "H100",
        "memory_total_bytes": 80 * GIB,
        "island": None,
    }
    own = {
        "health": Health.HEALTHY,
        "health_reason": None,
        "allocatable_bytes": 80 * GIB,
        "claimed_bytes": 0,
        "claimants": (),
    }
    for name, value in changes.items():
        (own if name in own else device)[name] = value
    return DeviceView(device=Device(**device), **own)


def deployment(tp: int = 1, pp: int = 1, gib: int | None = 40, **changes: Any) -> Deployment:
    return Deployment(
        name="chat",
        source="chat",
        engine="vllm",
        tensor_parallel_size=tp,
        pipeline_parallel_size=pp,
        memory_bytes_per_device=None if gib is None else gib * GIB,
        **{"platforms": ("cuda",), **changes},
    )


def request(wish: Deployment, *siblings: str) -> PlacementRequest:
    return PlacementRequest(replica_id="chat.0", deployment=wish, sibling_nodes=siblings)


def placed(wish: Deployment, *views: DeviceView, siblings: Any = ()) -> Placement | Unplaceable:
    return place(request(wish, *siblings), Fleet(tuple(views)), Balanced())[0]


def stages(answer: Placement | Unplaceable) -> Any:
    assert isinstance(answer, Placement), answer
    return [list(stage) for stage in answer.stages]


# --- the balanced strategy ----------------------------------------------------------------------


def test_two_stages_of_two_ranks_on_four_devices() -> None:
    cards = [view(f"gpu{i}") for i in range(4)]
    assert stages(placed(deployment(2, 2), *cards)) == [["gpu0", "gpu1"], ["gpu2", "gpu3"]]


def test_tensor_parallel_ranks_stay_on_one_island() -> None:
    islands = ["a", "b", "a", "b"]
    cards = [view(f"gpu{i}", island=island) for i, island in enumerate(islands)]
    assert stages(placed(deployment(2, 2), *cards)) == [["gpu0", "gpu2"], ["gpu1", "gpu3"]]


def test_a_fast_link_is_preferred_to_none() -> None:
    cards = [view("gpu0"), view("gpu1"), view("gpu2", island="a"), view("gpu3", island="a")]
    assert stages(placed(deployment(2), *cards)) == [["gpu2", "gpu3"]]
    answer = placed(deployment(2), *cards[:2])
    assert stages(answer) == [["gpu0", "gpu1"]]
    assert "1 stage(s) without a fast link" in answer.reason  # type: ignore[union-attr]


def test_different_cards_are_mixed_only_when_nothing_else_is_left() -> None:
    cards = [
        view("gpu0", name="RTX-4090", memory_total_bytes=24 * GIB, allocatable_bytes=24 * GIB),
        view("gpu1"),
        view("gpu2", name="RTX-4090", memory_total_bytes=24 * GIB, allocatable_bytes=24 * GIB),
        view("gpu3"),
    ]
    assert stages(placed(deployment(2, gib=10), *cards)) == [["gpu0", "gpu2"]]
    assert stages(placed(deployment(2, gib=40), *cards)) == [["gpu1", "gpu3"]]
    assert stages(placed(deployment(2, gib=10), *cards[:2])) == [["gpu0", "gpu1"]]


def test_the_least_claimed_devices_are_taken() -> None:
    cards = [view("gpu0", claimed_bytes=30 * GIB), view("gpu1", claimed_bytes=10 * GIB)]
    assert stages(placed(deployment(), *cards)) == [["gpu1"]]


def test_replicas_of_one_deployment_spread_over_nodes() -> None:
    cards = [view("gpu0", node="n1"), view("gpu1", node="n2", claimed_bytes=40 * GIB)]
    assert stages(placed(deployment(), *cards)) == [["gpu0"]]
    assert stages(placed(deployment(), *cards, siblings=["n1"])) == [["gpu1"]]
    assert stages(placed(deployment(), *cards, siblings=["n1", "n1", "n2"])) == [["gpu1"]]


def test_a_replica_never_spans_nodes() -> None:
    answer = placed(deployment(2), view("gpu0", node="n1"), view("gpu1", node="n2"))
    assert isinstance(answer, Unplaceable)
    assert answer.summary == "needs 2 devices on one node, at most 1 are eligible on any"


def test_an_unknown_need_claims_whole_devices() -> None:
    answer = placed(deployment(gib=None), view("gpu0", allocatable_bytes=70 * GIB))
    assert isinstance(answer, Placement)
    assert answer.claims == (70 * GIB,)


# --- filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "card", "refused_by", "words"),
    [
        (deployment(platforms=("cpu",)), view("gpu0"), "platform", "engine vllm runs on cpu"),
        (
            deployment(affinity=Affinity(nodes=("n2", "n3"))),
            view("gpu0"),
            "affinity",
            "affinity.nodes allows n2, n3, this node is n1",
        ),
        (
            deployment(affinity=Affinity(devices=("1", "GPU-x"))),
            view("gpu0"),
            "affinity",
            "affinity.devices allows 1, GPU-x",
        ),
        (
            deployment(),
            view("gpu0", health=Health.FAILED, health_reason="XID 79"),
            "health",
            "failed: XID 79",
        ),
        (deployment(), view("gpu0", health=Health.SUSPECT), "health", "suspect: no reason given"),
        (deployment(), view("gpu0", health=Health.UNKNOWN), "health", "unknown: no reason given"),
        (
            deployment(gib=60),
            view("gpu0", claimed_bytes=30 * GIB),
            "memory",
            "needs 60.00 GiB, 50.00 GiB free (allocatable 80.00 GiB, claimed 30.00 GiB)",
        ),
        (
            deployment(gib=None),
            view("gpu0", claimed_bytes=GIB, claimants=("embed.0",)),
            "memory",
            "embed.0 is on this one",
        ),
        (deployment(gib=None), view("gpu0", allocatable_bytes=0), "memory", "no memory is free"),
    ],
)
def test_a_refused_device_says_why(
    wish: Deployment, card: DeviceView, refused_by: str, words: str
) -> None:
    passed, [refusal] = eligible(request(wish), Fleet((card,)))
    assert passed.devices == ()
    assert (refusal.device, refusal.filter) == ("gpu0", refused_by)
    assert words in refusal.message
    answer = placed(wish, card)
    assert isinstance(answer, Unplaceable)
    assert f"refused 1 by {refused_by}" in answer.summary
    assert answer.refusals == (refusal,)


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.DEGRADED])
def test_a_healthy_or_degraded_device_passes(health: Health) -> None:
    assert stages(placed(deployment(), view("gpu0", health=health))) == [["gpu0"]]


@pytest.mark.parametrize("named", ["0", "gpu0"])
def test_affinity_names_devices_by_index_or_uuid(named: str) -> None:
    wish = deployment(affinity=Affinity(devices=(named,)))
    assert stages(placed(wish, view("gpu0"), view("gpu1"))) == [["gpu0"]]


def test_no_slide_to_a_worse_platform() -> None:
    both = deployment(platforms=("cuda", "cpu"))
    cpu = view("gpu1", platform="cpu", kind="cpu")
    full = view("gpu0", claimed_bytes=80 * GIB)
    answer = placed(both, full, cpu)
    assert isinstance(answer, Unplaceable)
    assert "to use cpu, set affinity.platform: cpu" in answer.refusals[1].message
    # Not even when the better devices have vanished, once there were some.
    fleet = Fleet((cpu,), platforms=("cuda", "cpu"))
    assert isinstance(place(request(both), fleet, Balanced())[0], Unplaceable)
    asked = deployment(platforms=("cuda", "cpu"), affinity=Affinity(platform="cpu"))
    assert stages(placed(asked, full, cpu)) == [["gpu1"]]
    assert stages(placed(both, cpu)) == [["gpu1"]]


def test_an_empty_fleet_says_so() -> None:
    answer = placed(deployment())
    assert isinstance(answer, Unplaceable)
    assert answer.summary == "the fleet has no devices"


# --- any fleet ----------------------------------------------------------------------------------

wishes = st.builds(
    deployment,
    tp=st.sampled_from([1, 2, 3, 4]),
    pp=st.sampled_from([1, 2, 3]),
    gib=st.sampled_from([None, 5, 20, 70, 200]),
    affinity=st.sampled_from([Affinity(), Affinity(nodes=("n0", "n1"))]),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    views = []
    for number in range(draw(st.integers(0, 12))):
        total = draw(st.sampled_from([24, 80, 141])) * GIB
        allocatable = max(0, total - draw(st.sampled_from([0, 0, 10, 100])) * GIB)
        claimed = draw(st.sampled_from([0, 0, 0, 5, 60])) * GIB
        views.append(
            view(
                f"gpu{number}",
                node=f"n{draw(st.integers(0, 2))}",
                index=draw(st.integers(0, 3)),
                island=draw(st.sampled_from([None, "a", "b"])),
                name=draw(st.sampled_from(["H100", "L40S"])),
                health=draw(st.sampled_from([Health.HEALTHY] * 5 + [Health.FAILED])),
                memory_total_bytes=total,
                allocatable_bytes=allocatable,
                claimed_bytes=claimed,
                claimants=("embed.0",) if claimed else (),
            )
        )
    return Fleet(tuple(views))


@settings(deadline=None)
@given(wishes, fleets(), st.lists(st.sampled_from(["n0", "n1", "n2"]), max_size=3))
def test_a_placement_exists_exactly_when_a_node_has_enough_eligible_devices(
    wish: Deployment, fleet: Fleet, siblings: list[str]
) -> None:
    asked = request(wish, *siblings)
    candidates, refusals = eligible(asked, fleet)
    assert len(candidates.devices) + len(refusals) == len(fleet.devices)
    answer, complaint = place(asked, fleet, Balanced())
    assert complaint is None
    room = max(map(len, candidates.nodes().values()), default=0)
    assert isinstance(answer, Placement) == (room >= wish.shapes[0].device_count)
    if isinstance(answer, Unplaceable):
        assert answer.summary
        return
    # Nothing is over-committed, and the shape is right.
    assert check(answer, asked, {one.uuid: one for one in candidates.devices}) == []
    views = {one.uuid: one for one in fleet.devices}
    for uuid, claim in zip(answer.devices, answer.claims, strict=True):
        assert views[uuid].claimed_bytes + claim <= views[uuid].allocatable_bytes
    assert len({views[uuid].device.node for uuid in answer.devices}) == 1


@settings(deadline=None)
@given(wishes, fleets(), st.randoms(use_true_random=False))
def test_the_order_of_the_devices_makes_no_difference(
    wish: Deployment, fleet: Fleet, chance: random.Random
) -> None:
    shuffled = list(fleet.devices)
    chance.shuffle(shuffled)
    asked = request(wish)
    first = Balanced().place(asked, eligible(asked, fleet)[0])
    second = Balanced().place(asked, eligible(asked, Fleet(tuple(shuffled)))[0])
    assert first == second


@settings(deadline=None)
@given(wishes, fleets())
def test_stages_stay_on_islands_whenever_some_node_allows_it(
    wish: Deployment, fleet: Fleet
) -> None:
    asked = request(wish)
    candidates, _ = eligible(asked, fleet)
    answer = Balanced().place(asked, candidates)
    if isinstance(answer, Unplaceable) or wish.tensor_parallel_size == 1:
        return
    views = {one.uuid: one.device for one in fleet.devices}
    slow = 0
    for stage in answer.stages:
        kinds = {(views[uuid].island, views[uuid].name) for uuid in stage}
        slow += len(kinds) > 1 or kinds.pop()[0] is None
    best = min(
        _slow_stages(members, wish)
        for members in candidates.nodes().values()
        if len(members) >= wish.shapes[0].device_count
    )
    assert slow == best


def _slow_stages(members: list[DeviceView], wish: Deployment) -> int:
    """How many stages cannot be on one island of equal devices, at best."""
    islands: dict[Any, int] = {}
    for one in members:
        if one.device.island is not None:
            key = (one.device.island, one.device.name)
            islands[key] = islands.get(key, 0) + 1
    groups = sum(count // wish.tensor_parallel_size for count in islands.values())
    return max(0, wish.pipeline_parallel_size - groups)
