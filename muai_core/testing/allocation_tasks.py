"""Fleets, and replicas that need devices of them: what strategies are tried on."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.fleet import DeviceView, Fleet, PlacementProblem, PlacementRequest
from muai_core.model.health import Health
from muai_core.model.memory import MemoryNeeds, ShardedMemory
from muai_core.planning.place import Books

GIB = 1024**3
_TOTAL_GIB = 80
_LARGE_FLEET = 1000
_LAYERS = 12


class Task(Struct, frozen=True):
    """Replicas that need devices of a fleet."""

    words: str
    requests: tuple[PlacementRequest, ...]
    fleet: Fleet
    #: Whether each of the replicas, were it alone, has room, and any choice of devices will do.
    solvable: bool = False

    def alone(self) -> list[tuple[PlacementRequest, Fleet]]:
        """Each request as a strategy gets it: with the devices that the filters let through."""
        books = Books(self.fleet)
        ones = [books.folded(request) for request in self.requests]
        return [(one, books.admission.eligible(one, self.fleet)) for one in ones]

    def together(self) -> PlacementProblem:
        """All requests as a strategy gets them that plans replicas together."""
        books = Books(self.fleet)
        return PlacementProblem(
            requests=tuple(books.folded(request) for request in self.requests),
            fleet=self.fleet,
            admits=books.admission.admits,
        )


def tasks(options: Mapping[str, Any]) -> tuple[Task, ...]:
    """The first can be solved; of the others some cannot, in part or at all."""
    return tuple(
        Task(
            words,
            tuple(
                PlacementRequest(replica_id=f"{one.name}.0", deployment=one, options=dict(options))
                for one in deployments
            ),
            fleet,
            solvable,
        )
        for words, fleet, deployments, solvable in (*_SOLVABLE, *_OTHERS)
    )


def large_task(options: Mapping[str, Any]) -> Task:
    """Two GPUs each for 16 replicas, on a fleet of 1,000."""
    requests = tuple(
        PlacementRequest(replica_id=f"{one.name}.0", deployment=one, options=dict(options))
        for one in _wishes([(2, 1, 40)] * 16)
    )
    nodes = [f"n{number:03d}" for number in range(_LARGE_FLEET // 8)]
    return Task(f"{_LARGE_FLEET} GPUs", requests, _fleet(nodes))


def _view(node: str, index: int, claimed_gib: int, total_gib: int = _TOTAL_GIB) -> DeviceView:
    device = Device(
        uuid=f"GPU-{node}-{index}",
        node=node,
        index=index,
        kind="gpu",
        platform="cuda",
        name=f"Kit GPU {total_gib} GB",
        memory_total_bytes=total_gib * GIB,
        island=f"{node}-{index // 4}",
    )
    return DeviceView(
        device=device,
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=total_gib * GIB,
        claimed_bytes=claimed_gib * GIB,
        claimants=("other.0",) if claimed_gib else (),
    )


def _fleet(nodes: Sequence[str], claimed_gib: Sequence[int] = (0,) * 8) -> Fleet:
    """Every node has such GPUs."""
    views = [
        _view(node, index, claimed) for node in nodes for index, claimed in enumerate(claimed_gib)
    ]
    return Fleet(tuple(views), platforms=("cuda",))


def _mixed_cards() -> Fleet:
    cards = [_view("a", index, 0, total) for index, total in enumerate((80, 24, 48, 24, 80, 48))]
    return Fleet(tuple(cards), platforms=("cuda",))


def _unlike_nodes() -> Fleet:
    """The emptiest GPUs are not on one node."""
    unlike = (
        ("a", (60, 10, 70, 30)),
        ("b", (0, 80, 50, 20)),
        ("c", (40, 40, 5, 75)),
    )
    views = [
        _view(node, index, claimed) for node, all in unlike for index, claimed in enumerate(all)
    ]
    return Fleet(tuple(views), platforms=("cuda",))


def _ailing() -> Fleet:
    views = list(_fleet(["a"], (0,) * 4).devices)
    views[0] = structs.replace(views[0], health=Health.FAILED, health_reason="fell off the bus")
    views[2] = structs.replace(views[2], health=Health.DEGRADED, health_reason="98 °C")
    return Fleet(tuple(views), platforms=("cuda",))


def _cpu() -> Fleet:
    device = Device(
        uuid="CPU-a",
        node="a",
        index=0,
        kind="cpu",
        platform="cpu",
        name="Kit CPU",
        memory_total_bytes=64 * GIB,
        core_count=8,
    )
    view = DeviceView(
        device=device,
        health=Health.HEALTHY,
        health_reason=None,
        allocatable_bytes=60 * GIB,
        claimed_bytes=0,
    )
    return Fleet((view,), platforms=("cpu",))


def _wishes(sizes: Sequence[tuple[int, int, int | None]]) -> tuple[Deployment, ...]:
    """Models by tensor- and pipeline-parallel size, and GiB per rank; None: nothing tells."""
    return tuple(
        Deployment(
            name=f"model-{number}",
            source="model",
            engine="any",
            platforms=("cuda", "cpu"),
            tensor_parallel_size=tensor,
            pipeline_parallel_size=pipeline,
            memory_bytes_per_device=None if need_gib is None else need_gib * GIB,
        )
        for number, (tensor, pipeline, need_gib) in enumerate(sizes)
    )


def _estimated(layer_gib: int) -> Deployment:
    """A model of 12 layers that may be cut in six ways."""
    needs = MemoryNeeds(
        sharded=tuple(
            ShardedMemory(
                tensor_parallel_size=size,
                pipeline_parallel_sizes=(1, 2),
                layer_weights_bytes=(layer_gib * GIB // size,) * _LAYERS,
                first_stage_weights_bytes=GIB // size,
                last_stage_weights_bytes=GIB // size,
                layer_kv_cache_bytes=(GIB // 8 // size,) * _LAYERS,
                layer_kv_bytes_per_token=(4096 // size,) * _LAYERS,
                activation_bytes=GIB // 2,
                last_stage_activation_bytes=GIB,
                overhead_bytes=GIB,
            )
            for size in (1, 2, 4)
        ),
        context_tokens=8192,
        concurrency=1,
    )
    return Deployment(
        name=f"estimated-{layer_gib}",
        source="model",
        engine="any",
        platforms=("cuda", "cpu"),
        memory=needs,
    )


_Row = tuple[str, Fleet, tuple[Deployment, ...], bool]

_SOLVABLE: tuple[_Row, ...] = (
    (
        "an empty node",
        _fleet(["a"]),
        _wishes([(1, 1, 40), (2, 1, 40), (2, 2, 20), (8, 1, 10)]),
        True,
    ),
    ("a node with one GPU left", _fleet(["a"], (80, 80, 30, 80)), _wishes([(1, 1, 50)]), True),
    ("a CPU", _cpu(), _wishes([(1, 1, 30), (2, 1, 20), (2, 2, 10)]), True),
    (
        "an empty node, by estimates",
        _fleet(["a"]),
        (_estimated(1), _estimated(8), _estimated(16)),
        True,
    ),
    ("an empty node, needs unknown", _fleet(["a"]), _wishes([(1, 1, None), (4, 1, None)]), True),
)
_OTHERS: tuple[_Row, ...] = (
    (
        "an uneven node",
        _fleet(["a"], (70, 0, 30, 60, 10, 50, 20, 40)),
        _wishes([(1, 1, 10)]),
        False,
    ),
    (
        "two nodes",
        _fleet(["a", "b"]),
        _wishes([(4, 1, 70), (4, 1, 70), (8, 1, 70), (1, 1, 70)]),
        False,
    ),
    ("unlike nodes", _unlike_nodes(), _wishes([(2, 1, 10), (2, 2, 10), (1, 1, 80)]), False),
    ("mixed cards", _mixed_cards(), _wishes([(1, 1, 70), (2, 1, 40), (4, 1, 20)]), False),
    ("ailing GPUs", _ailing(), _wishes([(1, 1, 10), (2, 1, None), (4, 1, 10)]), False),
    ("one GPU", _fleet(["a"], (0,)), _wishes([(2, 1, 10), (1, 1, 40), (1, 2, 10)]), False),
    ("a node without room", _fleet(["a"], (80,) * 8), _wishes([(1, 1, 10)]), False),
    ("an empty fleet", Fleet(()), _wishes([(1, 1, 10), (4, 2, 10)]), False),
)
