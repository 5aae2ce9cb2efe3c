"""What the collectors make of facts: unknown is absent, lost devices keep their health."""

from typing import Any

from msgspec import Struct, structs

from muai_core.control.actions import PublishRoutes, ReportHealth, StartReplica
from muai_core.control.events import (
    DeviceChecked,
    DeviceSourceFailed,
    ReplicaReady,
    ReplicaStartFailed,
)
from muai_core.control.ledger import Ledger
from muai_core.control.lifecycle import ReplicaState
from muai_core.control.state import (
    ControlSettings,
    DeviceHealth,
    DeviceRecord,
    OpenFinding,
    Replica,
    SourceRecord,
    State,
)
from muai_core.model.deployment import Deployment
from muai_core.model.device import (
    Device,
    DeviceMeasurements,
    DeviceReading,
    HostFault,
    Measurement,
)
from muai_core.model.health import Finding, Health
from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.model.placement import Placement
from muai_core.model.requests import RequestRecord, TraceContext
from muai_core.model.routing import ModelStatus, Route, RoutingTable
from muai_core.telemetry.catalogue import METRICS
from muai_core.telemetry.collect import (
    controller_families,
    model_families,
    sink_families,
    state_families,
)
from muai_core.telemetry.device_catalogue import MEASURED
from muai_core.telemetry.devices import DeviceCollector, device_facts
from muai_core.telemetry.memory import MemoryRow, memory_families
from muai_core.telemetry.meters import ControllerMeter, GatewayMeter
from muai_core.telemetry.registry import Registry

GIB = 2**30


class Progress(Struct, frozen=True):
    requests_running: int
    requests_waiting: int
    tokens_generated: int


def gpu(index: int) -> Device:
    return Device(
        uuid=f"GPU-{index}",
        node="n0",
        index=index,
        kind="gpu",
        platform="simulated",
        name="H100-80GB",
        memory_total_bytes=80 * GIB,
    )


def reading(device: Device) -> DeviceReading:
    return DeviceReading(
        uuid=device.uuid,
        memory_used_bytes=8 * GIB,
        memory_reserved_bytes=GIB,
        memory_foreign_bytes=0,
        utilization_percent=75.5,
        temperature_celsius=65.0,
        power_watts=300.0,
    )


def measured(device: Device) -> DeviceMeasurements:
    """One value of everything that a source can measure, and one that nobody knows."""
    values = [
        Measurement(metric.name, 1.0, tuple("some" for _ in metric.labels[1:]))
        for metric in MEASURED
    ]
    return DeviceMeasurements(device.uuid, (*values, Measurement("moon_phase", 0.5)))


XID = Finding(kind="xid", code=63, severity=Health.DEGRADED, reason="XID 63: a row was remapped")


def series(families: tuple[MetricFamily, ...]) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.name: {point.labels: point.value for point in family.points} for family in families
    }


def deployment(name: str, replicas: int = 1) -> Deployment:
    return Deployment(
        name=name, source="x", engine="simulated", platforms=("simulated",), replicas=replicas
    )


def replica(model: str, number: int, state: ReplicaState, restarts: int = 0) -> Replica:
    return Replica(
        id=f"{model}-{number}",
        deployment=model,
        generation=1,
        number=number,
        state=state,
        since_s=0.0,
        restarts=restarts,
    )


def test_every_state_has_a_series_even_at_zero() -> None:
    replicas = [
        replica("chat", 1, ReplicaState.READY),
        replica("chat", 2, ReplicaState.BACKOFF),
        replica("old", 1, ReplicaState.DRAINING),
    ]
    found = series(model_families([deployment("chat", 2), deployment("idle", 1)], replicas))
    assert found["muai_model_replicas_desired"] == {("chat",): 2, ("idle",): 1, ("old",): 0}
    states = found["muai_model_replicas"]
    assert len(states) == 3 * (len(ReplicaState) - 1)
    assert {key: value for key, value in states.items() if value} == {
        ("chat", "ready"): 1.0,
        ("chat", "backoff"): 1.0,
        ("old", "draining"): 1.0,
    }


