"""Layers cut into stages, and what each rank then claims."""

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.memory import Shape, ShardedMemory, even_partition


class Cut(Struct, frozen=True):
    """Layers of each stage (empty: not known) and bytes of each rank (None: its whole device)."""

    layers: tuple[int, ...]
    needs: tuple[int | None, ...]


class Cutter:
    """Cuts the layers of one model. Remembers what it cut."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._even: dict[Shape, Cut] = {}
        self._known: dict[tuple[Shape, tuple[int, ...]], tuple[Cut, ...]] = {}

    def even(self, shape: Shape) -> Cut:
        """What an even cut needs, whether or not there is room for it."""
        known = self._even.get(shape)
        if known is None:
            known = Cut(self._even_layers(shape), self._deployment.even_rank_bytes(shape))
            self._even[shape] = known
        return known

    def interchangeable(self, shape: Shape, stage: int) -> bool:
        """Whether devices of `stage` and of the one before it may be swapped in every cut."""
        if stage == 0:
            return False
        needs = self.even(shape).needs
        sharded = self._sharded(shape)
        return needs[stage] == needs[stage - 1] and (sharded is None or _equal_layers(sharded))

    def cuts(self, shape: Shape, free_bytes: tuple[int, ...]) -> tuple[Cut, ...]:
        """Cuts for stages whose scarcest devices have so much free; none when none fits.

        At most two: the even one, and the one that leaves most room for KV cache.
        """
        key = shape, free_bytes
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._cuts(shape, free_bytes)
        return known

    def _cuts(self, shape: Shape, free_bytes: tuple[int, ...]) -> tuple[Cut, ...]:
        from muai_core import best_partition

        even = self.even(shape)
        found = (even,) if _fits(even, free_bytes) else ()
        sharded = self._sharded(shape)
        if sharded is None or shape.pipeline_parallel_size == 1:
            return found
        layers = best_partition(sharded, free_bytes)
        if layers is None or layers == even.layers:
            return found
        return (*found, self.made(shape, layers))

    def made(self, shape: Shape, layers: tuple[int, ...]) -> Cut:
        """The cut into these layers; without any, the even one."""
        memory = self._deployment.memory
        if memory is None or not layers:
            return self.even(shape)
        if self._sharded(shape) is None:
            return Cut(layers, self.even(shape).needs)
        return Cut(layers, tuple(rank.total_bytes for rank in memory.ranks(shape, layers)))

    def _even_layers(self, shape: Shape) -> tuple[int, ...]:
        memory = self._deployment.memory
        if memory is None:
            return ()
        count = memory.at(shape.tensor_parallel_size).layer_count
        return even_partition(count, shape.pipeline_parallel_size)

    def _sharded(self, shape: Shape) -> ShardedMemory | None:
        """Layer by layer; None when one need holds for all ranks, or nothing is known."""
        deployment = self._deployment
        if deployment.memory is None or deployment.memory_bytes_per_device is not None:
            return None
        return deployment.memory.at(shape.tensor_parallel_size)


def _fits(cut: Cut, free_bytes: tuple[int, ...]) -> bool:
    return all(
        need is None or need <= free for need, free in zip(cut.needs, free_bytes, strict=True)
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
