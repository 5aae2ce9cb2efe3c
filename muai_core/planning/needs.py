"""What a request needs of its devices in each shape, in the form in which the search asks."""

from collections.abc import Sequence

from muai_core.model.deployment import Affinity, Deployment
from muai_core.model.memory import MemoryNeeds, Shape, ShardedMemory, even_partition
from muai_core.planning import partition

#: The devices' order as stages, the layers and what a rank of each stage claims.
Fit = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class ShapeNeed:
    """One shape of one deployment."""

    def __init__(self, deployment: Deployment, shape: Shape, place: int) -> None:
        self.shape = shape
        #: The shape in words.
        self.words = str(deployment.shared_shape or shape)
        #: 0 for the shape that the deployment prefers.
        self.place = place
        self.width = shape.tensor_parallel_size
        self.stages = shape.pipeline_parallel_size
        self.devices = shape.device_count
        self.sharded: ShardedMemory | None = None
        self.even: tuple[int, ...] = ()
        even_bytes = deployment.even_rank_bytes(shape)
        if deployment.memory is not None:
            self.sharded = deployment.memory.at(self.width)
            self.even = even_partition(self.sharded.layer_count, self.stages)
        #: Whether whole devices are claimed, because the need is unknown.
        self.whole = None in even_bytes
        self.even_bytes = tuple(need or 0 for need in even_bytes)
        #: What every device must have for the layers to be cut evenly over any of them.
        self.rank_bytes = max(self.even_bytes)
        #: Whether another cut of the layers can change what a rank needs.
        self.staged = (
            self.sharded is not None
            and deployment.memory_bytes_per_device is None
            and self.stages > 1
        )
        self.total_bytes = sum(self.even_bytes) * self.width
        #: What a device must have to be a rank at all.
        self.least_bytes = self._least_bytes() if self.staged else self.rank_bytes
        self._fits: dict[tuple[int, ...], Fit | None] = {}

    def _least_bytes(self) -> int:
        assert self.sharded is not None
        layers = zip(
            self.sharded.layer_weights_bytes, self.sharded.layer_kv_cache_bytes, strict=True
        )
        return (
            min(weights + kv_cache for weights, kv_cache in layers)
            + min(self.sharded.activation_bytes, self.sharded.last_stage_activation_bytes)
            + self.sharded.overhead_bytes
        )

    def fit(self, free_bytes: Sequence[int]) -> Fit | None:
        """How stages with so much on their scarcest device hold the model; None: they do not."""
        places = tuple(range(self.stages))
        if not self.staged:
            if min(free_bytes) < self.rank_bytes:
                return None
            return places, self.even, self.even_bytes
        assert self.sharded is not None
        even_fits = all(map(int.__ge__, free_bytes, self.even_bytes))
        if even_fits and partition.alike(self.sharded, free_bytes):
            return places, self.even, self.even_bytes
        key = tuple(free_bytes)
        if key not in self._fits:
            self._fits[key] = self._cut(key)
        return self._fits[key]

    def fits(self, free_bytes: Sequence[int]) -> list[Fit]:
        """`fit`, and other cuts of the layers that leave room for other models elsewhere."""
        best = self.fit(free_bytes)
        found = [] if best is None else [best]
        if self.staged and self.sharded is not None and sum(free_bytes) >= sum(self.even_bytes):
            places = tuple(range(self.stages))
            for layers in partition.other_partitions(self.sharded, free_bytes):
                fit = (places, layers, partition.stage_bytes(self.sharded, layers))
                if fit not in found:
                    found.append(fit)
        return found

    def _cut(self, free_bytes: tuple[int, ...]) -> Fit | None:
        assert self.sharded is not None
        # Whatever the cut, all stages together need the same.
        if sum(free_bytes) < sum(self.even_bytes):
            return None
        found = partition.best_order(self.sharded, free_bytes)
        if found is None:
            return None
        order, layers = found
        return order, layers, partition.stage_bytes(self.sharded, layers)


class Needs:
    """All shapes of one deployment that a node has devices for, by their cost."""

    def __init__(
        self, deployment: Deployment, key: "NeedKey", admission: int, devices_max: int | None
    ) -> None:
        self.key = key
        #: Equal for deployments that the filters let use the same devices.
        self.admission = admission
        fewest = min(shape.device_count for shape in deployment.shapes)
        # The smallest stays even where no node has so many devices: it says what is missing.
        most = None if devices_max is None else max(fewest, devices_max)
        shapes = [
            ShapeNeed(deployment, shape, place)
            for place, shape in enumerate(deployment.shapes)
            if most is None or shape.device_count <= most
        ]
        by_cost: dict[int, list[ShapeNeed]] = {}
        for need in shapes:
            by_cost.setdefault(need.shape.cost, []).append(need)
        #: The lowest cost first; in each group the preferred shape first.
        self.groups = [by_cost[cost] for cost in sorted(by_cost)]
        self.whole = shapes[0].whole
        self.fewest_devices = min(need.devices for need in shapes)
        #: What no way to serve the model does with less of, over all its devices.
        self.least_total_bytes = min(need.total_bytes for need in shapes)
        affinity = deployment.affinity
        self.pinned = bool(affinity.nodes or affinity.devices)
        smallest = min(shapes, key=lambda need: (need.devices, need.total_bytes))
        #: How hard it is to find devices for it: the larger, the harder. Independent of the fleet.
        self.hardness = (
            self.pinned,
            smallest.devices,
            self.whole,
            smallest.rank_bytes,
            self.least_total_bytes,
        )


#: Requests with equal keys have equal needs.
NeedKey = tuple[
    tuple[str, ...],
    Affinity,
    Shape | None,
    tuple[Shape, ...],
    int | None,
    int,
]


class NeedTable:
    """The needs of many requests, each made once. Deployments with equal needs share them."""

    def __init__(self, devices_max: int | None) -> None:
        """`devices_max`: devices of the largest node; None: shapes of any size."""
        self._devices_max = devices_max
        self._memories: dict[MemoryNeeds | None, int] = {None: 0}
        self._by_deployment: dict[int, tuple[Deployment, Needs]] = {}
        self._by_key: dict[NeedKey, Needs] = {}
        self._admissions: dict[tuple[tuple[str, ...], Affinity, Shape | None], int] = {}

    def of(self, deployment: Deployment) -> Needs:
        known = self._by_deployment.get(id(deployment))
        if known is not None:
            return known[1]
        number = self._memories.setdefault(deployment.memory, len(self._memories))
        key = (
            deployment.platforms,
            deployment.affinity,
            deployment.shared_shape,
            deployment.shapes,
            deployment.memory_bytes_per_device,
            number,
        )
        needs = self._by_key.get(key)
        if needs is None:
            admission = self._admissions.setdefault(key[:3], len(self._admissions))
            needs = self._by_key[key] = Needs(deployment, key, admission, self._devices_max)
        # The deployment is kept, so that its id stays its own.
        self._by_deployment[id(deployment)] = (deployment, needs)
        return needs