def test_no_journal_no_series() -> None:
    assert set(series(controller_families("1", 2.0, None))) == {
        "muai_build_info",
        "muai_controller_uptime_seconds",
    }
    assert series(controller_families("1", 2.0, 0))["muai_journal_bytes"] == {(): 0.0}


NO_DRIVER = HostFault(kind="driver_not_loaded", reason="no driver", advice="load it")


def busy_state() -> State:
    here, gone = gpu(0), gpu(1)
    ledger = Ledger()
    ledger.claim("chat-1", 3, Placement(((here.uuid,),), (4 * GIB,)))
    ledger.claim("chat-2", 1, Placement(((gone.uuid,),), (2 * GIB,)))
    records = [
        DeviceRecord(device=gone, source="simulated", reading=reading(gone), present=False),
        DeviceRecord(
            device=here,
            source="simulated",
            reading=reading(here),
            sampled_at_s=1.0,
            condition=DeviceHealth(
                state=Health.DEGRADED,
                open=(OpenFinding(finding=XID, first_at_s=1.0, last_at_s=1.0),),
                counts={"xid:63": 1},
            ),
        ),
    ]
    two_by_one = Placement(((here.uuid,), (gone.uuid,)), (4 * GIB, 2 * GIB))
    running = replica("chat", 1, ReplicaState.READY, restarts=2)
    replicas = [
        structs.replace(running, placement=two_by_one),
        replica("chat", 2, ReplicaState.RELEASING),
    ]
    return State(
        settings=ControlSettings(),
        deployments={"chat": deployment("chat", 2)},
        replicas={one.id: one for one in replicas},
        devices={record.device.uuid: record for record in records},
        sources={
            "simulated": SourceRecord(observed_at_s=1.0),
            "nvml": SourceRecord(observed_at_s=1.0, failure="no answer", fault=NO_DRIVER),
        },
        ledger=ledger,
        applied={"DevicesObserved": 7},
        stale={"ReplicaExited: late": 1, "ReplicaExited: an earlier epoch": 2},
        rejected={"DevicesObserved: GPU-1 has negative memory": 1},
        policy_failures={"recovery policy ladder": 1},
    )


def test_the_state_tells_events_replicas_and_devices() -> None:
    found = series(
        state_families(
            busy_state(), {("chat-1", 2): 1, ("chat-1", 3): 4}, {"chat-1": Progress(4, 1, 99)}
        )
    )
    assert found["muai_controller_events"] == {
        ("DevicesObserved", "applied"): 7.0,
        ("ReplicaExited", "stale"): 3.0,
        ("DevicesObserved", "rejected"): 1.0,
    }
    assert found["muai_device_source_up"] == {("simulated",): 1.0, ("nvml",): 0.0}
    assert found["muai_host_fault"] == {("nvml", "driver_not_loaded"): 1.0}
    assert found["muai_replica_info"] == {("chat", "chat-1", "simulated", "1", "2"): 1.0}
    assert found["muai_replica_ready"] == {("chat", "chat-1"): 1.0, ("chat", "chat-2"): 0.0}
    assert found["muai_replica_restarts"] == {("chat", "chat-1"): 2.0, ("chat", "chat-2"): 0.0}
    assert found["muai_replica_requests_in_flight"] == {("chat", "chat-1"): 5.0}
    assert found["muai_replica_requests_running"] == {("chat", "chat-1"): 4.0}
    assert found["muai_replica_requests_waiting"] == {("chat", "chat-1"): 1.0}
    assert found["muai_replica_tokens_generated"] == {("chat", "chat-1"): 99.0}


def finished(model: str | None, **values: object) -> RequestRecord:
    ok = RequestRecord(
        trace=TraceContext("0" * 31 + "1", "0" * 15 + "1", None, False),
        started_unix_ns=0,
        duration_s=0.4,
        queue_s=0.0,
        first_token_s=0.03,
        operation="chat",
        path="/v1/chat/completions",
        model=model,
        engine="simulated",
        replica_id="chat-1",
        endpoint="http://h:1",
        request_id="r",
        status=200,
        outcome="ok",
        error=None,
        streamed=True,
        events=12,
        retries=0,
        prompt_tokens=None,
        completion_tokens=None,
    )
    return structs.replace(ok, **values)


