"""What the planner says beside the plan: lost shapes, moves, typed reasons, many requests."""

from typing import Any

import pytest
from msgspec import structs

from muai_core import (
    Affinity,
    AllocationStrategy,
    Deployment,
    Device,
    DeviceView,
    Fleet,
    Health,
    MemoryNeeds,
    Placement,
    PlacementProblem,
    PlacementRequest,
    ShardedMemory,
    Unplaceable,
)
from muai_core.planning.alternatives import alternatives
from muai_core.planning.balanced import Balanced
from muai_core.planning.moves import Incumbent, propose_moves
from muai_core.planning.packed import Packed
from muai_core.planning.place import place_all

GIB = 1024**3


def card(number: int, gib: int = 80, **changes: Any) -> DeviceView:
    device = Device(
        uuid=f"gpu{number}",
        node=changes.pop("node", "n0"),
        index=number,
        kind="gpu",
        platform=changes.pop("platform", "cuda"),
        name="H100",
        memory_total_bytes=gib * GIB,
        island=changes.pop("island", None),
    )
    return DeviceView(
        **{"health": Health.HEALTHY, "health_reason": None, "claimed_bytes": 0, **changes},
        device=device,
        allocatable_bytes=gib * GIB,
    )


def wish(name: str, gib: int | None = None, **changes: Any) -> Deployment:
    return Deployment(
        name=name,
        source=name,
        engine="vllm",
        memory_bytes_per_device=None if gib is None else gib * GIB,
        **{"platforms": ("cuda",), **changes},
    )


def ask(deployment: Deployment, number: int = 0, **changes: Any) -> PlacementRequest:
    replica_id = f"{deployment.name}.{number}"
    return PlacementRequest(replica_id=replica_id, deployment=deployment, **changes)


