"""Would it fit? MuAI's estimate beside the rule "weights × 1.2 + 2 GiB", against what is known.

    python benchmarks/memory_rule.py

The rule is GPUStack's for models in safetensors (its policies/utils.py; its documentation calls it
a lower bound), split evenly over the tensor-parallel ranks. Two questions:

1. Measured starts (tests/planning/measured_rows.json): what was seen to fit, or not to.
2. A grid of the models there × contexts × GPUs. Truth is vLLM's check at start-up: on every rank,
   weights + everything else + KV cache of one longest sequence within `gpu_memory_utilization` of
   the GPU. Of that, weights and KV cache are computed from the config (the measured rows have the
   former within 1 % but for two that are told there, the latter exactly); "everything else" is
   measured, by others, and a range. Where its ends disagree, nobody can say who is right: such
   cases are counted apart. MuAI's own terms for "everything else" are no part of the truth.

Prints tables in Markdown.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from muai_core.model.architecture import ModelDescription
from muai_core.model.memory import RankMemory, Shape, even_partition, stage_layers
from muai_core.planning.architecture import architecture_of
from muai_core.planning.engine_profiles import VLLM_CUDA
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.shapes import refusal
from muai_core.planning.tensors import tensors_of

GIB = 2**30
ROWS = Path(__file__).resolve().parents[1] / "tests" / "planning" / "measured_rows.json"

#: vLLM's default share of a GPU (gpu_memory_utilization).
UTILIZATION = 0.92
#: GiB that NVML shows of a GPU; the H100's is the one of the measured row.
CARDS = {
    "T4": 15.0,
    "L4": 22.5,
    "RTX 4090": 23.99,
    "A100-40GB": 39.5,
    "L40S": 44.99,
    "H100": 79.22,
    "H200": 139.8,
}
CONTEXTS = (2048, 8192, 32768, 131072)
SIZES = (1, 2, 4, 8)
#: GiB of a rank beside weights and KV cache in measured starts of text models on one GPU: 1.2
#: (gpt-oss-20b, vLLM 0.19) to 1.79 + 1.26 (Llama-3-8B, github.com/vllm-project/vllm/pull/10511).
REST_GIB = (1.2, 3.05)
#: More of it for NCCL and custom all-reduce with several ranks, as seen.
COLLECTIVES_GIB = (0.2, 1.8)
#: They take more for pictures than the range says (36.6 GiB were measured for one).
WITH_PICTURES = ("llama-3.2-11b-vision",)


class Case(NamedTuple):
    """One question, and the three answers; `fits` None: the range does not tell."""

    group: str
    fits: bool | None
    ours: bool
    rule: bool


def description(config: dict[str, Any]) -> ModelDescription:
    architecture = architecture_of(config)
    return ModelDescription(
        architecture=architecture, tensors=tensors_of(architecture), origin="config"
    )


def rule_bytes(model: ModelDescription, size: int) -> float:
    """What the rule gives each of `size` ranks."""
    weights = sum(tensor.size_bytes for tensor in model.tensors)
    return (weights * 1.2 + 2 * GIB) / size


def largest_rank(
    model: ModelDescription, size: int, stages: tuple[int, ...], context: int, sequences: int
) -> RankMemory:
    request = EstimateRequest(
        context_tokens=context, concurrency=sequences, tensor_parallel_sizes=(size,)
    )
    one = memory_needs(model, VLLM_CUDA, request).sharded[0]
    partition = stages or even_partition(one.layer_count, 1)
    return one.rank(stage_layers(partition)[0])


def measured(data: dict[str, Any]) -> Iterator[Case]:
    for row in data["measured"]:
        # The rule knows no stages of unequal devices.
        if "fits" not in row or "partition" in row:
            continue
        model = description(data["models"][row["model"]])
        rank = largest_rank(model, row["tp"], (), row["context_tokens"], row.get("concurrency", 1))
        budget = row["card_gib"] * GIB
        yield Case(
            f"{row['model']} on {row['card']}, {row['context_tokens']:,} tokens"
            + (f" × {row['concurrency']}" if "concurrency" in row else ""),
            row["fits"],
            rank.total_bytes <= budget,
            rule_bytes(model, row["tp"]) <= budget,
        )


def grid(data: dict[str, Any]) -> Iterator[Case]:
    for name, config in data["models"].items():
        if name in WITH_PICTURES:
            continue
        model = description(config)
        longest = model.architecture.context_tokens or max(CONTEXTS)
        for size in SIZES:
            if refusal(model.architecture, VLLM_CUDA, Shape(size, 1)) is not None:
                continue
            for context in CONTEXTS:
                if context <= longest:
                    rank = largest_rank(model, size, (), context, 1)
                    yield from _on_cards(model, rank, size, context)


def _on_cards(model: ModelDescription, rank: RankMemory, size: int, context: int) -> Iterator[Case]:
    known = rank.weights_bytes + rank.kv_cache_bytes
    several = size > 1
    least, most = (
        known + (rest + several * more) * GIB
        for rest, more in zip(REST_GIB, COLLECTIVES_GIB, strict=True)
    )
    for total_gib in CARDS.values():
        budget = UTILIZATION * total_gib * GIB
        fits = True if most <= budget else False if least > budget else None
        yield Case(
            f"{context:,} tokens",
            fits,
            rank.total_bytes <= budget,
            rule_bytes(model, size) <= budget,
        )


def row_of(group: str, cases: list[Case]) -> str:
    """Shares of the cases in which the truth is known."""
    known = [one for one in cases if one.fits is not None]
    cells = [group, str(len(cases)), str(len(known))]
    for name in ("rule", "ours"):
        starts = sum(getattr(one, name) and not one.fits for one in known)
        refuses = sum(not getattr(one, name) and bool(one.fits) for one in known)
        cells += [
            f"{starts / len(known):.1%} ({starts})",
            f"{refuses / len(known):.1%} ({refuses})",
        ]
    unsure = [one for one in cases if one.fits is None]
    cells += [f"{sum(one.rule for one in unsure)} / {sum(one.ours for one in unsure)}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    data = json.loads(ROWS.read_text(encoding="utf-8"))
    print("| measured start | fits | rule says | MuAI says |\n| --- | --- | --- | --- |")
    rows = list(measured(data))
    for one in rows:
        cells = ["yes" if value else "no" for value in (one.fits, one.rule, one.ours)]
        print(f"| {one.group} | {' | '.join(cells)} |")
    for name in ("rule", "ours"):
        wrong = sum(getattr(one, name) != one.fits for one in rows)
        print(f"\n{'The rule' if name == 'rule' else 'MuAI'} is wrong in {wrong} of {len(rows)}.")
    print(
        "\n| longest sequence | cases | truth known | rule starts what does not fit "
        "| rule refuses what fits | MuAI starts what does not fit | MuAI refuses what fits "
        "| truth not known: rule / MuAI would start |"
    )
    print("| --- | " + "---: | " * 7)
    cases = list(grid(data))
    for context in CONTEXTS:
        group = f"{context:,} tokens"
        print(row_of(group, [one for one in cases if one.group == group]))
    print(row_of("all", cases))


if __name__ == "__main__":
    main()