def table(*models: str, replicas: tuple[str, ...] = ()) -> RoutingTable:
    statuses = tuple(ModelStatus(name=name, desired=1, ready=1, state="ready") for name in models)
    routes = tuple(
        Route(model=models[0], replica_id=one, epoch=1, endpoint="http://h:1", engine="x")
        for one in replicas
    )
    return RoutingTable(1, statuses, routes)


def metered() -> tuple[Registry, GatewayMeter]:
    registry = Registry()
    meter = GatewayMeter(registry)
    meter.routes_published(table("chat", replicas=("chat-1",)))
    return registry, meter


def test_requests_are_counted_by_what_became_of_them() -> None:
    registry, meter = metered()
    meter.request_finished(finished("chat"))
    meter.request_finished(
        finished("chat", outcome="failed", status=502, retries=3, streamed=False)
    )
    meter.request_finished(finished("chat", outcome="cancelled", status=499, first_token_s=None))
    meter.request_finished(finished("gpt-7", outcome="refused", status=404, first_token_s=None))
    meter.request_finished(finished(None, outcome="refused", status=401, first_token_s=None))
    meter.request_finished(finished(None, streamed=False, first_token_s=None))
    found = {family.name: family for family in registry.collect()}
    assert {point.labels: point.value for point in found["muai_requests"].points} == {
        ("chat", "ok", "200", "true"): 1.0,
        ("chat", "failed", "502", "false"): 1.0,
        ("chat", "cancelled", "499", "true"): 1.0,
        ("", "refused", "404", "true"): 1.0,
        ("", "refused", "401", "true"): 1.0,
        ("", "ok", "200", "false"): 1.0,
    }
    (duration,) = found["muai_request_duration_seconds"].points
    assert (duration.count, duration.total) == (1, 0.4)
    (first_token,) = found["muai_time_to_first_token_seconds"].points
    assert first_token.count == 2
    (retries,) = found["muai_request_retries"].points
    assert (retries.labels, retries.value) == (("chat",), 3.0)


def test_a_fault_is_booked_to_its_model_even_after_the_replica_left_the_table() -> None:
    registry, meter = metered()
    meter.replica_faulted("chat-1", 1, "reset")
    meter.routes_published(table("chat"))
    meter.replica_faulted("chat-1", 1, "reset")
    meter.replica_faulted("nobody", 1, "connect")
    found = {family.name: family for family in registry.collect()}["muai_request_faults"]
    assert {point.labels: point.value for point in found.points} == {
        ("chat", "reset"): 2.0,
        ("", "connect"): 1.0,
    }


def start(replica_id: str, epoch: int) -> StartReplica:
    return StartReplica(
        replica_id=replica_id,
        epoch=epoch,
        deadline_at_s=100.0,
        deployment=deployment("chat"),
        placement=Placement(((gpu(0).uuid,),), (GIB,)),
        devices=(gpu(0),),
    )


def ready(replica_id: str, epoch: int) -> ReplicaReady:
    return ReplicaReady(replica_id=replica_id, epoch=epoch, endpoint="http://h:1")


def test_steps_count_actions_and_failed_sources() -> None:
    registry = Registry()
    meter = ControllerMeter(registry)
    failed = DeviceSourceFailed(source="nvml", reason="gone")
    meter.stepped(1.0, 0.0002, [failed], [PublishRoutes(table=RoutingTable())])
    found = series(registry.collect())
    assert found["muai_controller_actions"] == {("PublishRoutes",): 1.0}
    assert found["muai_device_source_failures"] == {("nvml",): 1.0}
    steps = {family.name: family for family in registry.collect()}[
        "muai_controller_step_duration_seconds"
    ]
    assert (steps.points[0].count, steps.points[0].total) == (1, 0.0002)


