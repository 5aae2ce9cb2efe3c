"""The KV cache of a running batch: one row per sequence, each row with a length of its own.

transformers' caches assume that all rows of a batch are equally long. Here token i of a row always
lies at index i, so rows join, leave and grow independently; the attention mask hides the rest. The
model reads views of the cache, so a decoding step copies nothing but the new token.
"""

from collections.abc import Sequence

import torch
from msgspec import Struct
from transformers.cache_utils import Cache, CacheLayerMixin

ROUND_TOKENS = 128
SLACK_TOKENS = 64


class Shape(Struct, frozen=True):
    """How many rows of how many tokens a cache has room for."""

    rows: int
    tokens: int


def shape_for(rows: int, tokens: int, limit: Shape, budget_tokens: int) -> Shape | None:
    """The shape to allocate for `rows` rows of at most `tokens` tokens; None: over the budget.

    Generous (next powers of two, so that growing is rare) while the budget allows, else tight.
    """
    generous = Shape(
        min(limit.rows, 1 << (rows - 1).bit_length()),
        min(limit.tokens, max(2 * ROUND_TOKENS, 1 << (tokens + SLACK_TOKENS - 1).bit_length())),
    )
    rounded = -(-tokens // ROUND_TOKENS) * ROUND_TOKENS
    tight = Shape(rows, min(limit.tokens, rounded))
    for shape in (generous, tight, Shape(rows, tokens)):
        if shape.rows * shape.tokens <= budget_tokens:
            return shape
    return None


class Batch:
    """Which cells one forward pass writes and reads.

    Row r of the pass holds `counts[r]` new tokens, right-aligned in `width` columns (so that the
    last column is the last token of every row); the first of them is token `starts[r]` of cache
    row `rows[r]`. Columns left of the new tokens are padding: they read the cache, write nothing.
    """

    def __init__(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        device: torch.device,
    ) -> None:
        self.width = max(counts)
        self.kv_tokens = max(s + n for s, n in zip(starts, counts, strict=True))
        contiguous = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        self.read_rows = (
            slice(rows[0], rows[0] + len(rows)) if contiguous else torch.tensor(rows, device=device)
        )
        first = torch.tensor(starts, device=device)
        pad = self.width - torch.tensor(counts, device=device)
        column = torch.arange(self.width, device=device)
        self.positions = (first - pad)[:, None] + column
        """(rows, width): the position of every column in its sequence; padding has any."""
        self.positions.clamp_(min=0)
        self.from_row, self.from_column = torch.nonzero(column >= pad[:, None], as_tuple=True)
        self.to_row = torch.tensor(rows, device=device)[self.from_row]
        self.to_position = self.positions[self.from_row, self.from_column]

    def mask(self, dtype: torch.dtype, window: int | None = None) -> torch.Tensor:
        """The additive attention mask, (rows, 1, width, kv_tokens): 0 to see, the minimum not to.

        With a `window`, a token sees itself and the `window - 1` tokens before it.
        """
        at = self.positions[:, None, :, None]
        key = torch.arange(self.kv_tokens, device=at.device)
        hidden = key > at
        if window is not None:
            hidden |= key <= at - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=at.device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, (rows, heads, tokens, head size), allocated at first use."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, owner: "SlotCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        shape = self._owner.shape
        self.keys = _empty_cells(key_states, shape)
        self.values = _empty_cells(value_states, shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores the new tokens of the current batch; returns all its rows, longest length."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch = self._owner.batch
        if batch.width == 1:
            new_keys, new_values = key_states[:, :, 0], value_states[:, :, 0]
        else:
            new_keys = key_states[batch.from_row, :, batch.from_column]
            new_values = value_states[batch.from_row, :, batch.from_column]
        self.keys[batch.to_row, :, batch.to_position] = new_keys
        self.values[batch.to_row, :, batch.to_position] = new_values
        keys = self.keys[batch.read_rows, :, : batch.kv_tokens]
        return keys, self.values[batch.read_rows, :, : batch.kv_tokens]

    def resize(self, shape: Shape, used: Shape) -> None:
        """Moves to a new shape, keeping the first `used` rows and tokens."""
        if not self.is_initialized:
            return
        kept = (slice(used.rows), slice(None), slice(used.tokens))
        keys, values = _empty_cells(self.keys, shape), _empty_cells(self.values, shape)
        keys[kept] = self.keys[kept]
        values[kept] = self.values[kept]
        self.keys, self.values = keys, values

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first `tokens` tokens over another row."""
        self.keys[target, :, :tokens] = self.keys[source, :, :tokens]
        self.values[target, :, :tokens] = self.values[source, :, :tokens]

    def bytes_per_token(self) -> int:
        """What one token of one sequence takes in this layer."""
        cells = (self.keys, self.values)
        return sum(c.shape[1] * c.shape[3] * c.element_size() for c in cells)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.batch.kv_tokens, 0

    def get_seq_length(self) -> int:
        return self._owner.batch.kv_tokens - self._owner.batch.width

    def get_max_length(self) -> int:
        return self._owner.shape.tokens


class SlotCache(Cache):
    """All layers. Set `batch` before every forward pass."""

    batch: Batch

    def __init__(self, num_layers: int, shape: Shape) -> None:
        self.shape = shape
        self._slot_layers = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=[*self._slot_layers])

    def resize(self, shape: Shape, used: Shape) -> None:
        """Moves to a new shape, keeping the first `used` rows and tokens."""
        self.shape = shape
        for layer in self._slot_layers:
            layer.resize(shape, used)

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Copies a row's first `tokens` tokens over another row."""
        for layer in self._slot_layers:
            layer.move_row(source, target, tokens)

    def bytes_per_token(self) -> int:
        """What one token of one sequence takes, all layers. Known after the first pass."""
        return sum(layer.bytes_per_token() for layer in self._slot_layers)


def _empty_cells(like: torch.Tensor, shape: Shape) -> torch.Tensor:
    # Zeros, not garbage: hidden cells are multiplied by a weight of 0, and 0 times NaN is NaN.
    return like.new_zeros(shape.rows, like.shape[1], shape.tokens, like.shape[3])