def estimated(total_gib: int, *sizes: int, stages: tuple[int, ...] = (1, 2)) -> MemoryNeeds:
    """Ten equal layers without anything else."""
    return MemoryNeeds(
        sharded=tuple(
            ShardedMemory(
                tensor_parallel_size=size,
                pipeline_parallel_sizes=stages,
                layer_weights_bytes=(total_gib * GIB // 10 // size,) * 10,
                first_stage_weights_bytes=0,
                last_stage_weights_bytes=0,
                layer_kv_cache_bytes=(0,) * 10,
                layer_kv_bytes_per_token=(1024,) * 10,
                activation_bytes=0,
                last_stage_activation_bytes=0,
                overhead_bytes=0,
            )
            for size in sizes
        ),
        context_tokens=1,
        concurrency=1,
    )


# --- shapes that lost ---------------------------------------------------------------------------


def test_every_shape_has_a_verdict_and_says_why() -> None:
    request = ask(wish("a", memory=estimated(100, 1, 2, 4)))
    fleet = Fleet(tuple(card(number, island="x") for number in range(4)))
    found = {str(one.shape): (one.verdict, one.reason) for one in alternatives(request, fleet)}
    assert found == {
        "TP 1 × PP 1": ("refused", "needs 100.00 GiB per rank, at most 80.00 GiB are free"),
        "TP 2 × PP 1": ("chosen", "2 devices of node n0, links 100 of 100"),
        "TP 1 × PP 2": ("fits", "fits, but has 1 stage(s) more than TP 2 × PP 1"),
        "TP 4 × PP 1": ("fits", "fits, but takes 2 devices more"),
        "TP 2 × PP 2": ("fits", "fits, but takes 2 devices more"),
        "TP 4 × PP 2": ("refused", "needs 8 devices of one node, at most 4 may be used"),
    }


def test_the_links_decide_between_shapes_of_equal_cost() -> None:
    # Three devices in one stage, or two with a seam between them.
    request = ask(wish("a", memory=estimated(100, 1, 3)))
    for island, chosen in ((None, "TP 1 × PP 2"), ("x", "TP 3 × PP 1")):
        fleet = Fleet(tuple(card(number, island=island) for number in range(3)))
        verdicts = {one.verdict: one for one in alternatives(request, fleet)}
        assert str(verdicts["chosen"].shape) == chosen
        [(placed, _)] = place_all([request], fleet, Balanced())
        assert isinstance(placed, Placement)
        assert str(placed.shape) == chosen


# --- moves --------------------------------------------------------------------------------------


def running(fleet: Fleet, *held: tuple[Deployment, str]) -> tuple[Fleet, list[Incumbent]]:
    views = {view.uuid: view for view in fleet.devices}
    found = []
    for deployment, uuid in held:
        need = deployment.memory_bytes_per_device or 0
        name = f"{deployment.name}.0"
        before = views[uuid]
        views[uuid] = structs.replace(
            before,
            claimed_bytes=before.claimed_bytes + need,
            claimants=(*before.claimants, name),
        )
        placement = Placement(((uuid,),), (need,))
        found.append(Incumbent(replica_id=name, deployment=deployment, placement=placement))
    return structs.replace(fleet, devices=tuple(views.values())), found


@pytest.mark.parametrize("strategy", [Balanced(), Packed()], ids=lambda one: one.name)
def test_the_smallest_replica_that_makes_room_is_proposed(strategy: AllocationStrategy) -> None:
    fleet, held = running(
        Fleet((card(0), card(1))), (wish("a", 30), "gpu0"), (wish("b", 20), "gpu1")
    )
    moves = propose_moves(ask(wish("large", 70)), fleet, held, strategy)
    assert moves is not None
    [move] = moves
    assert (move.replica_id, move.source.devices, move.target.devices) == (
        "b.0",
        ("gpu1",),
        ("gpu0",),
    )


def test_no_move_is_proposed_where_none_is_needed_or_none_helps() -> None:
    fleet, held = running(Fleet((card(0), card(1))), (wish("a", 30), "gpu0"))
    assert propose_moves(ask(wish("b", 70)), fleet, held, Balanced()) == ()
    assert propose_moves(ask(wish("c", 90)), fleet, held, Balanced()) is None
    full, held = running(
        Fleet((card(0), card(1))), (wish("a", 50), "gpu0"), (wish("b", 50), "gpu1")
    )
    assert propose_moves(ask(wish("c", 70)), full, held, Balanced()) is None


# --- several at once ----------------------------------------------------------------------------


class Joint(AllocationStrategy):
    """Answers what it is told to."""

    name = "joint"

    def __init__(self, *answers: Any) -> None:
        self._answers = answers

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        raise AssertionError("it plans replicas together")

    def place_all(self, problem: PlacementProblem) -> Any:
        return self._answers


def test_of_joint_answers_only_the_one_that_breaks_a_rule_is_refused() -> None:
    requests = [ask(wish(name, 50)) for name in "abc"]
    strategy = Joint(*[Placement((("gpu0",),))] * 2, Placement((("gpu1",),)))
    answers = place_all(requests, Fleet((card(0), card(1))), strategy)
    assert [isinstance(answer, Placement) for answer, _ in answers] == [True, False, True]
    assert [complaint is None for _, complaint in answers] == [True, False, True]
    assert "gpu0 is not eligible" in (answers[1][1] or "")


def test_a_replica_on_two_nodes_is_refused() -> None:
    request = ask(wish("a", 10, tensor_parallel_size=2))
    fleet = Fleet((card(0), card(1, node="n1")))
    [(answer, complaint)] = place_all([request], fleet, Joint(Placement((("gpu0", "gpu1"),))))
    assert isinstance(answer, Unplaceable)
    assert "the devices are on nodes n0, n1; a replica runs on one" in (complaint or "")


@pytest.mark.parametrize("answers", [(), ("nonsense",), (Placement(((),)),)])
def test_nonsense_for_all_replicas_places_none(answers: tuple[Any, ...]) -> None:
    [(answer, complaint)] = place_all([ask(wish("a", 10))], Fleet((card(0),)), Joint(*answers))
    assert isinstance(answer, Unplaceable)
    assert complaint


def test_every_kind_of_reason_is_named() -> None:
    fleet = Fleet(
        (
            card(0, claimed_bytes=60 * GIB, claimants=("x.0",)),
            card(1, claimed_bytes=60 * GIB, claimants=("x.0",)),
            card(2, platform="cpu", node="n1"),
            card(3, health=Health.FAILED, node="n2"),
        ),
        ("cuda", "cpu"),
    )

    def filters(deployment: Deployment) -> dict[str | None, str]:
        [(answer, _)] = place_all([ask(deployment)], fleet, Balanced())
        assert isinstance(answer, Unplaceable)
        return {refusal.device: refusal.filter for refusal in answer.refusals}

    pinned = wish("a", 10, affinity=Affinity(devices=("gpu3",)))
    assert filters(pinned) == {
        "gpu0": "affinity",
        "gpu1": "affinity",
        "gpu2": "platform",
        "gpu3": "health",
    }
    assert filters(wish("b", 40))["gpu0"] == "memory"
    assert filters(wish("c", 10, tensor_parallel_size=3))[None] == "shape"
    # A layer fits beside the others, two stages of five layers do not.
    assert filters(wish("d", memory=estimated(120, 1, stages=(2,))))[None] == "capacity"
    assert filters(wish("e", memory=estimated(400, 1, stages=(2,))))["gpu0"] == "memory"
    # A layer fits on each of them, but were they empty, the whole would not.
    assert filters(wish("f", memory=estimated(190, 1, stages=(2,))))[None] == "memory"


def test_hard_models_go_first_so_that_all_are_served() -> None:
    requests = [ask(wish(name, 30)) for name in "abcd"] + [ask(wish("large", 75))]
    answers = place_all(requests, Fleet(tuple(map(card, range(3)))), Balanced())
    assert all(isinstance(answer, Placement) for answer, _ in answers)


def test_uneven_layers_reach_the_placement() -> None:
    request = ask(wish("a", memory=estimated(100, 1, stages=(2,))))
    [(answer, _)] = place_all([request], Fleet((card(0, 40), card(1, 80))), Balanced())
    assert isinstance(answer, Placement)
    assert sum(answer.layers) == 10
    assert answer.layers[0] < answer.layers[1]
    assert answer.claims == tuple(10 * GIB * count for count in answer.layers)


def test_packed_keeps_whole_devices_free_and_balanced_spreads() -> None:
    requests = [ask(wish(name, 20)) for name in "abcd"]
    fleet = Fleet(tuple(map(card, range(4))))

    def used(strategy: AllocationStrategy) -> set[str]:
        answers = [answer for answer, _ in place_all(requests, fleet, strategy)]
        return {uuid for one in answers if isinstance(one, Placement) for uuid in one.devices}

    assert len(used(Packed())) == 1
    assert len(used(Balanced())) == 4


def test_replicas_of_one_model_are_kept_apart() -> None:
    deployment = wish("a", 20)
    fleet = Fleet(tuple(card(number, node=f"n{number // 2}") for number in range(6)))
    answers = place_all([ask(deployment, number) for number in range(3)], fleet, Packed())
    nodes = {view.uuid: view.device.node for view in fleet.devices}
    placed = [answer for answer, _ in answers if isinstance(answer, Placement)]
    assert sorted(nodes[one.devices[0]] for one in placed) == ["n0", "n1", "n2"]
