"""What is known of a replica's memory, and what follows: metrics, views, starts to keep."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from muai_core.model.deployment import Deployment
from muai_core.model.device import Device
from muai_core.model.memory import RankMemory, even_partition
from muai_core.model.metrics import MetricPoint
from muai_core.model.placement import Placement
from muai_core.planning.measured import MeasuredRank, MeasuredStart, StartKind, ToldTerms
from muai_core.runtime.measured_starts import MemoryBasis
from muai_core.telemetry.memory import MemoryRow


class PlannedRank(Struct, frozen=True, kw_only=True):
    """One rank as it was placed."""

    device: Device
    stage: int
    claimed_bytes: int
    #: None: only the sum is known.
    predicted: RankMemory | None


class ReplicaMemory(Struct, frozen=True, kw_only=True):
    """What is known of one incarnation's memory."""

    deployment: str
    epoch: int
    placement: Placement
    ranks: tuple[PlannedRank, ...]
    basis: MemoryBasis | None
    #: By device UUID; a device whose source does not show it is missing. None: not measured yet.
    held_bytes: dict[str, int] | None = None
    #: The same for all ranks: logs do not say whose the numbers are.
    told: ToldTerms = ToldTerms()


def planned_ranks(
    deployment: Deployment, placement: Placement, devices: Sequence[Device]
) -> tuple[PlannedRank, ...]:
    """The ranks of a placement, with what was predicted for each."""
    predicted: Sequence[RankMemory | None] = [None] * len(placement.stages)
    needs = deployment.memory
    if needs is not None and deployment.memory_bytes_per_device is None:
        shape = placement.shape
        count = needs.at(shape.tensor_parallel_size).layer_count
        partition = placement.layers or even_partition(count, shape.pipeline_parallel_size)
        predicted = needs.ranks(shape, partition)
    ranks = [
        (uuid, number, rank)
        for number, (stage, rank) in enumerate(zip(placement.stages, predicted, strict=True))
        for uuid in stage
    ]
    by_uuid = {device.uuid: device for device in devices}
    return tuple(
        PlannedRank(device=by_uuid[uuid], stage=stage, claimed_bytes=claim, predicted=rank)
        for (uuid, stage, rank), claim in zip(ranks, placement.claims, strict=True)
        if uuid in by_uuid
    )


def starts_to_keep(memory: ReplicaMemory, now_s: float) -> list[MeasuredStart]:
    """One for each kind of device: the rank of each stage that held most. `now_s` is Unix time."""
    basis, held = memory.basis, memory.held_bytes
    if basis is None or held is None or (not held and memory.told == ToldTerms()):
        return []
    largest: dict[tuple[str, int], MeasuredRank] = {}
    for rank in memory.ranks:
        place = rank.device.name, rank.stage
        measured = MeasuredRank(
            claimed_bytes=rank.claimed_bytes,
            predicted=rank.predicted,
            held_bytes=_held_bytes(memory, rank),
            device_bytes=rank.device.memory_total_bytes,
        )
        if place not in largest or (measured.held_bytes or 0) > (largest[place].held_bytes or 0):
            largest[place] = measured
    shape = memory.placement.shape
    return [
        MeasuredStart(
            kind=StartKind(
                engine=basis.engine,
                platform=basis.platform,
                device=device,
                model=basis.model,
                tensor_parallel=shape.tensor_parallel_size > 1,
                pipeline_parallel=shape.pipeline_parallel_size > 1,
            ),
            measured_at_s=now_s,
            overhead=basis.overhead,
            ranks=tuple(rank for (name, _), rank in largest.items() if name == device),
            told=memory.told,
        )
        for device in dict.fromkeys(rank.device.name for rank in memory.ranks)
    ]


def metric_rows(replica_id: str, memory: ReplicaMemory) -> tuple[MemoryRow, ...]:
    """For each device and kind what was predicted, and what was measured."""
    found: dict[tuple[str, bool, str], int] = {}
    for rank in memory.ranks:
        for is_measured, kinds in (
            (False, _predicted(memory, rank)),
            (True, _measured(memory, rank)),
        ):
            for kind, amount_bytes in kinds.items():
                key = rank.device.uuid, is_measured, kind
                found[key] = found.get(key, 0) + amount_bytes
    for uuid, held_bytes in (memory.held_bytes or {}).items():
        found[uuid, True, "total"] = held_bytes
    return tuple(
        MemoryRow(
            is_measured,
            MetricPoint((memory.deployment, replica_id, uuid, kind), float(amount_bytes)),
        )
        for (uuid, is_measured, kind), amount_bytes in found.items()
    )


def memory_view(memory: ReplicaMemory) -> list[dict[str, Any]]:
    """The same for `muai status`, one entry per rank."""
    return [
        {
            "uuid": rank.device.uuid,
            "predicted_bytes": _predicted(memory, rank),
            "measured_bytes": _measured(memory, rank),
        }
        for rank in memory.ranks
    ]


def _predicted(memory: ReplicaMemory, rank: PlannedRank) -> dict[str, int]:
    kinds = {"total": rank.claimed_bytes}
    predicted = rank.predicted
    if predicted is not None:
        kinds |= {
            "weights": predicted.weights_bytes,
            "kv_cache": predicted.kv_cache_bytes,
            "activation": predicted.activation_bytes,
        }
        overhead = None if memory.basis is None else memory.basis.overhead
        if overhead is not None:
            graphs = min(overhead.graph_bytes, predicted.overhead_bytes)
            kinds |= {"graphs": graphs, "runtime": predicted.overhead_bytes - graphs}
    return kinds


def _measured(memory: ReplicaMemory, rank: PlannedRank) -> dict[str, int]:
    told = memory.told
    kinds = {
        "total": _held_bytes(memory, rank),
        "weights": told.weights_bytes,
        "kv_cache": told.kv_cache_bytes,
        "activation": told.activation_bytes,
        "graphs": told.graphs_bytes,
        "runtime": told.runtime_bytes,
    }
    return {kind: amount for kind, amount in kinds.items() if amount is not None}


def _held_bytes(memory: ReplicaMemory, rank: PlannedRank) -> int | None:
    """What the rank holds of its device; None: not known, or only what several ranks hold."""
    uuid = rank.device.uuid
    if memory.placement.devices.count(uuid) > 1:
        return None
    return (memory.held_bytes or {}).get(uuid)
