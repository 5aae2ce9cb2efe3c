"""What a plan costs, by the number of models and GPUs; and a new plan after one loss.

    python benchmarks/planning_speed.py [--repeats 5] [--strategies balanced,packed] [--estimated]

Nodes of eight GPUs in four kinds (24 to 141 GB), each with its own amount of memory in use by
others, so that no two are equal. Models of one to eight GPUs, all different; together they need
about three quarters of the fleet. Then one replica loses its devices and is placed again among all
others. With --estimated the models are those of examples/models, each with another context and
concurrency and in every shape that vLLM allows. Prints tables in Markdown: medians, the exponent of
growth (cost ~ size^exponent) and the peak memory of a plan.
"""

import argparse
import math
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from msgspec import structs

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.fleet import DeviceView, Fleet, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.placement import Placement
from muai_core.model_files import describe_model
from muai_core.planning.balanced import Balanced
from muai_core.planning.engine_profiles import engine_profile
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.packed import Packed
from muai_core.planning.place import place_all
from muai_core.plugin.allocation import AllocationStrategy

GIB = 1024**3
STRATEGIES: dict[str, AllocationStrategy] = {"balanced": Balanced(), "packed": Packed()}
EXAMPLES = Path(__file__).parents[1] / "examples" / "models"
#: A fleet's requests, from their number, its GPUs and chance.
Wishes = Callable[[int, int, random.Random], list[PlacementRequest]]
#: Models and GPUs.
SIZES = ((20, 64), (100, 1000), (300, 3000), (1000, 10000))
_CARDS = (("L4", 24), ("L40S", 48), ("H100", 80), ("H200", 141))


def fleet(gpus: int, chance: random.Random) -> Fleet:
    views = []
    for number in range(gpus):
        node = number // 8
        name, gib = _CARDS[node % len(_CARDS)]
        total = gib * GIB
        views.append(
            DeviceView(
                device=Device(
                    uuid=f"GPU-{number:06}",
                    node=f"node-{node:05}",
                    index=number % 8,
                    kind="gpu",
                    platform="cuda",
                    name=name,
                    memory_total_bytes=total,
                    island=f"node-{node:05}/nvlink" if gib >= 80 else None,
                    numa_node=number % 8 // 4,
                ),
                health=Health.HEALTHY,
                health_reason=None,
                allocatable_bytes=total - chance.randrange(GIB),
                claimed_bytes=0,
            )
        )
    return Fleet(tuple(views), ("cuda",))


def requests(models: int, gpus: int, chance: random.Random) -> list[PlacementRequest]:
    """All different; they need about three quarters of the fleet's memory."""
    found = []
    left_bytes = gpus * 73 * GIB * 3 // 4
    for number in range(models):
        share = left_bytes // (models - number)
        need = chance.randrange(share // 2, share * 3 // 2)
        left_bytes -= need
        width = 1
        while need / width > 40 * GIB and width < 8:
            width *= 2
        found.append(
            PlacementRequest(
                replica_id=f"model-{number}.0",
                deployment=Deployment(
                    name=f"model-{number}",
                    source="weights",
                    engine="vllm",
                    platforms=("cuda",),
                    tensor_parallel_size=width,
                    memory_bytes_per_device=min(need // width, 120 * GIB),
                ),
            )
        )
    return found


def estimated(models: int, gpus: int, chance: random.Random) -> list[PlacementRequest]:
    """Real models, all different in context and concurrency, in any shape."""
    profile = engine_profile("vllm", "cuda")
    assert profile is not None
    described = [describe_model(path) for path in sorted(EXAMPLES.glob("*.json"))]
    found = []
    for number in range(models):
        wish = EstimateRequest(
            context_tokens=chance.randrange(2048, 65536), concurrency=chance.randrange(1, 5)
        )
        needs = memory_needs(described[number % len(described)], profile, wish)
        deployment = Deployment(
            name=f"model-{number}",
            source="weights",
            engine="vllm",
            platforms=("cuda",),
            memory=needs,
        )
        found.append(PlacementRequest(replica_id=f"model-{number}.0", deployment=deployment))
    return found


def with_claims(one: Fleet, placed: Sequence[tuple[str, Placement]]) -> Fleet:
    claims: dict[str, list[tuple[str, int]]] = {}
    for replica_id, placement in placed:
        for uuid, claim in zip(placement.devices, placement.claims, strict=True):
            claims.setdefault(uuid, []).append((replica_id, claim))
    views = (
        structs.replace(
            view,
            claimed_bytes=sum(claim for _, claim in claims.get(view.uuid, ())),
            claimants=tuple(replica_id for replica_id, _ in claims.get(view.uuid, ())),
        )
        for view in one.devices
    )
    return structs.replace(one, devices=tuple(views))


def timed(call: Callable[[], object], repeats: int) -> float:
    """The median, in milliseconds."""
    took = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        call()
        took.append((time.perf_counter() - began_s) * 1e3)
    return median(took)


def measure(
    models: int, gpus: int, strategy: AllocationStrategy, repeats: int, wishes: Wishes
) -> dict[str, float]:
    chance = random.Random(gpus)
    empty, wanted = fleet(gpus, chance), wishes(models, gpus, chance)
    answers = place_all(wanted, empty, strategy)
    placed = [
        (request.replica_id, answer)
        for request, (answer, _) in zip(wanted, answers, strict=True)
        if isinstance(answer, Placement)
    ]
    lost_id, lost = placed[len(placed) // 2]
    busy = with_claims(empty, [entry for entry in placed if entry[0] != lost_id])
    without = Fleet(tuple(v for v in busy.devices if v.uuid != lost.devices[0]), busy.platforms)
    again = [request for request in wanted if request.replica_id == lost_id]
    tracemalloc.start()
    place_all(wanted, empty, strategy)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "served": len(placed),
        "plan, ms": timed(lambda: place_all(wanted, empty, strategy), repeats),
        "after a loss, ms": timed(lambda: place_all(again, without, strategy), repeats),
        "peak memory of a plan, MiB": peak_bytes / 2**20,
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the regression line through the logarithms."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategies", default="balanced,packed")
    parser.add_argument("--estimated", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.strategies.split(","):
        wishes = estimated if arguments.estimated else requests
        results = [measure(*size, STRATEGIES[name], arguments.repeats, wishes) for size in SIZES]
        headings = [f"{models:,} × {gpus:,}" for models, gpus in SIZES]
        print(f"\n| {name}: models × GPUs | " + " | ".join(headings) + " | exponent in GPUs |")
        print("| --- |" + " ---: |" * (len(SIZES) + 1))
        for row in results[0]:
            values = [result[row] for result in results]
            growth = exponent([gpus for _, gpus in SIZES], values)
            cells = " | ".join(f"{value:,.1f}" for value in values)
            print(f"| {row} | {cells} | {growth:.2f} |")


if __name__ == "__main__":
    main()
