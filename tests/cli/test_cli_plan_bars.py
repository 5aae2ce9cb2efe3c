"""The bars of muai plan: whatever is there shows, and nothing stands for what is not."""

import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core.cli.plan_bars import Segment, legend, segments_of, widths

GIB = 1024**3

sizes = st.lists(st.integers(0, 200 * GIB), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(sizes=sizes, width=st.integers(12, 200))
def test_bars_are_as_wide_as_asked_and_hide_nothing(sizes: list[int], width: int) -> None:
    found = widths([Segment(size, "A") for size in sizes], width)
    assert sum(found) == (width if any(sizes) else 0)
    for size, cells in zip(sizes, found, strict=True):
        assert (cells > 0) == (size > 0)


@settings(max_examples=200, deadline=None)
@given(sizes=sizes, width=st.integers(40, 200))
def test_bars_are_in_proportion(sizes: list[int], width: int) -> None:
    found = widths([Segment(size, "A") for size in sizes], width)
    if any(sizes):
        for size, cells in zip(sizes, found, strict=True):
            assert abs(cells - size * width / sum(sizes)) <= len(sizes)


DEVICE = {
    "capacity_bytes": 80 * GIB,
    "foreign_bytes": 4 * GIB,
    "allocatable_bytes": 75 * GIB,
    "free_bytes": 45 * GIB,
    "claims_by_kind": {
        "chat.0": {
            "weights_bytes": 20 * GIB,
            "kv_cache_bytes": 7 * GIB,
            "activation_bytes": 2 * GIB,
            "overhead_bytes": GIB,
            "undivided_bytes": 0,
        }
    },
}


def test_a_bar_tells_whose_bytes_of_what_kind_from_left_to_right() -> None:
    told = [(one.letter, one.size_bytes // GIB) for one in segments_of(DEVICE, ["other", "chat"])]
    assert told == [("B", 20), ("b", 7), ("~", 2), ("+", 1), ("x", 4), ("=", 1), (".", 45)]
    assert sum(size for _, size in told) * GIB == DEVICE["capacity_bytes"]


def test_the_legend_names_what_is_there_alone() -> None:
    assert legend(["other", "chat"], {"GPU-0": DEVICE}) == (
        "B chat; capitals weights, small letters KV cache, ~ activation, + overhead, x foreign, "
        "= reserve, . free"
    )
    empty = {**DEVICE, "claims_by_kind": {}, "foreign_bytes": None, "allocatable_bytes": 80 * GIB}
    assert legend(["chat"], {"GPU-0": empty}) == ". free"


@pytest.mark.parametrize(("columns", "bar"), [("200", 64), ("100", 56), ("30", 10)])
def test_on_a_terminal_bars_take_the_room_there_is(
    fleet_config: Any, environ: dict[str, str], tmp_path: Any, columns: str, bar: int
) -> None:
    file = fleet_config("  chat: {source: weights, tensor_parallel_size: 2}\n")
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "muai_core.cli.main", "plan", file],
        cwd=tmp_path,
        env={**environ, "COLUMNS": columns, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(terminal)
        text = _all_of(main)
    assert process.returncode == 0
    assert "\x1b[" in text
    plain = _without_colours(text)
    longest = max(
        len(word) for line in plain.splitlines() for word in line.split() if set(word) <= {*"A.x="}
    )
    assert longest == bar


def _all_of(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode("utf-8")


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
