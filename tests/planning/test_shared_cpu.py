"""Ranks of a replica that share a CPU: one claim for all; GPUs are never shared by two of them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from muai_cpsat.strategy import CpSat

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
    PlacementRequest,
    ShardedMemory,
    Unplaceable,
)
from muai_core.planning.alternatives import alternatives
from muai_core.planning.balanced import Balanced
from muai_core.planning.packed import Packed
from muai_core.planning.place import place, place_all

GIB = 1024**3
STRATEGIES = [Balanced(), Packed(), CpSat()]
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda one: one.name)


def device(uuid: str, kind: Any, gib: int, node: str = "n0", cores: int | None = None) -> Any:
    return DeviceView(
        device=Device(
            uuid=uuid,
            node=node,
            index=int(uuid[3:]),
            kind=kind,
            platform="cpu" if kind == "cpu" else "cuda",
            name=kind,
            memory_total_bytes=gib * GIB,
            core_count=cores,
        ),
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=gib * GIB,
        claimed_bytes=0,
    )


def wish(tp: int = 1, pp: int = 1, gib: int | None = 2, **changes: Any) -> Deployment:
    return Deployment(
        **{
            "name": "chat",
            "source": "chat",
            "engine": "deepspeed",
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "platforms": ("cuda", "cpu"),
            "memory_bytes_per_device": None if gib is None else gib * GIB,
            **changes,
        }
    )


def needs(layers: int, sizes: tuple[int, ...], stages: tuple[int, ...]) -> MemoryNeeds:
    return MemoryNeeds(
        sharded=tuple(
            ShardedMemory(
                tensor_parallel_size=size,
                pipeline_parallel_sizes=stages,
                layer_weights_bytes=(GIB // size,) * layers,
                first_stage_weights_bytes=GIB,
                last_stage_weights_bytes=GIB // 2,
                layer_kv_cache_bytes=(GIB // 8,) * layers,
                layer_kv_bytes_per_token=(4096,) * layers,
                activation_bytes=GIB // 4,
                last_stage_activation_bytes=GIB // 2,
                overhead_bytes=GIB // 2,
            )
            for size in sizes
        ),
        context_tokens=1024,
        concurrency=1,
    )


def placed(deployment: Deployment, *views: DeviceView, strategy: Any = None) -> Any:
    request = PlacementRequest(replica_id="chat.0", deployment=deployment)
    answer, complaint = place(request, Fleet(views), strategy or Balanced())
    assert complaint is None
    return answer


@by_strategy
def test_all_ranks_share_the_cpu(strategy: AllocationStrategy) -> None:
    answer = placed(wish(2, 2), device("cpu0", "cpu", 8, cores=2), strategy=strategy)

    assert answer.stages == (("cpu0", "cpu0"), ("cpu0", "cpu0"))
    assert answer.claims == (2 * GIB,) * 4
    assert answer.claims_by_device == {"cpu0": 8 * GIB}
    assert "4 ranks share the CPU" in answer.reason


@by_strategy
def test_the_estimate_gives_each_stage_its_claim(strategy: AllocationStrategy) -> None:
    memory = needs(5, (2,), (2,))
    deployment = wish(2, 2, None, memory=memory)

    answer = placed(deployment, device("cpu0", "cpu", 40, cores=2), strategy=strategy)

    assert answer.layers == (3, 2)
    first, last = memory.ranks(answer.shape, answer.layers)
    assert answer.claims == (first.total_bytes,) * 2 + (last.total_bytes,) * 2


def test_an_unknown_need_claims_the_whole_cpu_once() -> None:
    answer = placed(wish(3, 1, None), device("cpu0", "cpu", 8, cores=4))

    assert sum(answer.claims) == 8 * GIB
    assert len(answer.claims) == 3


@by_strategy
def test_too_little_memory_is_told_as_the_sum(strategy: AllocationStrategy) -> None:
    answer = placed(wish(2, 2, 3), device("cpu0", "cpu", 8, cores=2), strategy=strategy)

    assert isinstance(answer, Unplaceable)
    assert "needs 12.00 GiB, 8.00 GiB free" in answer.refusals[-1].message


@pytest.mark.parametrize(
    ("shape", "cores", "message"),
    [
        ((4, 1), 2, "TP 4 × PP 1 needs a core for each rank of a stage, this CPU has 2"),
        ((16, 5), 32, "TP 16 × PP 5 is 80 ranks, at most 64 share a CPU"),
        ((16, 5), None, "TP 16 × PP 5 is 80 ranks, at most 64 share a CPU"),
    ],
)
def test_more_ranks_than_a_cpu_serves_are_refused(
    shape: tuple[int, int], cores: int | None, message: str
) -> None:
    answer = placed(wish(*shape, gib=0), device("cpu0", "cpu", 8, cores=cores))

    assert isinstance(answer, Unplaceable)
    assert [(one.filter, one.message) for one in answer.refusals if one.device] == [
        ("shape", message)
    ]


def test_sizes_that_nobody_asked_for_stay_one() -> None:
    deployment = wish(gib=None, memory=needs(4, (1, 2), (1, 2)))

    answer = placed(deployment, device("cpu0", "cpu", 40), device("cpu1", "cpu", 40))

    assert answer.shape.device_count == 1


@by_strategy
def test_gpus_come_first_and_are_not_shared(strategy: AllocationStrategy) -> None:
    cpu, gpu = device("cpu0", "cpu", 80), device("gpu0", "gpu", 80)

    answer = placed(wish(2), cpu, gpu, strategy=strategy)
    on_cpu = placed(wish(2, affinity=Affinity(platform="cpu")), cpu, gpu, strategy=strategy)

    assert isinstance(answer, Unplaceable)
    assert on_cpu.devices == ("cpu0", "cpu0")


class Doubling(AllocationStrategy):
    """Names the first device for every rank."""

    name = "doubling"

    def place(self, request: PlacementRequest, fleet: Fleet) -> Placement | Unplaceable:
        shape = request.deployment.shapes[0]
        stage = (fleet.devices[0].uuid,) * shape.tensor_parallel_size
        return Placement((stage,) * shape.pipeline_parallel_size)


def test_a_strategy_that_names_a_gpu_twice_is_refused() -> None:
    request = PlacementRequest(replica_id="chat.0", deployment=wish(2))
    fleet = Fleet((device("gpu0", "gpu", 80), device("gpu1", "gpu", 80)))

    answer, complaint = place(request, fleet, Doubling())

    assert isinstance(answer, Unplaceable)
    assert complaint is not None
    assert "a device is named twice" in complaint


def test_other_shapes_are_told_to_bring_nothing() -> None:
    request = PlacementRequest(
        replica_id="chat.0", deployment=wish(gib=None, memory=needs(4, (2,), (1, 2)))
    )

    found = alternatives(request, Fleet((device("cpu0", "cpu", 40, cores=2),)))

    assert [(str(one.shape), one.verdict) for one in found] == [
        ("TP 2 × PP 1", "chosen"),
        ("TP 2 × PP 2", "refused"),
    ]
    assert "would share the CPU" in found[1].reason


# --- laws -----------------------------------------------------------------------------------------


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    views = [
        device(f"cpu{number}", "cpu", draw(st.integers(1, 64)), f"n{number}", draw(_CORES))
        for number in range(draw(st.integers(0, 2)))
    ]
    for number in range(draw(st.integers(0, 4))):
        views.append(device(f"gpu{number}", "gpu", draw(st.sampled_from([24, 48])), "n0"))
    return Fleet(tuple(views))


_CORES = st.sampled_from([None, 1, 2, 8])


@st.composite
def wishes(draw: st.DrawFn, name: str) -> Deployment:
    sizes: dict[str, Any] = {"name": name, "platforms": draw(_PLATFORMS)}
    if draw(st.booleans()):
        layers = draw(st.integers(3, 6))
        sizes["memory"] = needs(layers, draw(_SIZES), draw(_SIZES))
        return wish(gib=None, **sizes)
    gib = draw(st.sampled_from([None, 1, 3, 9]))
    return wish(draw(st.integers(1, 4)), draw(st.integers(1, 3)), gib, **sizes)


_PLATFORMS = st.sampled_from([("cpu",), ("cuda", "cpu"), ("cuda",)])
_SIZES = st.sampled_from([(1,), (2,), (1, 2), (3,)])


@by_strategy
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_claims_fit_and_only_cpus_are_shared(strategy: AllocationStrategy, data: Any) -> None:
    fleet = data.draw(fleets())
    requests = [
        PlacementRequest(replica_id=f"{name}.{number}", deployment=deployment)
        for name in "abc"[: data.draw(st.integers(1, 3))]
        for deployment in [data.draw(wishes(name))]
        for number in range(data.draw(st.integers(1, 2)))
    ]

    answers = place_all(requests, fleet, strategy)

    views = {view.uuid: view for view in fleet.devices}
    claimed = dict.fromkeys(views, 0)
    for request, (answer, complaint) in zip(requests, answers, strict=True):
        assert complaint is None
        if isinstance(answer, Unplaceable):
            continue
        deployment = request.deployment
        assert answer.shape in deployment.shapes
        assert len(answer.claims) == len(answer.devices) == answer.shape.device_count
        if views[answer.devices[0]].device.kind == "cpu":
            assert len(set(answer.devices)) == 1
            assert answer.shape == deployment.shapes[0]
            cores = views[answer.devices[0]].device.core_count
            assert cores is None or answer.shape.tensor_parallel_size <= max(1, cores)
        else:
            assert len(set(answer.devices)) == len(answer.devices)
        for rank, claim in zip(_rank_bytes(deployment, answer), answer.claims, strict=True):
            assert claim >= rank
        for uuid, claim in answer.claims_by_device.items():
            claimed[uuid] += claim
    for uuid, claim in claimed.items():
        assert claim <= views[uuid].free_bytes


def _rank_bytes(deployment: Deployment, placement: Placement) -> list[int]:
    width = placement.shape.tensor_parallel_size
    if deployment.memory is None:
        return [deployment.memory_bytes_per_device or 0] * len(placement.devices)
    return [
        rank.total_bytes
        for rank in deployment.memory.ranks(placement.shape, placement.layers)
        for _ in range(width)
    ]
