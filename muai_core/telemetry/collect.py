"""Pure functions that read facts off the state and turn them into metric families.

Families without series are left out; a fact that is unknown makes no series, never a zero.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import Replica, SourceRecord, State
from muai_core.model.deployment import Deployment
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.telemetry import catalogue
from muai_core.telemetry.metric import Metric

NOTHING: Mapping[str, int] = {}


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


def sink_families(
    dropped: Mapping[str, int], requests_dropped: Mapping[str, int] = NOTHING
) -> tuple[MetricFamily, ...]:
    """Batches and traced requests lost so far, by sink."""
    return _families(
        (catalogue.SINK_BATCHES_DROPPED, _known(_by_name(dropped))),
        (catalogue.SINK_REQUESTS_DROPPED, _known(_by_name(requests_dropped))),
    )


def state_families(
    state: State,
    in_flight: Mapping[tuple[str, int], int],
    progress: Mapping[str, Progress],
) -> tuple[MetricFamily, ...]:
    """What the control plane's state tells of events, sources, models and replicas.

    `in_flight` gives the gateway's requests by (replica id, epoch), `progress` the engines' own
    counts by replica id; replicas may be missing in both. Devices are for `telemetry.devices`.
    """
    held: Counter[str] = Counter()
    for (replica_id, _epoch), count in in_flight.items():
        held[replica_id] += count
    replicas = state.replicas.values()
    return (
        *_event_families(state),
        *source_families(state.sources),
        *model_families(state.deployments.values(), replicas),
        *replica_families(replicas, held, progress),
        *parallelism_families(replicas, state.deployments),
    )


def source_families(sources: Mapping[str, SourceRecord]) -> tuple[MetricFamily, ...]:
    """Whether each device source answers, and what is wrong with its host."""
    faults = [(name, one.fault) for name, one in sources.items()]
    return _families(
        (
            catalogue.SOURCE_UP,
            _known(((name,), one.failure is None) for name, one in sources.items()),
        ),
        (
            catalogue.HOST_FAULT,
            [MetricPoint((name, fault.kind), 1.0) for name, fault in faults if fault is not None],
        ),
    )


def parallelism_families(
    replicas: Iterable[Replica], deployments: Mapping[str, Deployment]
) -> tuple[MetricFamily, ...]:
    """How the replicas that have devices run."""
    points = []
    for one in replicas:
        deployment = deployments.get(one.deployment)
        if one.placement is None:
            continue
        engine = "" if deployment is None else deployment.engine
        stages = one.placement.stages
        sizes = (max((len(stage) for stage in stages), default=0), len(stages))
        labels = (one.deployment, one.id, engine, *(str(size) for size in sizes))
        points.append(MetricPoint(labels, 1.0))
    return _families((catalogue.REPLICA_INFO, points))


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


def _by_name(values: Mapping[str, int]) -> list[tuple[tuple[str, ...], int]]:
    return [((name,), value) for name, value in values.items()]


def _known(rows: Iterable[tuple[tuple[str, ...], float | None]]) -> list[MetricPoint]:
    return [MetricPoint(labels, float(value)) for labels, value in rows if value is not None]


def _families(*rows: tuple[Metric, list[MetricPoint]]) -> tuple[MetricFamily, ...]:
    return tuple(metric.family(tuple(points)) for metric, points in rows if points)
