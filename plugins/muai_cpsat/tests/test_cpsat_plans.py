"""Plans: optimal by brute force, never over-committed, equal every time, honest about the gap."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muai_cpsat import CpSat, answer
from muai_cpsat.config import CpSatOptions
from pydantic import ValidationError

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceLink
from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.memory import MemoryNeeds, ShardedMemory, even_partition
from muai_core.model.objective import plan_value
from muai_core.model.placement import Placement, Unplaceable
from muai_core.planning.place import place, place_all

GIB = 2**30


def view(number: int, gib: int, node: str = "n1", claimed_gib: int = 0) -> DeviceView:
    device = Device(
        uuid=f"GPU-{number}",
        node=node,
        index=number,
        kind="gpu",
        platform="cuda",
        name=f"card {gib}",
        memory_total_bytes=gib * GIB,
    )
    return DeviceView(
        device=device,
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=gib * GIB,
        claimed_bytes=claimed_gib * GIB,
        claimants=("resident",) if claimed_gib else (),
    )


def model(
    name: str, layer_gib: float, layers: int, sizes: tuple[int, ...], stages: tuple[int, ...]
) -> Deployment:
    sharded = tuple(
        ShardedMemory(
            tensor_parallel_size=size,
            pipeline_parallel_sizes=stages,
            layer_weights_bytes=(int(layer_gib * GIB / size),) * layers,
            first_stage_weights_bytes=0,
            last_stage_weights_bytes=0,
            layer_kv_cache_bytes=(0,) * layers,
            layer_kv_bytes_per_token=(1024,) * layers,
            activation_bytes=0,
            last_stage_activation_bytes=0,
            overhead_bytes=GIB // 2,
        )
        for size in sizes
    )
    needs = MemoryNeeds(sharded=sharded, context_tokens=1, concurrency=1)
    return Deployment(name=name, source=name, engine="e", platforms=("cuda",), memory=needs)


def fixed(name: str, gib: int | None) -> Deployment:
    need = None if gib is None else gib * GIB
    return Deployment(
        name=name, source=name, engine="e", platforms=("cuda",), memory_bytes_per_device=need
    )


def problem(
    views: list[DeviceView], deployments: list[Deployment], **options: Any
) -> PlacementProblem:
    links: dict[str, dict[str, DeviceLink]] = {}
    for a in views:
        for b in views:
            if a.uuid != b.uuid and a.device.node == b.device.node:
                near = a.device.index // 2 == b.device.index // 2
                one = DeviceLink(a=a.uuid, b=b.uuid, kind="PIX" if near else "SYS")
                links.setdefault(a.uuid, {})[b.uuid] = one
    return PlacementProblem(
        requests=tuple(
            PlacementRequest(replica_id=f"{number}-{one.name}", deployment=one, options=options)
            for number, one in enumerate(deployments)
        ),
        fleet=Fleet(tuple(views), ("cuda",), links),
        admits=lambda request, view: view.health.placeable,
    )


def value(asked: PlacementProblem, plan: dict[str, Placement]) -> int:
    deployments = {one.replica_id: one.deployment for one in asked.requests}
    return plan_value(asked.fleet, deployments, plan)


def ways(request: PlacementRequest, fleet: Fleet) -> Iterator[Placement]:
    """Every placement with an even cut, device by device."""
    deployment = request.deployment
    for shape in deployment.shapes:
        needs = deployment.even_rank_bytes(shape)
        for chosen in permutations(fleet.devices, shape.device_count):
            if len({one.device.node for one in chosen}) > 1:
                continue
            width = shape.tensor_parallel_size
            stages = [chosen[i : i + width] for i in range(0, len(chosen), width)]
            claims = []
            for need, stage in zip(needs, stages, strict=True):
                for one in stage:
                    if need is None and one.claimants:
                        break
                    claims.append(one.free_bytes if need is None else need)
            if len(claims) == len(chosen):
                yield Placement(
                    tuple(tuple(one.uuid for one in stage) for stage in stages), tuple(claims)
                )


def best_value(asked: PlacementProblem) -> int:
    """By trying every plan there is."""

    def extend(number: int, plan: dict[str, Placement], left: dict[str, int]) -> int:
        if number == len(asked.requests):
            return value(asked, plan)
        request = asked.requests[number]
        best = extend(number + 1, plan, left)
        for way in ways(request, asked.fleet):
            rest = dict(left)
            for uuid, claim in zip(way.devices, way.claims, strict=True):
                rest[uuid] -= claim
            if min(rest.values()) >= 0:
                best = max(best, extend(number + 1, {**plan, request.replica_id: way}, rest))
        return best

    return extend(0, {}, {view.uuid: view.free_bytes for view in asked.fleet.devices})


def placed(asked: PlacementProblem) -> dict[str, Placement]:
    answers = CpSat().place_all(asked)
    return {
        request.replica_id: one
        for request, one in zip(asked.requests, answers, strict=True)
        if isinstance(one, Placement)
    }


tiny_fleets = st.lists(
    st.tuples(
        st.sampled_from((4, 8, 10)), st.sampled_from(("n1", "n1", "n2")), st.sampled_from((0, 0, 3))
    ),
    min_size=1,
    max_size=3,
)
tiny_models = st.lists(
    st.one_of(
        # Layers too large for two cuts of a stage to differ: brute force cuts evenly.
        st.builds(
            lambda gib, sizes, stages: model("m", gib, 2, sizes, stages),
            st.sampled_from((0.5, 1.5, 2.5, 4.0)),
            st.sampled_from(((1,), (1, 2), (2,))),
            st.sampled_from(((1,), (1, 2))),
        ),
        st.builds(lambda gib: fixed("f", gib), st.sampled_from((1, 3, 5, 8, None))),
    ),
    min_size=1,
    max_size=3,
)


def drawn(
    fleet: list[tuple[int, str, int]], models: list[Deployment], **options: Any
) -> PlacementProblem:
    from msgspec import structs

    views = [view(number, *one) for number, one in enumerate(fleet)]
    named = [structs.replace(one, name=f"m{number}") for number, one in enumerate(models)]
    return problem(views, named, **options)


@settings(max_examples=120, deadline=None)
@given(tiny_fleets, tiny_models)
def test_no_plan_is_worth_more(fleet: list[tuple[int, str, int]], models: list[Deployment]) -> None:
    asked = drawn(fleet, models)
    found = answer(asked, {"deterministic_time_limit": 20})
    assert found.verdict == "proven optimal"
    assert found.value == value(asked, placed(asked)) == found.bound
    assert found.value == best_value(asked)


@settings(max_examples=100, deadline=None)
@given(tiny_fleets, tiny_models, st.sampled_from((1e-9, 0.001, 1.0)), st.sampled_from((1, 12, 999)))
def test_whatever_the_limits_the_planner_refuses_nothing_and_the_bound_holds(
    fleet: list[tuple[int, str, int]], models: list[Deployment], work: float, size: int
) -> None:
    options = {"deterministic_time_limit": work, "max_variables": size}
    asked = drawn(fleet, models, **options)
    answers = place_all(asked.requests, asked.fleet, CpSat())
    assert [complaint for _, complaint in answers if complaint is not None] == []
    found = answer(asked, options)
    assert found.bound is None or found.bound >= best_value(asked)
    assert found == answer(asked, options)
    claimed = dict.fromkeys((one.uuid for one in asked.fleet.devices), 0)
    for one, _ in answers:
        if isinstance(one, Placement):
            for uuid, claim in zip(one.devices, one.claims, strict=True):
                claimed[uuid] += claim
    assert all(claimed[one.uuid] <= one.free_bytes for one in asked.fleet.devices)


HARD = [model(f"m{n}", 0.37 + 0.11 * n, 8, (1, 2, 4), (1, 2)) for n in range(12)]


def test_a_plan_that_is_cut_short_states_its_gap() -> None:
    views = [view(number, 8 + number % 2) for number in range(8)]
    asked = problem(views, HARD)
    short = answer(asked, {"deterministic_time_limit": 1e-6})
    assert short.gap is not None
    assert short.gap > 0
    reasons = [one.reason for one in short.placements() if isinstance(one, Placement)]
    assert reasons
    assert all("% of the bound" in one for one in reasons)
    longer = answer(asked, {"deterministic_time_limit": 2.0})
    assert longer.value >= short.value


def test_a_part_of_the_ways_is_never_called_optimal() -> None:
    asked = problem([view(number, 8 + number) for number in range(6)], HARD[:3])
    found = answer(asked, {"max_variables": 9})
    assert found.bound is None
    assert "max_variables" in found.verdict


def test_equal_questions_get_equal_plans_in_another_process() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_cpsat_plans import HARD, answer, problem, view
asked = problem([view(n, 8 + n % 3) for n in range(6)], HARD)
print([one for one in answer(asked, {{"deterministic_time_limit": 0.3}}).placements()])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1
    assert "Placement" in outputs.pop()


def test_unequal_devices_get_unequal_layers() -> None:
    deployment = model("m", 1.0, 12, (1,), (2,))
    asked = problem([view(0, 6), view(1, 10)], [deployment])
    request = asked.requests[0]
    found, complaint = place(request, asked.fleet, CpSat())
    assert complaint is None
    assert isinstance(found, Placement)
    assert found.layers != even_partition(12, 2)
    assert sum(found.layers) == 12
    assert found.reason == "proven optimal: 1 of 1 replica placed"


def test_a_hopeless_replica_hinders_nobody_and_is_told_why() -> None:
    asked = problem([view(0, 8), view(1, 8)], [fixed("huge", 100), fixed("small", 2)])
    huge, small = CpSat().place_all(asked)
    assert isinstance(small, Placement)
    assert isinstance(huge, Unplaceable)
    assert "no shape" in huge.summary


def test_who_waits_is_told_how_many_are_served() -> None:
    asked = problem([view(0, 8)], [fixed("a", 5), fixed("b", 5)])
    answers = CpSat().place_all(asked)
    (waits,) = [one for one in answers if isinstance(one, Unplaceable)]
    assert waits.summary == "waits for room: the plan serves 1 of 2 replicas, proven optimal"


def test_nothing_asked_and_no_devices() -> None:
    assert CpSat().place_all(problem([view(0, 8)], [])) == []
    (one,) = CpSat().place_all(problem([], [fixed("a", 1)]))
    assert isinstance(one, Unplaceable)


def test_small_models_make_way_for_more_models() -> None:
    """First come, first served would give the whole device to the first."""
    asked = problem([view(0, 8)], [fixed("a", 7), fixed("b", 4), fixed("c", 4)])
    assert sorted(placed(asked)) == ["1-b", "2-c"]


@pytest.mark.parametrize(
    "options",
    [
        {"deterministic_time_limit": 0},
        {"deterministic_time_limit": float("inf")},
        {"max_variables": 0},
        {"time_limit": 3},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CpSatOptions.model_validate(options)


def test_registering_imports_no_solver() -> None:
    code = "import sys, muai_cpsat.hooks as h; h.muai_allocation_strategies(); "
    code += "print('ortools' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