def checked(**values: Any) -> DeviceChecked:
    return DeviceChecked(uuid="GPU-0", check=1, **values)


def worse() -> ReportHealth:
    return ReportHealth(
        uuid="GPU-0",
        before=Health.HEALTHY,
        after=Health.DEGRADED,
        cause="XID 63: a row was remapped",
    )


def test_health_and_self_tests_are_counted() -> None:
    registry = Registry()
    meter = ControllerMeter(registry)
    tests = [checked(), checked(finding=XID), checked(inconclusive="no memory left"), checked()]
    meter.stepped(1.0, 0.1, tests, [worse(), worse()])
    found = series(registry.collect())
    assert found["muai_device_self_tests"] == {
        ("passed",): 2.0,
        ("failed",): 1.0,
        ("inconclusive",): 1.0,
    }
    assert found["muai_device_health_transitions"] == {("healthy", "degraded"): 2.0}


def test_observations_are_timed_by_source() -> None:
    registry = Registry()
    meter = ControllerMeter(registry)
    meter.observed("nvml", 0.004)
    meter.observed("nvml", 45.0)
    families = {family.name: family for family in registry.collect()}
    (point,) = families["muai_device_source_observe_duration_seconds"].points
    assert (point.labels, point.count, point.total) == (("nvml",), 2, 45.004)


def test_only_starts_that_succeed_are_timed() -> None:
    registry, _ = metered()
    meter = ControllerMeter(registry)
    meter.stepped(10.0, 0.1, [], [start("chat-1", 1), start("chat-2", 1)])
    failed = ReplicaStartFailed(replica_id="chat-2", epoch=1, cause="no")
    meter.stepped(12.0, 0.1, [failed], [start("chat-2", 2)])
    meter.stepped(14.5, 0.1, [ready("chat-1", 1), ready("chat-2", 1)], [])
    meter.stepped(15.0, 0.1, [ready("chat-1", 1), ready("chat-2", 2)], [])
    starts = {family.name: family for family in registry.collect()}[
        "muai_replica_start_duration_seconds"
    ]
    (point,) = starts.points
    assert (point.labels, point.count, point.total) == (("chat",), 2, 4.5 + 3.0)


def memory_rows() -> list[MemoryRow]:
    labels = ("chat", "chat-1", "GPU-0", "total")
    return [MemoryRow(is_measured, MetricPoint(labels, 1.0)) for is_measured in (False, True)]


def test_every_metric_of_the_catalogue_is_fed_and_nothing_else() -> None:
    registry, meter = metered()
    meter.request_finished(finished("chat", retries=1, prompt_tokens=5))
    meter.replica_faulted("chat-1", 1, "reset")
    controller = ControllerMeter(registry)
    failed = DeviceSourceFailed(source="nvml", reason="gone")
    controller.stepped(1.0, 0.1, [failed], [start("chat-1", 3)])
    controller.stepped(2.0, 0.1, [ready("chat-1", 3), checked()], [worse()])
    controller.observed("nvml", 0.01)
    families = (
        *controller_families("0.1.0", 1.0, 10),
        *sink_families({"prometheus": 0}, {"otel": 0}),
        *state_families(busy_state(), {("chat-1", 3): 1}, {"chat-1": Progress(1, 0, 5)}),
        *memory_families(memory_rows()),
        *DeviceCollector().collect(
            device_facts(busy_state(), {"GPU-0": measured(gpu(0))}, now_s=1.0, unix_offset_s=1e9)
        ),
        *registry.collect(),
    )
    metrics = {metric.name: metric for metric in METRICS}
    assert sorted(family.name for family in families) == sorted(metrics)
    for family in families:
        metric = metrics[family.name]
        assert (family.kind, family.help) == (metric.kind, metric.help)
        assert family.points
        for point in family.points:
            assert len(point.labels) == len(metric.labels) == len(family.label_names)
        labels = [point.labels for point in family.points]
        assert len(labels) == len(set(labels))
