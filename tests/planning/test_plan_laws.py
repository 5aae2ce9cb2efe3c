"""Laws of plans of several models, for every built-in strategy and any small fleet."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core import (
    Affinity,
    AllocationStrategy,
    Deployment,
    Device,
    DeviceLink,
    DeviceView,
    Fleet,
    Health,
    MemoryNeeds,
    Placement,
    PlacementRequest,
    ShardedMemory,
)
from muai_core.planning.balanced import Balanced
from muai_core.planning.packed import Packed
from muai_core.planning.place import place_all, rank_bytes

GIB = 1024**3
STRATEGIES = [Balanced(), Packed()]
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda one: one.name)


# --- any fleet, any models ----------------------------------------------------------------------


def card(number: int, node: str, gib: int, **changes: Any) -> DeviceView:
    own = {
        name: changes.pop(name)
        for name in ("health", "claimed_bytes", "claimants")
        if name in changes
    }
    device = Device(
        uuid=f"gpu{number}",
        node=node,
        index=number,
        kind="gpu",
        platform="cuda",
        name=f"card-{gib}",
        memory_total_bytes=gib * GIB,
        **changes,
    )
    return DeviceView(
        **{"health": Health.HEALTHY, "claimed_bytes": 0, **own},
        device=device,
        health_reason=None,
        allocatable_bytes=gib * GIB,
    )


@st.composite
def fleets(draw: st.DrawFn, least: int = 1, most: int = 6) -> Fleet:
    nodes = draw(st.integers(1, 2))
    linked = draw(st.booleans())
    views = []
    for number in range(draw(st.integers(least, most))):
        claimed = draw(st.sampled_from([0, 0, 0, 5])) * GIB
        views.append(
            card(
                number,
                f"n{number % nodes}",
                draw(st.sampled_from([24, 24, 48, 80])),
                island=draw(st.sampled_from([None, "a", "b"])),
                numa_node=draw(st.sampled_from([None, 0, 1])),
                claimed_bytes=claimed,
                claimants=("other.0",) if claimed else (),
                health=draw(st.sampled_from([Health.HEALTHY] * 8 + [Health.DEGRADED])),
            )
        )
    links: dict[str, dict[str, DeviceLink]] = {}
    if linked:
        for place, a in enumerate(views):
            for b in views[place + 1 :]:
                kind = draw(st.sampled_from(["NVL", "PIX", "SYS"]))
                link = DeviceLink(a=a.uuid, b=b.uuid, kind=kind, nvlinks=4 * (kind == "NVL"))
                links.setdefault(a.uuid, {})[b.uuid] = link
                links.setdefault(b.uuid, {})[a.uuid] = link
    return Fleet(tuple(views), ("cuda",), links)


def needs_of(layers: int, layer_gib: int, sizes: Sequence[int], stages: Sequence[int]) -> Any:
    return MemoryNeeds(
        sharded=tuple(
            ShardedMemory(
                tensor_parallel_size=size,
                pipeline_parallel_sizes=tuple(count for count in stages if count <= layers),
                layer_weights_bytes=(layer_gib * GIB // size,) * layers,
                first_stage_weights_bytes=GIB // size,
                last_stage_weights_bytes=GIB // size,
                layer_kv_cache_bytes=(GIB // 8 // size,) * layers,
                layer_kv_bytes_per_token=(4096 // size,) * layers,
                activation_bytes=GIB // 2,
                last_stage_activation_bytes=GIB,
                overhead_bytes=GIB,
            )
            for size in sizes
        ),
        context_tokens=8192,
        concurrency=1,
    )


@st.composite
def wishes(draw: st.DrawFn, name: str) -> Deployment:
    options: dict[str, Any] = {"platforms": ("cuda",)}
    kind = draw(st.sampled_from(["known", "known", "estimated", "unknown"]))
    if kind == "estimated":
        sizes = draw(st.sampled_from([(1,), (1, 2), (1, 2, 4), (2,)]))
        stages = draw(st.sampled_from([(1,), (1, 2), (2,), (1, 2, 3)]))
        layers = draw(st.integers(4, 9))
        options["memory"] = needs_of(layers, draw(st.integers(1, 12)), sizes, stages)
    else:
        options["tensor_parallel_size"] = draw(st.sampled_from([1, 1, 2, 3]))
        options["pipeline_parallel_size"] = draw(st.sampled_from([1, 1, 2]))
        if kind == "known":
            options["memory_bytes_per_device"] = draw(st.sampled_from([5, 10, 20, 30, 70])) * GIB
    if draw(st.integers(0, 9)) == 0:
        options["affinity"] = Affinity(nodes=("n0",))
    return Deployment(name=name, source=name, engine="vllm", **options)


@st.composite
def problems(draw: st.DrawFn, least: int = 1) -> tuple[list[PlacementRequest], Fleet]:
    requests = []
    for letter in "abcde"[: draw(st.integers(1, 5))]:
        wish = draw(wishes(letter))
        for number in range(draw(st.sampled_from([1, 1, 2]))):
            requests.append(PlacementRequest(replica_id=f"{letter}.{number}", deployment=wish))
    return requests, draw(fleets(least))


def planned(
    requests: Sequence[PlacementRequest], fleet: Fleet, strategy: AllocationStrategy
) -> dict[str, Placement]:
    answers = place_all(requests, fleet, strategy)
    assert [complaint for _, complaint in answers if complaint] == []
    return {
        request.replica_id: answer
        for request, (answer, _) in zip(requests, answers, strict=True)
        if isinstance(answer, Placement)
    }


def where(plan: dict[str, Placement]) -> dict[str, tuple[Any, ...]]:
    return {name: (one.stages, one.claims, one.layers) for name, one in plan.items()}


@by_strategy
@settings(deadline=None, max_examples=150)
@given(problems())
def test_every_plan_has_an_allowed_shape_fits_rank_by_rank_and_over_commits_nothing(
    strategy: AllocationStrategy, problem: tuple[list[PlacementRequest], Fleet]
) -> None:
    requests, fleet = problem
    views = {view.uuid: view for view in fleet.devices}
    claimed = {view.uuid: view.claimed_bytes for view in fleet.devices}
    holders = {view.uuid: len(view.claimants) for view in fleet.devices}
    wish_of = {request.replica_id: request.deployment for request in requests}
    plan = planned(requests, fleet, strategy)
    for name, placement in plan.items():
        wish = wish_of[name]
        assert placement.shape in wish.shapes
        assert len({len(stage) for stage in placement.stages}) == 1
        assert len(set(placement.devices)) == len(placement.devices)
        assert len({views[uuid].device.node for uuid in placement.devices}) == 1
        needs = rank_bytes(wish, placement.shape, placement.layers)
        each = [need for need in needs for _ in placement.stages[0]]
        for uuid, claim, need in zip(placement.devices, placement.claims, each, strict=True):
            assert need is None or claim == need
            claimed[uuid] += claim
            holders[uuid] += 1
        if wish.memory is not None:
            assert sum(placement.layers) == wish.memory.sharded[0].layer_count
            assert min(placement.layers) >= 1
    assert all(claimed[uuid] <= views[uuid].allocatable_bytes for uuid in views)
    for name, placement in plan.items():
        if wish_of[name].memory is None and wish_of[name].memory_bytes_per_device is None:
            assert all(holders[uuid] == 1 for uuid in placement.devices)


@by_strategy
@settings(deadline=None, max_examples=150)
@given(problems(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_devices_and_requests(
    strategy: AllocationStrategy,
    problem: tuple[list[PlacementRequest], Fleet],
    chance: random.Random,
) -> None:
    requests, fleet = problem
    devices, wanted = list(fleet.devices), list(requests)
    chance.shuffle(devices)
    chance.shuffle(wanted)
    shuffled = Fleet(tuple(devices), fleet.platforms, fleet.links)
    first = where(planned(requests, fleet, strategy))
    assert first == where(planned(wanted, shuffled, strategy))


@by_strategy
@settings(deadline=None, max_examples=200)
@given(problems(least=2), st.integers(0, 5))
def test_a_device_more_never_serves_fewer(
    strategy: AllocationStrategy,
    problem: tuple[list[PlacementRequest], Fleet],
    place: int,
) -> None:
    requests, larger = problem
    place %= len(larger.devices)
    devices = tuple(view for number, view in enumerate(larger.devices) if number != place)
    smaller = Fleet(devices, larger.platforms, larger.links)
    before = planned(requests, smaller, strategy)
    assert len(planned(requests, larger, strategy)) >= len(before)


@by_strategy
@settings(deadline=None, max_examples=200)
@given(problems(least=2))
def test_an_unclaimed_device_less_changes_nothing(
    strategy: AllocationStrategy, problem: tuple[list[PlacementRequest], Fleet]
) -> None:
    requests, fleet = problem
    plan = planned(requests, fleet, strategy)
    used = {uuid for placement in plan.values() for uuid in placement.devices}
    for view in fleet.devices:
        if view.uuid not in used and not view.claimants:
            devices = tuple(other for other in fleet.devices if other is not view)
            without = Fleet(devices, fleet.platforms, fleet.links)
            assert where(planned(requests, without, strategy)) == where(plan)


# --- equal GPUs ---------------------------------------------------------------------------------


def box(count: int) -> Fleet:
    return Fleet(tuple(card(number, "n0", 80, island="nvlink") for number in range(count)))


@by_strategy
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_tensor_and_pipeline_parallelism_on_two_to_eight_gpus(
    strategy: AllocationStrategy, data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, 8))
    width = data.draw(st.integers(1, min(4, count)))
    stages = data.draw(st.integers(1, min(4, count // width)))
    estimated = data.draw(st.booleans())
    if estimated:
        memory = needs_of(12, data.draw(st.integers(1, 6)), (width,), (stages,))
        wish = Deployment(name="a", source="a", engine="e", platforms=("cuda",), memory=memory)
    else:
        wish = Deployment(
            name="a",
            source="a",
            engine="e",
            platforms=("cuda",),
            tensor_parallel_size=width,
            pipeline_parallel_size=stages,
            memory_bytes_per_device=30 * GIB,
        )
    plan = planned([PlacementRequest(replica_id="a.0", deployment=wish)], box(count), strategy)
    if not plan:
        assert estimated
        assert max(need or 0 for need in wish.even_rank_bytes(wish.shapes[0])) > 80 * GIB
        return
    placement = plan["a.0"]
    expected = [[f"gpu{s * width + t}" for t in range(width)] for s in range(stages)]
    assert [list(stage) for stage in placement.stages] == expected
    # Balanced: within one shard every GPU holds the same.
    for stage in range(stages):
        claims = placement.claims[stage * width :][:width]
        assert max(claims) - min(claims) == 0


@by_strategy
def test_two_stages_of_two_ranks_on_four_equal_gpus(strategy: AllocationStrategy) -> None:
    wish = Deployment(
        name="a",
        source="a",
        engine="e",
        platforms=("cuda",),
        tensor_parallel_size=2,
        pipeline_parallel_size=2,
        memory_bytes_per_device=30 * GIB,
    )
    plan = planned([PlacementRequest(replica_id="a.0", deployment=wish)], box(4), strategy)
    assert plan["a.0"].stages == (("gpu0", "gpu1"), ("gpu2", "gpu3"))
