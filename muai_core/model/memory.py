"""What a deployment needs of its devices' memory, for every shape that it may take."""

from msgspec import Struct


class Shape(Struct, frozen=True, order=True):
    """How many devices share each layer, and into how many stages the layers are cut."""

    tensor_parallel_size: int
    pipeline_parallel_size: int

    @property
    def device_count(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def cost(self) -> int:
        """What a shape costs when shapes are compared: its devices, and one for each seam.

        Every token crosses a seam between stages, and stages wait for each other; so four devices
        in one stage (4) are preferred to three stages of one device (5), and one stage of eight
        (8) to five stages of one (9).
        """
        return self.device_count + self.pipeline_parallel_size - 1

    def __str__(self) -> str:
        return f"TP {self.tensor_parallel_size} × PP {self.pipeline_parallel_size}"


class RankMemory(Struct, frozen=True, kw_only=True):
    """What one rank holds of its device, in bytes, by kind."""

    weights_bytes: int
    #: For the requested context and concurrency.
    kv_cache_bytes: int
    #: Peak of one forward pass.
    activation_bytes: int
    #: Runtime and libraries, CUDA graphs, communication buffers.
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes + self.kv_cache_bytes + self.activation_bytes + self.overhead_bytes
        )


class ShardedMemory(Struct, frozen=True, kw_only=True):
    """One rank at one tensor-parallel size, layer by layer: enough to sum up any stage.

    All ranks of a stage are alike; where an engine cuts unevenly, this is the largest.
    """

    tensor_parallel_size: int
    #: Stage counts that the model and the engine allow with it, ascending.
    pipeline_parallel_sizes: tuple[int, ...]
    #: Weights, one entry per layer.
    layer_weights_bytes: tuple[int, ...]
    #: Embeddings and what else stands before the layers.
    first_stage_weights_bytes: int
    #: Final norm and output head.
    last_stage_weights_bytes: int
    #: The part of both that is one tensor (tied embeddings): held once where one stage is both.
    tied_weights_bytes: int = 0
    #: Keys and values for the requested context and concurrency, one entry per layer.
    layer_kv_cache_bytes: tuple[int, ...]
    #: The same for one more token of a long sequence.
    layer_kv_bytes_per_token: tuple[int, ...]
    activation_bytes: int
    #: In the stage that computes the logits.
    last_stage_activation_bytes: int
    overhead_bytes: int
    #: The part of it that is keys and values of a size that no layer changes.
    fixed_kv_cache_bytes: int = 0
    #: More of it when there are several stages.
    pipeline_overhead_bytes: int = 0

    @property
    def layer_count(self) -> int:
        return len(self.layer_weights_bytes)

    @property
    def is_sound(self) -> bool:
        """Whether every list has all layers, every stage can have one, and nothing is negative."""
        lists = (
            self.layer_weights_bytes,
            self.layer_kv_cache_bytes,
            self.layer_kv_bytes_per_token,
        )
        single = (
            self.first_stage_weights_bytes,
            self.last_stage_weights_bytes,
            self.tied_weights_bytes,
            self.activation_bytes,
            self.last_stage_activation_bytes,
            self.overhead_bytes,
            self.pipeline_overhead_bytes,
            self.fixed_kv_cache_bytes,
        )
        stages = self.pipeline_parallel_sizes
        return (
            self.tensor_parallel_size >= 1
            and bool(stages)
            and all(1 <= count <= self.layer_count for count in stages)
            and all(len(one) == self.layer_count and min(one) >= 0 for one in lists)
            and min(single) >= 0
            and self.fixed_kv_cache_bytes <= self.overhead_bytes
            and self.tied_weights_bytes
            <= min(self.first_stage_weights_bytes, self.last_stage_weights_bytes)
        )

    def rank(self, layers: range) -> RankMemory:
        """A rank of the stage that has these consecutive layers."""
        is_first, is_last = layers.start == 0, layers.stop == self.layer_count
        weights = sum(self.layer_weights_bytes[layers.start : layers.stop])
        weights += self.first_stage_weights_bytes if is_first else 0
        weights += self.last_stage_weights_bytes if is_last else 0
        weights -= self.tied_weights_bytes if is_first and is_last else 0
        several = not (is_first and is_last)
        return RankMemory(
            weights_bytes=weights,
            kv_cache_bytes=(
                sum(self.layer_kv_cache_bytes[layers.start : layers.stop])
                + self.fixed_kv_cache_bytes
            ),
            activation_bytes=(
                self.last_stage_activation_bytes if is_last else self.activation_bytes
            ),
            overhead_bytes=(
                self.overhead_bytes
                - self.fixed_kv_cache_bytes
                + several * self.pipeline_overhead_bytes
            ),
        )

    def kv_bytes_per_token(self, layers: range) -> int:
        """What one more token of a long sequence costs a rank of the stage with these layers."""
        return sum(self.layer_kv_bytes_per_token[layers.start : layers.stop])


class MemoryNeeds(Struct, frozen=True, kw_only=True):
    """What the estimate says for every tensor-parallel size that is allowed, ascending."""

    sharded: tuple[ShardedMemory, ...]
    #: What the KV cache is planned for.
    context_tokens: int
    concurrency: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Every allowed shape: the lowest cost first, among equals the fewest stages."""
        found = [
            Shape(one.tensor_parallel_size, stages)
            for one in self.sharded
            for stages in one.pipeline_parallel_sizes
        ]
        return tuple(sorted(found, key=lambda shape: (shape.cost, shape.pipeline_parallel_size)))

    @property
    def is_sound(self) -> bool:
        """Whether all sizes describe one model, and none is negative."""
        return bool(self.sharded) and all(
            one.is_sound and one.layer_count == self.sharded[0].layer_count for one in self.sharded
        )

    @property
    def least_rank_bytes(self) -> int:
        """A lower bound for every rank of every shape: one layer, and what all ranks hold."""
        return min(
            min(
                weights + kv_cache
                for weights, kv_cache in zip(
                    one.layer_weights_bytes, one.layer_kv_cache_bytes, strict=True
                )
            )
            + min(one.activation_bytes, one.last_stage_activation_bytes)
            + one.overhead_bytes
            for one in self.sharded
        )

    def at(self, tensor_parallel_size: int) -> ShardedMemory:
        """Raises KeyError when that size is not allowed."""
        for one in self.sharded:
            if one.tensor_parallel_size == tensor_parallel_size:
                return one
        raise KeyError(tensor_parallel_size)

    def ranks(self, shape: Shape, partition: tuple[int, ...]) -> tuple[RankMemory, ...]:
        """One rank of each stage; `partition` gives the number of layers per stage."""
        sharded = self.at(shape.tensor_parallel_size)
        return tuple(sharded.rank(layers) for layers in stage_layers(partition))


def stage_layers(partition: tuple[int, ...]) -> tuple[range, ...]:
    """The layers of each stage: (2, 3) gives range(0, 2), range(2, 5)."""
    found, start = [], 0
    for count in partition:
        found.append(range(start, start + count))
        start += count
    return tuple(found)


def even_partition(layer_count: int, stages: int) -> tuple[int, ...]:
    """Layers per stage, as even as possible; what is left over goes where vLLM puts it.

    That is to the stages before the last, from the back (vllm/distributed/utils.py, get_pp_indices:
    the last stage has the output head, the first the embeddings).
    """
    base, left = divmod(layer_count, stages)
    partition = [base] * stages
    for place in range(2, left + 2):
        partition[-place] += 1
    return tuple(partition)
