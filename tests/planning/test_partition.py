"""Layers over unlike devices: the exact cut, known instances, and brute force beside it."""

from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muai_core import ShardedMemory
from muai_core.model.memory import even_partition, stage_layers
from muai_core.planning.partition import best_order, best_partition, kv_tokens

GIB = 1024**3


def model(
    layers: int,
    layer_bytes: int,
    kv_bytes: int,
    *,
    embedding: int = 0,
    head: int = 0,
    overhead: int = GIB,
    tokens: int = 2048,
) -> ShardedMemory:
    return ShardedMemory(
        tensor_parallel_size=1,
        pipeline_parallel_sizes=(1, 2, 3, 4, 8),
        layer_weights_bytes=(layer_bytes,) * layers,
        first_stage_weights_bytes=embedding,
        last_stage_weights_bytes=head,
        layer_kv_cache_bytes=(kv_bytes * tokens,) * layers,
        layer_kv_bytes_per_token=(kv_bytes,) * layers,
        activation_bytes=0,
        last_stage_activation_bytes=0,
        overhead_bytes=overhead,
    )


def linear_model(
    layers: int, hidden: int, ffn: int, kv_heads: int, vocabulary: int, b: int = 2
) -> ShardedMemory:
    """A decoder with heads of 128, its weights in `b` bytes each, keys and values in two."""
    attention = 2 * hidden * hidden + 2 * hidden * kv_heads * 128
    return model(
        layers,
        (attention + 3 * hidden * ffn) * b,
        2 * kv_heads * 128 * 2,
        embedding=vocabulary * hidden * 2,
        head=vocabulary * hidden * 2,
    )


QWEN_32B = linear_model(64, 5120, 27648, 8, 152064)
LLAMA_70B = linear_model(80, 8192, 28672, 8, 128256)
#: 128 experts of 768 in fp8, keys and values of four heads in bfloat16.
QWEN_30B_FP8 = model(
    48,
    2 * 2048 * 4096 + 2 * 2048 * 512 + 128 * 3 * 2048 * 768,
    2 * 4 * 128 * 2,
    embedding=151936 * 2048 * 2,
    head=151936 * 2048 * 2,
)


@pytest.mark.parametrize(
    ("sharded", "free_gib", "expected", "even_fits"),
    [
        (QWEN_30B_FP8, (16 * 0.92, 32 * 0.92), (15, 33), False),
        (QWEN_32B, (24 * 0.92, 24 * 0.92, 24 * 0.92, 48 * 0.92), (12, 13, 13, 26), True),
        (LLAMA_70B, (80 * 0.92, 40 * 0.92, 40 * 0.92, 40 * 0.92), (33, 16, 16, 15), True),
        (LLAMA_70B, (73.6, 73.6, 73.6, 73.6), (20, 20, 20, 20), True),
    ],
    ids=["qwen-30b-16+32", "qwen-32b-3x24+48", "llama-70b-80+3x40", "llama-70b-4x80"],
)
def test_known_instances(
    sharded: ShardedMemory, free_gib: tuple[float, ...], expected: tuple[int, ...], even_fits: bool
) -> None:
    free = [int(gib * GIB) for gib in free_gib]
    assert best_partition(sharded, free) == expected
    even = even_partition(sharded.layer_count, len(free))
    tokens = kv_tokens(sharded, even, free)
    assert (tokens is not None) == even_fits
    if expected != even:
        best = kv_tokens(sharded, expected, free)
        assert best is not None
        assert best > 1.5 * (tokens or 0)


# --- any model on any devices -------------------------------------------------------------------


