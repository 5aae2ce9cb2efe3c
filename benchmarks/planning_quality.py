"""What the plans of `balanced` and `packed` are worth beside the optimum of the same objective.

    pip install ./plugins/muai_cpsat
    python benchmarks/planning_quality.py [--per-kind 30] [--work 20] [--processes 2]
                                          [--optima FILE] [--weak FILE] [--kinds a,b]

Instances of up to 16 GPUs and 20 replicas (benchmarks/placement_instances.py), each from its kind
and seed. The optimum is what CP-SAT proves within `--work` units of deterministic time; where it
proves none, its bound is given instead. `--optima` keeps what the solver found, so that another
run need not solve again what has not changed. Prints tables in Markdown.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from placement_instances import KINDS, Instance, instance

from muai_core.model.fleet import PlacementProblem
from muai_core.model.objective import (
    ECONOMY,
    SCALE,
    SERVED,
    TOPOLOGY,
    balance_value,
    plan_value,
    topology_score,
)
from muai_core.model.placement import Placement
from muai_core.planning.balanced import Balanced
from muai_core.planning.filters import Admission
from muai_core.planning.packed import Packed
from muai_core.planning.place import place_all
from muai_core.plugin.allocation import AllocationStrategy

STRATEGIES = ("balanced", "packed")
TERMS = ("served", "economy", "topology", "balance")


class Worth(msgspec.Struct, frozen=True):
    """A plan's value by term, in hundredths of a point, and how many replicas it serves."""

    value: int
    placed: int
    served: int
    economy: int
    topology: int
    balance: int
    took_s: float = 0.0


class Row(msgspec.Struct, frozen=True):
    """One instance: what each plan is worth."""

    kind: str
    seed: int
    devices: int
    requests: int
    optimum: Worth
    #: None: the solver was given only a part of the ways to place a replica.
    bound: int | None
    plans: dict[str, Worth]

    @property
    def proven(self) -> bool:
        return self.bound == self.optimum.value

    def ratio(self, name: str) -> float:
        """Of the proven optimum; else of the bound, so that it is at least as good as this."""
        bound = self.bound if self.bound is not None else self.optimum.value
        return self.plans[name].value / max(1, bound)


def worth(problem: PlacementProblem, placements: Mapping[str, Placement], took_s: float) -> Worth:
    """Checked against the objective's own sum."""
    deployments = {one.replica_id: one.deployment for one in problem.requests}
    views = {view.uuid: view for view in problem.fleet.devices}
    economy = topology = 0
    claimed: dict[str, int] = {}
    for replica_id, placement in placements.items():
        lowest = min(shape.cost for shape in deployments[replica_id].shapes)
        economy += ECONOMY * SCALE * lowest // placement.shape.cost
        stages = [[views[uuid] for uuid in stage] for stage in placement.stages]
        topology += TOPOLOGY * topology_score(stages, problem.fleet.links)
        for uuid, claim in zip(placement.devices, placement.claims, strict=True):
            claimed[uuid] = claimed.get(uuid, 0) + claim
    assert all(claimed[uuid] <= views[uuid].free_bytes for uuid in claimed), "over-committed"
    found = Worth(
        value=plan_value(problem.fleet, deployments, placements),
        placed=len(placements),
        served=SERVED * SCALE * len(placements),
        economy=economy,
        topology=topology,
        balance=balance_value(problem.fleet, claimed),
        took_s=took_s,
    )
    assert found.value == found.served + economy + topology + found.balance
    return found


def planned(problem: PlacementProblem, strategy: AllocationStrategy) -> Worth:
    """Through the planner, which checks every placement."""
    started_s = time.perf_counter()
    answers = place_all(problem.requests, problem.fleet, strategy)
    took_s = time.perf_counter() - started_s
    complaints = [complaint for _, complaint in answers if complaint is not None]
    assert not complaints, complaints
    placements = {
        request.replica_id: answer
        for request, (answer, _) in zip(problem.requests, answers, strict=True)
        if isinstance(answer, Placement)
    }
    return worth(problem, placements, took_s)


