"""Which layers each pipeline stage gets when its devices are unlike: exact, for the most KV tokens.

Of all ways to cut the layers into consecutive runs, one per stage, `best_partition` finds the one
whose tightest stage can hold the most tokens. It asks "can every stage hold T tokens?" for T by
bisection; one answer costs O(stages × layers × log(layers)), because a stage that holds a run of
layers holds every part of that run.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, permutations

from muai_core.model.memory import ShardedMemory, even_partition, stage_layers


def kv_tokens(
    sharded: ShardedMemory, partition: Sequence[int], free_bytes: Sequence[int]
) -> int | None:
    """Tokens that the tightest stage can hold; None when a stage does not fit.

    `free_bytes` is what the scarcest device of each stage has. Without any growing KV cache the
    tokens are limited by nothing: then 0.
    """
    cut = _Cut(sharded, free_bytes)
    ends = list(accumulate(partition))
    runs = list(zip([0, *ends], ends, strict=False))
    if not all(cut.fits(stage, *run, 0) for stage, run in enumerate(runs)):
        return None
    return min(cut.tokens(stage, *run) for stage, run in enumerate(runs))


def best_partition(sharded: ShardedMemory, free_bytes: Sequence[int]) -> tuple[int, ...] | None:
    """Layers of each stage; None when no cut fits. Of equally good cuts the most even.

    Where the devices are alike the layers are cut evenly if that fits, as engines do unasked.
    """
    return _best(_Cut(sharded, free_bytes), above=None)


def best_order(
    sharded: ShardedMemory, free_bytes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """In which order unlike devices serve as stages, and the layers of each; None: nothing fits.

    The first is a permutation of the places in `free_bytes`. The given order stays unless another
    holds more tokens.
    """
    best: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    tokens: int | None = None
    for order in _orders(sharded, free_bytes):
        cut = _Cut(sharded, [free_bytes[place] for place in order])
        found = _best(cut, above=tokens)
        if found is not None:
            best = order, found
            tokens = kv_tokens(sharded, found, cut.free_bytes)
    return best


def alike(sharded: ShardedMemory, free_bytes: Sequence[int]) -> bool:
    """Whether the differences between the devices are too small for a layer more or less."""
    return max(free_bytes) - min(free_bytes) < _least_layer_bytes(sharded)


def _least_layer_bytes(sharded: ShardedMemory) -> int:
    return max(
        1,
        min(
            weights + kv_cache
            for weights, kv_cache in zip(
                sharded.layer_weights_bytes, sharded.layer_kv_cache_bytes, strict=True
            )
        ),
    )


def _equal_layers(sharded: ShardedMemory) -> bool:
    return all(
        min(sizes) == max(sizes)
        for sizes in (
            sharded.layer_weights_bytes,
            sharded.layer_kv_cache_bytes,
            sharded.layer_kv_bytes_per_token,
        )
    )


def _orders(sharded: ShardedMemory, free_bytes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Orders that may differ in what fits, the given one first, each once."""
    places = tuple(range(len(free_bytes)))
    yield places
    if alike(sharded, free_bytes):
        return
    unit = _least_layer_bytes(sharded)
    kinds = [free // unit for free in free_bytes]
    seen = {tuple(kinds)}
    if _equal_layers(sharded) or len(places) > 5:
        candidates: Iterator[tuple[int, ...]] = (
            (first, *(place for place in places if place not in (first, last)), last)
            for first, last in permutations(places, 2)
        )
    else:
        candidates = permutations(places)  # at most 120
    for order in candidates:
        key = tuple(kinds[place] for place in order)
        if key not in seen:
            seen.add(key)
            yield order


class _Cut:
    """Prefix sums over the layers, to price any run of them for any stage."""

    def __init__(self, sharded: ShardedMemory, free_bytes: Sequence[int]) -> None:
        self.sharded = sharded
        self.free_bytes = free_bytes
        self.stages = len(free_bytes)
        self.layers = sharded.layer_count
        self._weights = (0, *accumulate(sharded.layer_weights_bytes))
        self._kv_cache = (0, *accumulate(sharded.layer_kv_cache_bytes))
        self._per_token = (0, *accumulate(sharded.layer_kv_bytes_per_token))
        several = self.stages > 1
        fixed = sharded.overhead_bytes + several * sharded.pipeline_overhead_bytes
        self._fixed = [fixed + sharded.activation_bytes] * self.stages
        self._fixed[-1] = fixed + sharded.last_stage_activation_bytes
        self._fixed[0] += sharded.first_stage_weights_bytes
        self._fixed[-1] += sharded.last_stage_weights_bytes
        self._fixed[0] -= 0 if several else sharded.tied_weights_bytes
        #: Whether a run costs the same wherever it begins.
        self.equal = _equal_layers(sharded)

    def fits(self, stage: int, start: int, stop: int, tokens: int) -> bool:
        """Whether a rank of `stage` holds these layers, the KV asked for, and `tokens` tokens."""
        kv_cache = max(
            self._kv_cache[stop] - self._kv_cache[start],
            tokens * (self._per_token[stop] - self._per_token[start]),
        )
        weights = self._weights[stop] - self._weights[start]
        return self._fixed[stage] + weights + kv_cache <= self.free_bytes[stage]

    def tokens(self, stage: int, start: int, stop: int) -> int:
        """Tokens that a rank of `stage` can hold beside these layers; limited by `most_tokens`."""
        per_token = self._per_token[stop] - self._per_token[start]
        weights = self._weights[stop] - self._weights[start]
        left = self.free_bytes[stage] - self._fixed[stage] - weights
        return left // per_token if per_token else self.most_tokens

    @property
    def most_tokens(self) -> int:
        """More than this fits nowhere; 0 when no layer's KV cache grows."""
        growing = [size for size in self.sharded.layer_kv_bytes_per_token if size]
        return max(0, *self.free_bytes, 0) // min(growing) if growing else 0

    def furthest(self, stage: int, start: int, tokens: int) -> int:
        """The last end of a run that begins at `start`; `start` itself when no layer fits."""
        low, high = start, self.layers - (self.stages - 1 - stage)
        if self.equal and low < high:
            return low + min(high - low, self._most_layers(stage, tokens))
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(stage, start, middle, tokens):
                low = middle
            else:
                high = middle - 1
        return low

    def _most_layers(self, stage: int, tokens: int) -> int:
        """How many a rank of `stage` holds, all layers being equal."""
        left = self.free_bytes[stage] - self._fixed[stage]
        each = self._weights[1] + max(self._kv_cache[1], tokens * self._per_token[1])
        if left < 0:
            return 0
        return left // each if each else self.layers

    def starts(self, tokens: int) -> list[int]:
        """For each stage, and the end, the layers at which it may begin, as the bits of a number.

        A layer is set when this stage and those after it can take all layers from there.
        """
        found = [0] * self.stages + [1 << self.layers]
        if self.equal:
            room = 0
            for stage in reversed(range(self.stages)):
                most = self._most_layers(stage, tokens)
                if not most:
                    break
                room += most
                first = max(stage, self.layers - room)
                found[stage] = _bits(first, self.layers - (self.stages - stage))
            return found
        for stage in reversed(range(self.stages)):
            for start in range(stage, self.layers):
                stop = self.furthest(stage, start, tokens)
                if found[stage + 1] & _bits(start + 1, stop):
                    found[stage] |= 1 << start
        return found

    def possible(self, tokens: int) -> bool:
        """Whether some cut lets every stage hold `tokens` tokens."""
        start = 0
        for stage in range(self.stages):
            stop = self.furthest(stage, start, tokens)
            if stop == start:
                break
            start = stop
        if start == self.layers:
            return True
        # Taking as much as possible is best when all layers are equal; else a stage may be left
        # with a large layer where it could have had a small one.
        return not self.equal and bool(self.starts(tokens)[0] & 1)


def _bits(first: int, last: int) -> int:
    """The bits `first` to `last`, both included."""
    return (1 << (last + 1)) - (1 << first) if last >= first else 0


def _best(cut: _Cut, above: int | None) -> tuple[int, ...] | None:
    """The best cut in this order of devices; None unless it holds more tokens than `above`."""
    if cut.stages > cut.layers or not cut.possible(0 if above is None else above + 1):
        return None
    low = 0 if above is None else above + 1
    even = even_partition(cut.layers, cut.stages)
    if (
        alike(cut.sharded, cut.free_bytes)
        and (tokens := kv_tokens(cut.sharded, even, cut.free_bytes)) is not None
        and tokens >= low
    ):
        return even
    high = max(low, cut.most_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if cut.possible(middle):
            low = middle
        else:
            high = middle - 1
    return _near(cut, low, tuple(accumulate(even)))


def other_partitions(sharded: ShardedMemory, free_bytes: Sequence[int]) -> list[tuple[int, ...]]:
    """The even cut and those with the most layers at the front or at the back, where they fit.

    None holds more tokens than `best_partition`, but they leave room elsewhere for other models.
    """
    cut = _Cut(sharded, free_bytes)
    if cut.stages > cut.layers or not cut.possible(0):
        return []
    wanted = (
        tuple(accumulate(even_partition(cut.layers, cut.stages))),
        (cut.layers,) * cut.stages,
        (0,) * cut.stages,
    )
    return [_near(cut, 0, ends) for ends in wanted]


def _near(cut: _Cut, tokens: int, wanted_ends: tuple[int, ...]) -> tuple[int, ...]:
    """Of the cuts that let every stage hold `tokens`, one whose ends are near these."""
    starts = cut.starts(tokens)
    partition, start = [], 0
    for stage, wanted in enumerate(wanted_ends):
        allowed = starts[stage + 1] & _bits(start + 1, cut.furthest(stage, start, tokens))
        ends = [stop for stop in range(start + 1, cut.layers + 1) if allowed >> stop & 1]
        stop = min(ends, key=lambda stop: (abs(stop - wanted), stop))
        partition.append(stop - start)
        start = stop
    return tuple(partition)


def stage_bytes(sharded: ShardedMemory, partition: Sequence[int]) -> tuple[int, ...]:
    """What a rank of each stage claims."""
    return tuple(sharded.rank(run).total_bytes for run in stage_layers(tuple(partition)))
