"""The estimate beside public measurements: the table of docs/memory.md.

`python tools/memory_error_table.py` writes it into the page; a test compares the two.
"""

import json
import sys
from pathlib import Path
from typing import Any

from muai_core.model.architecture import ModelDescription
from muai_core.model.memory import RankMemory, ShardedMemory, stage_layers
from muai_core.planning.architecture import architecture_of
from muai_core.planning.engine_profiles import VLLM_CUDA
from muai_core.planning.estimate import EstimateRequest, memory_needs
from muai_core.planning.tensors import tensors_of

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "tests" / "planning" / "measured_rows.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- measured rows -->", "<!-- end of measured rows -->"
GIB = 2**30


def description(config: dict[str, Any]) -> ModelDescription:
    architecture = architecture_of(config)
    return ModelDescription(
        architecture=architecture, tensors=tensors_of(architecture), origin="config"
    )


def sharded(model: ModelDescription, row: dict[str, Any]) -> ShardedMemory:
    request = EstimateRequest(
        context_tokens=row.get("context_tokens"),
        concurrency=row.get("concurrency", 1),
        tensor_parallel_sizes=(row["tp"],),
    )
    return memory_needs(model, VLLM_CUDA, request).sharded[0]


def first_rank(one: ShardedMemory, row: dict[str, Any]) -> RankMemory:
    """The rank that the row is about: of the first stage, with all layers if there is one."""
    return one.rank(stage_layers(tuple(row.get("partition", [one.layer_count])))[0])


def kv_cache_gib(one: ShardedMemory, row: dict[str, Any]) -> float:
    return one.kv_bytes_per_token(range(one.layer_count)) * int(row["kv_tokens"]) / GIB


def table() -> str:
    data = json.loads(ROWS.read_text(encoding="utf-8"))
    lines = [
        "| model | TP | weights GiB: measured | estimated | error | KV cache GiB: measured "
        "| estimated | fits: observed | estimated | source |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in data["measured"]:
        one = sharded(description(data["models"][row["model"]]), row)
        rank = first_rank(one, row)
        cells = [row["model"], str(row["tp"])]
        cells += _weights(rank, row) + _cache(one, row) + _fit(rank, row)
        lines.append("| " + " | ".join([*cells, _source(row)]) + " |")
    remarks = [
        f"{row['model']}, {row['weights_gib']:g}: {row['beyond']}."
        for row in data["measured"]
        if "beyond" in row
    ]
    return "\n".join([*lines, "", "More than 1 % off:", "", *(f"- {one}" for one in remarks)])


def _weights(rank: RankMemory, row: dict[str, Any]) -> list[str]:
    measured = row.get("weights_gib")
    estimated = rank.weights_bytes / GIB
    if measured is None:
        return ["", f"{estimated:.3f}", ""]
    return [f"{measured:g}", f"{estimated:.3f}", f"{100 * (estimated / measured - 1):+.2f} %"]


def _cache(one: ShardedMemory, row: dict[str, Any]) -> list[str]:
    if "kv_tokens" not in row:
        return ["", ""]
    tokens = f"{row['kv_gib']:g} for {row['kv_tokens']:,} tokens"
    return [tokens, f"{kv_cache_gib(one, row):.3f}"]


def _fit(rank: RankMemory, row: dict[str, Any]) -> list[str]:
    if "fits" not in row:
        return ["", ""]
    needs = rank.total_bytes / GIB
    estimated = "yes" if needs <= row["card_gib"] else "no"
    sequences = f"{row['concurrency']} × " if "concurrency" in row else ""
    context = f"{sequences}{row['context_tokens']:,} tokens in {row['card_gib']:g}"
    return [f"{'yes' if row['fits'] else 'no'}: {context}", f"{estimated}: needs {needs:.1f}"]


def _source(row: dict[str, Any]) -> str:
    name = row["source"].removeprefix("https://github.com/")
    if name == row["source"] and not name.startswith("https://"):
        return str(name)
    return f"[{name.removeprefix('https://')}]({row['source']})"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