def optimum(problem: PlacementProblem, work: float) -> tuple[Worth, int | None]:
    """What CP-SAT finds, and its bound."""
    from muai_cpsat import answer

    options = {"deterministic_time_limit": work, "max_variables": 200_000}
    started_s = time.perf_counter()
    found = answer(problem, options)
    placements = {
        request.replica_id: placed
        for request, placed in zip(problem.requests, found.placements(), strict=True)
        if isinstance(placed, Placement)
    }
    return worth(problem, placements, time.perf_counter() - started_s), found.bound


def digest(one: Instance, work: float) -> str:
    content = msgspec.json.encode((one.problem.requests, one.problem.fleet, work))
    return hashlib.sha256(content).hexdigest()


def row(kind: str, seed: int, work: float, known: Mapping[str, Any]) -> tuple[str, Row]:
    """One instance, solved unless it is known."""
    drawn = instance(kind, seed)
    problem = msgspec.structs.replace(drawn.problem, admits=Admission(drawn.problem.fleet).admits)
    plans = {"balanced": planned(problem, Balanced()), "packed": planned(problem, Packed())}
    key = digest(drawn, work)
    if key in known:
        best, bound = msgspec.convert(known[key]["best"], Worth), known[key]["bound"]
    else:
        best, bound = optimum(problem, work)
    return key, Row(
        kind=kind,
        seed=seed,
        devices=len(problem.fleet.devices),
        requests=len(problem.requests),
        optimum=best,
        bound=bound,
        plans=plans,
    )


# The report.


def table_of_unproven(rows: Sequence[Row], name: str) -> list[str]:
    """The true share lies between the one of the bound and the one of the best plan known."""
    lines = [
        "| kind | instances | mean share of the bound | worst | mean share of the best plan known "
        "| worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups = {kind: [one for one in rows if one.kind == kind] for kind in KINDS}
    for kind, members in {**groups, "all": list(rows)}.items():
        if members:
            low = [one.ratio(name) for one in members]
            known = [
                max(one.optimum.value, *(w.value for w in one.plans.values())) for one in members
            ]
            high = [
                one.plans[name].value / max(1, best)
                for one, best in zip(members, known, strict=True)
            ]
            lines.append(
                f"| {kind} | {len(members)} | {statistics.fmean(low):.4f} | {min(low):.4f} "
                f"| {statistics.fmean(high):.4f} | {min(high):.4f} |"
            )
    return lines


def quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    picks = [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.01, 0.05, 0.25, 0.5)]
    return " | ".join(f"{value:.4f}" for value in picks)


