"""The estimate against public measurements; nothing in it was fitted to them.

`measured_rows.json` has the facts: configs as published, and figures with their sources.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from muai_core.model.memory import Shape
from muai_core.planning.engine_profiles import VLLM_CUDA
from muai_core.planning.shapes import refusal

ROOT = Path(__file__).resolve().parents[2]
DATA: dict[str, Any] = json.loads((Path(__file__).parent / "measured_rows.json").read_text())


def _tool() -> ModuleType:
    path = ROOT / "tools" / "memory_error_table.py"
    spec = importlib.util.spec_from_file_location("memory_error_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = _tool()


def _rows(*needed: str) -> list[Any]:
    return [
        pytest.param(row, id=f"{row['model']}-tp{row['tp']}")
        for row in DATA["measured"]
        if all(key in row for key in needed)
    ]


def _sharded(row: dict[str, Any]) -> Any:
    return tool.sharded(tool.description(DATA["models"][row["model"]]), row)


@pytest.mark.parametrize("row", _rows("weights_gib"))
def test_weights_are_within_one_percent(row: dict[str, Any]) -> None:
    estimated = tool.first_rank(_sharded(row), row).weights_bytes / 2**30
    error = abs(estimated / row["weights_gib"] - 1)
    if "beyond" in row:
        # A row that is explained away must need it.
        assert 0.01 < error < 0.03
    else:
        assert error <= 0.01


@pytest.mark.parametrize("row", _rows("kv_tokens"))
def test_bytes_per_token_are_exact(row: dict[str, Any]) -> None:
    # As exact as what was printed: half of the last digit.
    digits = len(f"{row['kv_gib']:g}".partition(".")[2])
    assert tool.kv_cache_gib(_sharded(row), row) == pytest.approx(
        row["kv_gib"], abs=0.5 * 10**-digits + 1e-9
    )


@pytest.mark.parametrize("row", _rows("fits"))
def test_what_was_seen_to_fit_fits_and_what_was_not_does_not(row: dict[str, Any]) -> None:
    needs = tool.first_rank(_sharded(row), row).total_bytes / 2**30
    assert (needs <= row["card_gib"]) is row["fits"]


@pytest.mark.parametrize("row", DATA["refused"], ids=lambda row: f"{row['model']}-tp{row['tp']}")
def test_shapes_that_engines_refused_are_refused(row: dict[str, Any]) -> None:
    architecture = tool.description(DATA["models"][row["model"]]).architecture
    reason = refusal(architecture, VLLM_CUDA, Shape(row["tp"], 1))
    assert reason is not None
    assert reason.startswith(f"{row['tp']} is not possible: ")
    assert refusal(architecture, VLLM_CUDA, Shape(1, 1)) is None


def test_shapes_that_were_measured_are_possible() -> None:
    for row in DATA["measured"]:
        architecture = tool.description(DATA["models"][row["model"]]).architecture
        assert refusal(architecture, VLLM_CUDA, Shape(row["tp"], 1)) is None


def test_the_page_states_these_errors() -> None:
    """If this fails, run `python tools/memory_error_table.py`."""
    page = tool.PAGE.read_text(encoding="utf-8")
    table = page.partition(tool.BEGIN)[2].partition(tool.END)[0]
    assert table.strip() == tool.table().strip()
