"""Bytes by kind: what ranks hold, and what is claimed of a device by whom for what."""

from collections.abc import Iterator, Sequence

from muai_core.model.deployment import Deployment
from muai_core.model.fleet import DeviceView
from muai_core.model.memory import RankMemory, Shape, even_partition, stage_layers
from muai_core.model.placement import Placement
from muai_core.runtime.device_views import View

#: The kinds in the order of bars and tables: key of the views → word for people.
KINDS = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "activation_bytes": "activation",
    "overhead_bytes": "overhead",
}
#: Claims of which only the sum is known.
UNDIVIDED = "undivided_bytes"


def kinds_of(rank: RankMemory) -> dict[str, int]:
    return {kind: getattr(rank, kind) for kind in KINDS}


def ranks_view(deployment: Deployment, placement: Placement | None) -> list[View]:
    """What each rank holds, in rank order; empty when the engine tells no more than a sum.

    Without a placement: of the preferred shape, its layers cut evenly; then `device` is None.
    """
    if deployment.memory is None or deployment.memory_bytes_per_device is not None:
        return []
    shape = deployment.shapes[0] if placement is None else placement.shape
    sharded = deployment.memory.at(shape.tensor_parallel_size)
    layers = () if placement is None else placement.layers
    layers = layers or even_partition(sharded.layer_count, shape.pipeline_parallel_size)
    stages = deployment.memory.ranks(shape, layers)
    per_token = [sharded.kv_bytes_per_token(part) for part in stage_layers(layers)]
    width = shape.tensor_parallel_size
    return [
        {
            "rank": stage * width + place,
            "stage": stage,
            "device": None if placement is None else placement.stages[stage][place],
            "layers": layers[stage],
            **kinds_of(rank),
            "kv_bytes_per_token": per_token[stage],
            "total_bytes": rank.total_bytes,
        }
        for stage, rank in enumerate(stages)
        for place in range(width)
    ]


def claims_by_kind(deployment: Deployment, placement: Placement) -> Iterator[tuple[str, View]]:
    """For each rank its device, and what is claimed for what; the kinds sum up to the claim."""
    stages: Sequence[RankMemory | None] = deployment.ranks(placement) or [None] * len(
        placement.stages
    )
    claims = iter(placement.claims)
    for stage, rank in zip(placement.stages, stages, strict=True):
        for uuid in stage:
            claim = next(claims)
            told = dict.fromkeys(KINDS, 0) if rank is None else kinds_of(rank)
            yield uuid, {**told, UNDIVIDED: claim - sum(told.values())}


def tokens_that_fit(
    deployment: Deployment, placement: Placement, devices: dict[str, DeviceView]
) -> int | None:
    """Tokens of KV cache for which there would be room if the replica had all that is left.

    The tightest device decides. None: unknown, or there is no end (no rank keeps keys and values).
    """
    ranks: dict[str, list[View]] = {}
    for rank in ranks_view(deployment, placement):
        if rank["kv_bytes_per_token"] > 0 and rank["device"] in devices:
            ranks.setdefault(rank["device"], []).append(rank)
    found = (
        (devices[uuid].free_bytes + sum(one["kv_cache_bytes"] for one in here))
        // sum(one["kv_bytes_per_token"] for one in here)
        for uuid, here in ranks.items()
    )
    return min(found, default=None)


def shape_view(shape: Shape) -> View:
    return {
        "tensor_parallel_size": shape.tensor_parallel_size,
        "pipeline_parallel_size": shape.pipeline_parallel_size,
    }
