"""Cells of the KV cache: who writes where, who sees what, and how much there is."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from muai_torch.slots import Batch, Shape, SlotCache, shape_for

CPU = torch.device("cpu")


@given(st.integers(1, 16), st.integers(1, 4096), st.integers(1, 200_000))
def test_shapes_hold_what_was_asked_within_the_budget(rows: int, tokens: int, budget: int) -> None:
    shape = shape_for(rows, tokens, Shape(16, 4096), budget)
    if shape is None:
        assert rows * tokens > budget
    else:
        assert rows <= shape.rows <= 16
        assert tokens <= shape.tokens <= 4096
        assert shape.rows * shape.tokens <= budget


def test_mask_hides_later_tokens_of_the_own_row_and_nothing_else() -> None:
    batch = Batch([0, 1], [4, 0], [1, 3], CPU)
    visible = batch.mask(torch.float32)[:, 0] == 0
    assert batch.width == 3
    assert batch.kv_tokens == 5
    assert visible[0, 2].tolist() == [True] * 5
    assert visible[1].tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
    ]


def test_sliding_window_sees_the_last_tokens_only() -> None:
    batch = Batch([0], [0], [5], CPU)
    visible = batch.mask(torch.float32, window=2)[0, 0] == 0
    assert visible.sum(dim=-1).tolist() == [1, 2, 2, 2, 2]
    assert visible[4].tolist() == [False, False, False, True, True]


def test_rows_are_written_read_moved_and_resized() -> None:
    cache = SlotCache(1, Shape(2, 4))

    def write(rows: list[int], starts: list[int], tokens: list[list[float]]) -> torch.Tensor:
        cache.batch = Batch(rows, starts, [len(t) for t in tokens], CPU)
        padded = [[-1.0] * (cache.batch.width - len(t)) + t for t in tokens]
        states = torch.tensor(padded, dtype=torch.float32)[:, None, :, None]
        keys, _ = cache.update(states, states, 0)
        return keys[:, 0, :, 0]

    assert write([0, 1], [0, 0], [[1, 2, 3], [7]]).tolist() == [[1, 2, 3], [7, 0, 0]]
    assert write([1], [1], [[8]]).tolist() == [[7, 8]]
    cache.resize(Shape(3, 8), Shape(2, 3))
    cache.move_row(1, 2, 2)
    assert write([0, 2], [3, 2], [[4], [9]]).tolist() == [[1, 2, 3, 4], [7, 8, 9, 0]]
    assert cache.bytes_per_token() == 2 * 4