def table_of_ratios(rows: Sequence[Row], name: str) -> list[str]:
    lines = [
        "| kind | instances | mean | worst | 1 % | 5 % | 25 % | median | optimal |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    groups = {kind: [one for one in rows if one.kind == kind] for kind in KINDS}
    for kind, members in {**groups, "all": list(rows)}.items():
        if members:
            ratios = [one.ratio(name) for one in members]
            best = sum(ratio >= 1 for ratio in ratios)
            lines.append(
                f"| {kind} | {len(members)} | {statistics.fmean(ratios):.4f} | {min(ratios):.4f} "
                f"| {quantiles(ratios)} | {best} |"
            )
    return lines


def table_of_terms(rows: Sequence[Row]) -> list[str]:
    """Each term's sum over the instances, relative to the optimum's."""
    lines = [
        "| plan | " + " | ".join(TERMS) + " | without served, where as many are served |",
        "| --- | " + "---: | " * (len(TERMS) + 1),
    ]
    for name in STRATEGIES:
        shares = []
        for term in TERMS:
            whole = sum(getattr(one.optimum, term) for one in rows)
            shares.append(sum(getattr(one.plans[name], term) for one in rows) / max(1, whole))
        equal = [one for one in rows if one.plans[name].placed == one.optimum.placed > 0]
        rest = [
            (one.plans[name].value - one.plans[name].served)
            / max(1, one.optimum.value - one.optimum.served)
            for one in equal
        ]
        words = (
            "none"
            if not rest
            else (
                f"mean {statistics.fmean(rest):.4f}, worst {min(rest):.4f} ({len(rest)} instances)"
            )
        )
        lines.append(
            f"| {name} | " + " | ".join(f"{share:.4f}" for share in shares) + f" | {words} |"
        )
    return lines


def histogram(values: Sequence[float]) -> list[str]:
    edges = [0.0, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99, 0.999, 1.0]
    lines = []
    for low, high in zip(edges, [*edges[1:], float("inf")], strict=True):
        count = sum(low <= value < high for value in values)
        bar = "#" * round(60 * count / len(values))
        label = f"{low:.3f} to {high:.3f}" if high <= 1 else "1 (optimal)   "
        lines.append(f"{label:15} {count:4} {bar}")
    return lines


def weak(rows: Sequence[Row], below: float) -> list[str]:
    """Instances on which `balanced` is below, the weakest first, with what it lost."""
    lines = []
    for one in sorted(rows, key=lambda one: one.ratio("balanced")):
        if one.ratio("balanced") >= below:
            break
        own, best = one.plans["balanced"], one.optimum
        lost = {term: getattr(best, term) - getattr(own, term) for term in TERMS}
        state = "proven" if one.proven else f"bound {one.bound}"
        lines.append(
            f"- {one.kind!r} seed {one.seed}: ratio {one.ratio('balanced'):.4f}, serves "
            f"{own.placed} of {one.requests} on {one.devices} GPUs, best {best.placed} ({state}); "
            f"lost in hundredths of a point {lost}"
        )
    return lines


def report(rows: Sequence[Row]) -> None:
    proven = [one for one in rows if one.proven]
    rest = [one for one in rows if not one.proven]
    print(f"{len(rows)} instances, {len(proven)} with a proven optimum.\n")
    for name in STRATEGIES:
        print(f"### {name}, share of the proven optimum\n")
        print("\n".join(table_of_ratios(proven, name)))
        print("\n```\n" + "\n".join(histogram([one.ratio(name) for one in proven])) + "\n```\n")
        if rest:
            print(f"### {name}, where no optimum is proven\n")
            print("\n".join(table_of_unproven(rest, name)), "\n")
    print("### by term, proven optima\n")
    print("\n".join(table_of_terms(proven)), "\n")
    for name in (*STRATEGIES, "cpsat"):
        took = [one.optimum if name == "cpsat" else one.plans[name] for one in rows]
        seconds = sorted(one.took_s for one in took)
        print(f"{name}: median {statistics.median(seconds):.3f} s, longest {seconds[-1]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--per-kind", type=int, default=30)
    parser.add_argument("--work", type=float, default=20.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--optima", type=Path)
    parser.add_argument("--weak", type=Path, help="write the instances below 0.98 there")
    arguments = parser.parse_args()
    known: dict[str, Any] = {}
    if arguments.optima is not None and arguments.optima.exists():
        known = json.loads(arguments.optima.read_text())
    wanted = [
        (kind, seed) for seed in range(arguments.per_kind) for kind in arguments.kinds.split(",")
    ]
    rows = []
    with ProcessPoolExecutor(arguments.processes) as pool:
        tasks = [pool.submit(row, kind, seed, arguments.work, known) for kind, seed in wanted]
        for done, task in enumerate(tasks, 1):
            key, one = task.result()
            rows.append(one)
            known[key] = {"best": msgspec.to_builtins(one.optimum), "bound": one.bound}
            if arguments.optima is not None:
                arguments.optima.write_text(json.dumps(known))
            if arguments.weak is not None:
                arguments.weak.write_text("\n".join(weak(rows, 0.98)) + "\n")
            print(f"\r{done} of {len(tasks)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    report(rows)


if __name__ == "__main__":
    main()
