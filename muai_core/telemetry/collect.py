"""Pure functions that read facts off the state and turn them into metric families.

Families without series are left out; a fact that is unknown makes no series, never a zero.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import Replica, State
from muai_core.model.deployment import Deployment
from muai_core.model.device import Device, DeviceReading
from muai_core.model.health import worst
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry import catalogue
from muai_core.telemetry.catalogue import Metric


class Progress(Protocol):
    """What an engine says of itself on its progress path."""

    @property
    def requests_running(self) -> int: ...
    @property
    def requests_waiting(self) -> int: ...
    @property
    def tokens_generated(self) -> int: ...


def controller_families(
    version: str, uptime_s: float, journal_bytes: int | None
) -> tuple[MetricFamily, ...]:
    """The controller itself. `journal_bytes` None: there is no journal."""
    return _families(
        (catalogue.BUILD_INFO, [MetricPoint((version,), 1.0)]),
        (catalogue.UPTIME, [MetricPoint((), uptime_s)]),
        (catalogue.JOURNAL_BYTES, _known([((), journal_bytes)])),
    )


def sink_families(dropped: Mapping[str, int]) -> tuple[MetricFamily, ...]:
    """Batches lost so far, by sink."""
    return _families((catalogue.SINK_BATCHES_DROPPED, _known(_by_name(dropped))))


def state_families(
    state: State,
    in_flight: Mapping[tuple[str, int], int],
    progress: Mapping[str, Progress],
) -> tuple[MetricFamily, ...]:
    """Everything that the control plane's state tells: events, models, replicas, devices.

    `in_flight` gives the gateway's requests by (replica id, epoch), `progress` the engines' own
    counts by replica id; replicas may be missing in both.
    """
    held: Counter[str] = Counter()
    for (replica_id, _epoch), count in in_flight.items():
        held[replica_id] += count
    replicas = state.replicas.values()
    return (
        *_event_families(state),
        *model_families(state.deployments.values(), replicas),
        *replica_families(replicas, held, progress),
        *device_families(*_devices_of(state)),
    )


def model_families(
    deployments: Iterable[Deployment], replicas: Iterable[Replica]
) -> tuple[MetricFamily, ...]:
    """Desired and actual replicas by model, with a zero for each state that no replica is in.

    A model that is no longer desired stays as long as it has replicas, with 0 desired.
    """
    desired = {deployment.name: deployment.replicas for deployment in deployments}
    counts = Counter((replica.deployment, replica.state) for replica in replicas)
    for model, _state in counts:
        desired.setdefault(model, 0)
    states = [state for state in ReplicaState if state is not ReplicaState.GONE]
    return _families(
        (catalogue.REPLICAS_DESIRED, _known(_by_name(desired))),
        (
            catalogue.REPLICAS,
            [
                MetricPoint((model, state.value), float(counts[model, state]))
                for model in desired
                for state in states
            ],
        ),
    )


def replica_families(
    replicas: Iterable[Replica],
    in_flight: Mapping[str, int],
    progress: Mapping[str, Progress],
) -> tuple[MetricFamily, ...]:
    """One series per replica. Both mappings go by replica id and may lack some."""
    rows = [((replica.deployment, replica.id), replica) for replica in replicas]
    told = [(labels, progress[replica.id]) for labels, replica in rows if replica.id in progress]
    return _families(
        (
            catalogue.REPLICA_READY,
            _known((labels, replica.state is ReplicaState.READY) for labels, replica in rows),
        ),
        (catalogue.REPLICA_RESTARTS, _known((labels, one.restarts) for labels, one in rows)),
        (
            catalogue.REPLICA_REQUESTS_IN_FLIGHT,
            _known((labels, in_flight.get(one.id)) for labels, one in rows),
        ),
        (
            catalogue.REPLICA_REQUESTS_RUNNING,
            _known((labels, one.requests_running) for labels, one in told),
        ),
        (
            catalogue.REPLICA_REQUESTS_WAITING,
            _known((labels, one.requests_waiting) for labels, one in told),
        ),
        (
            catalogue.REPLICA_TOKENS_GENERATED,
            _known((labels, one.tokens_generated) for labels, one in told),
        ),
    )


def device_families(
    devices: Sequence[Device],
    readings: Mapping[str, DeviceReading],
    claimed_bytes: Mapping[str, int],
) -> tuple[MetricFamily, ...]:
    """The device gauges, for GPUs only; both mappings go by UUID.

    A GPU without a reading has its info and claim, but no gauge of what was not read. Health is 1
    for healthy and degraded, the states in which a device may get new work, and 0 for suspect,
    failed and unknown. A lost GPU is one whose reading says failed and nothing else.
    """
    gpus = [device for device in devices if device.kind == "gpu"]
    ids = gpu_ids(gpus)
    info = [MetricPoint((ids[gpu.uuid], gpu.uuid, gpu.node, gpu.name), 1.0) for gpu in gpus]
    read = [((ids[gpu.uuid],), gpu, readings[gpu.uuid]) for gpu in gpus if gpu.uuid in readings]
    return _families(
        (catalogue.GPU_INFO, info),
        (catalogue.GPU_MEMORY_USED, _known((ids_, r.memory_used_bytes) for ids_, _, r in read)),
        (
            catalogue.GPU_MEMORY_AVAILABLE,
            _known((labels, _available_bytes(gpu, reading)) for labels, gpu, reading in read),
        ),
        (catalogue.GPU_UTILIZATION, _known((ids_, r.utilization_percent) for ids_, _, r in read)),
        (catalogue.GPU_TEMPERATURE, _known((ids_, r.temperature_celsius) for ids_, _, r in read)),
        (catalogue.GPU_HEALTH, _known((ids_, worst(r.findings) is None) for ids_, _, r in read)),
        (
            catalogue.DEVICE_CLAIMED,
            _known(((ids[gpu.uuid],), claimed_bytes.get(gpu.uuid, 0)) for gpu in gpus),
        ),
    )


def gpu_ids(gpus: Sequence[Device]) -> dict[str, str]:
    """The label `gpu_id` by UUID: the display index, as in `gpu_id="0"`.

    Where nodes share an index, every GPU of the fleet is `node/index` instead, and its UUID if even
    that is taken: two devices must never share a series, or Prometheus refuses the whole scrape.
    """
    choices = (
        {gpu.uuid: str(gpu.index) for gpu in gpus},
        {gpu.uuid: f"{gpu.node}/{gpu.index}" for gpu in gpus},
    )
    for ids in choices:
        if len(set(ids.values())) == len(ids):
            return ids
    return {gpu.uuid: gpu.uuid for gpu in gpus}


def _available_bytes(device: Device, reading: DeviceReading) -> int | None:
    if reading.memory_used_bytes is None:
        return None
    return max(0, device.memory_total_bytes - reading.memory_used_bytes)


def _event_families(state: State) -> tuple[MetricFamily, ...]:
    counts: Counter[tuple[str, ...]] = Counter()
    for event, count in state.applied.items():
        counts[event, "applied"] += count
    for outcome, by_reason in (("stale", state.stale), ("rejected", state.rejected)):
        for reason, count in by_reason.items():
            # "ReplicaExited: an earlier epoch"; reasons name replicas and devices, so they are
            # no labels.
            counts[reason.partition(":")[0], outcome] += count
    return _families(
        (catalogue.EVENTS, _known(counts.items())),
        (catalogue.POLICY_FAILURES, _known(_by_name(state.policy_failures))),
    )


def _devices_of(
    state: State,
) -> tuple[list[Device], dict[str, DeviceReading], dict[str, int]]:
    records = sorted(
        state.devices.values(), key=lambda record: (record.device.node, record.device.index)
    )
    readings = {
        record.device.uuid: record.reading
        if record.present
        else DeviceReading(uuid=record.device.uuid)
        for record in records
    }
    claimed = {uuid: state.ledger.claimed_bytes(uuid) for uuid in readings}
    return [record.device for record in records], readings, claimed


def _by_name(values: Mapping[str, int]) -> list[tuple[tuple[str, ...], int]]:
    return [((name,), value) for name, value in values.items()]


def _known(rows: Iterable[tuple[tuple[str, ...], float | None]]) -> list[MetricPoint]:
    return [MetricPoint(labels, float(value)) for labels, value in rows if value is not None]


def _families(*rows: tuple[Metric, list[MetricPoint]]) -> tuple[MetricFamily, ...]:
    return tuple(metric.family(tuple(points)) for metric, points in rows if points)