def cuts(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    if stages == 1:
        yield (layers,)
        return
    for first in range(1, layers - stages + 2):
        for rest in cuts(layers - first, stages - 1):
            yield (first, *rest)


@st.composite
def instances(draw: st.DrawFn) -> tuple[ShardedMemory, tuple[int, ...]]:
    layers = draw(st.integers(1, 8))
    sizes = st.integers(0, 9)
    equal = draw(st.booleans())

    def per_layer(least: int) -> tuple[int, ...]:
        values = st.integers(least, 9)
        if equal:
            return (draw(values),) * layers
        return tuple(draw(values) for _ in range(layers))

    first = draw(sizes)
    last = draw(sizes)
    sharded = ShardedMemory(
        tensor_parallel_size=1,
        pipeline_parallel_sizes=(1, 2, 3, 4),
        layer_weights_bytes=per_layer(0),
        first_stage_weights_bytes=first,
        last_stage_weights_bytes=last,
        tied_weights_bytes=draw(st.integers(0, min(first, last))),
        layer_kv_cache_bytes=per_layer(0),
        layer_kv_bytes_per_token=per_layer(0),
        activation_bytes=draw(sizes),
        last_stage_activation_bytes=draw(sizes),
        overhead_bytes=draw(sizes),
        pipeline_overhead_bytes=draw(st.integers(0, 3)),
    )
    return sharded, tuple(draw(st.lists(st.integers(0, 120), min_size=1, max_size=4)))


def held(sharded: ShardedMemory, cut: tuple[int, ...], free: tuple[int, ...]) -> int | None:
    """What `kv_tokens` says, from the definition: the records of the ranks themselves."""
    found = []
    for run, own in zip(stage_layers(cut), free, strict=True):
        rank = sharded.rank(run)
        if rank.total_bytes > own:
            return None
        per_token = sharded.kv_bytes_per_token(run)
        if per_token:
            found.append((own - rank.total_bytes + rank.kv_cache_bytes) // per_token)
    growing = [size for size in sharded.layer_kv_bytes_per_token if size]
    return min(found) if found else (max(free) // min(growing) if growing else 0)


def best_by_brute_force(sharded: ShardedMemory, free: tuple[int, ...]) -> int | None:
    every = (held(sharded, cut, free) for cut in cuts(sharded.layer_count, len(free)))
    return max((tokens for tokens in every if tokens is not None), default=None)


@settings(deadline=None, max_examples=400)
@given(instances())
def test_the_cut_is_as_good_as_the_best_of_all(
    instance: tuple[ShardedMemory, tuple[int, ...]],
) -> None:
    sharded, free = instance
    best = best_by_brute_force(sharded, free)
    found = best_partition(sharded, free)
    if best is None or found is None:
        assert best is None
        assert found is None
        return
    assert sum(found) == sharded.layer_count
    assert min(found) >= 1
    even = even_partition(sharded.layer_count, len(free))
    assert kv_tokens(sharded, found, free) == held(sharded, found, free)
    # Devices that are alike keep the engine's own cut, as long as that fits.
    assert found == even or held(sharded, found, free) == best


@settings(deadline=None, max_examples=200)
@given(instances())
def test_unlike_devices_stand_in_the_best_order(
    instance: tuple[ShardedMemory, tuple[int, ...]],
) -> None:
    sharded, free = instance
    by_force = [
        (tokens, order)
        for order in permutations(range(len(free)))
        if (tokens := best_by_brute_force(sharded, tuple(free[i] for i in order))) is not None
    ]
    answer = best_order(sharded, free)
    if answer is None:
        # Devices that differ by less than a layer are not tried in other orders.
        assert not by_force or max(free) - min(free) < 18
        return
    order, found = answer
    assert sorted(order) == list(range(len(free)))
    tokens = held(sharded, found, tuple(free[i] for i in order))
    assert tokens is not None
    assert tokens <= max(by_force)[0]


def test_a_larger_last_device_is_moved_to_where_it_holds_more() -> None:
    # The large embeddings leave the small first device next to nothing for layers.
    sharded = model(20, GIB, 2**18, embedding=12 * GIB)
    free = (16 * GIB, 40 * GIB)
    answer = best_order(sharded, free)
    assert answer is not None
    order, found = answer
    assert order == (1, 0)
    tokens = kv_tokens(sharded, found, [free[place] for place in order])
    assert tokens is not None
    assert tokens > (kv_tokens(sharded, best_partition(sharded, free) or (), free) or 0)


def test_more_stages_than_layers_are_impossible() -> None:
    assert best_partition(model(2, 1, 1), (GIB * 9,) * 3) is None
