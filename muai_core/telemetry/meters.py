"""Meters: what the runtime and the gateway call when something happens."""

from collections.abc import Iterable

from muai_core.control.actions import Action, ReportHealth, StartReplica
from muai_core.control.events import (
    DeviceChecked,
    DeviceSourceFailed,
    Event,
    ReplicaExited,
    ReplicaReady,
    ReplicaReleased,
    ReplicaStartFailed,
)
from muai_core.gateway.observer import FaultKind
from muai_core.model.requests import RequestRecord
from muai_core.model.routing import RoutingTable
from muai_core.telemetry import catalogue
from muai_core.telemetry.registry import NO_MODEL, Registry
from muai_core.telemetry.request_series import RequestSeries, request_count


class ControllerMeter:
    """Counts what goes in and out of the control plane. Cheap, and raises nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._step_duration = registry.histogram(catalogue.STEP_DURATION)
        #: Model and time of the order, by replica id and epoch, for starts under way.
        self._starts: dict[tuple[str, int], tuple[str, float]] = {}

    def stepped(
        self, now_s: float, duration_s: float, events: Iterable[Event], actions: Iterable[Action]
    ) -> None:
        """After each step: its time on the controller's clock, how long it took, what went in and
        what came out."""
        self._step_duration.observe(duration_s)
        for event in events:
            self._count_event(now_s, event)
        for action in actions:
            self._registry.value(catalogue.ACTIONS, type(action).__name__).add()
            self._count_action(now_s, action)

    def observed(self, source: str, duration_s: float) -> None:
        """After each observation of a device source, failed ones too. From any thread."""
        self._registry.histogram(catalogue.OBSERVE_DURATION, source).observe(duration_s)

    def _count_action(self, now_s: float, action: Action) -> None:
        match action:
            case StartReplica(replica_id=replica_id, epoch=epoch, deployment=deployment):
                self._starts[replica_id, epoch] = (deployment.name, now_s)
            case ReportHealth(before=before, after=after):
                change = (before.value, after.value)
                self._registry.value(catalogue.HEALTH_TRANSITIONS, *change).add()

    def _count_event(self, now_s: float, event: Event) -> None:
        match event:
            case DeviceSourceFailed(source=source):
                self._registry.value(catalogue.SOURCE_FAILURES, source).add()
            case DeviceChecked(finding=finding, inconclusive=inconclusive):
                verdict = "failed" if finding else "inconclusive" if inconclusive else "passed"
                self._registry.value(catalogue.SELF_TESTS, verdict).add()
            case ReplicaReady(replica_id=replica_id, epoch=epoch):
                start = self._starts.pop((replica_id, epoch), None)
                if start is not None:
                    model, ordered_at_s = start
                    duration = self._registry.histogram(catalogue.REPLICA_START_DURATION, model)
                    duration.observe(now_s - ordered_at_s)
            case ReplicaStartFailed() | ReplicaExited() | ReplicaReleased():
                self._starts.pop((event.replica_id, event.epoch), None)


class GatewayMeter:
    """The gateway's observer: counts requests. Knows models and replicas by the routing table."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._models: frozenset[str] = frozenset()
        #: By model; of those that are served, and made anew when these change.
        self._series: dict[str, RequestSeries] = {}
        self._model_of: dict[str, str] = {}
        self._model_before: dict[str, str] = {}

    def routes_published(self, table: RoutingTable) -> None:
        """With each routing table, before the gateway gets it: its models may make series."""
        models = frozenset(status.name for status in table.models)
        if models != self._models:
            self._registry.serve_models(models)
            self._models = models
            self._series.clear()
        # A replica that faults is often gone from the table by the time that is told.
        self._model_before = self._model_of
        self._model_of = {route.replica_id: route.model for route in table.routes}

    def request_finished(self, request: RequestRecord) -> None:
        model = request.model
        if model is None or model not in self._models:
            # Lists of models and the like are answered too, at once: no measure of a model.
            request_count(self._registry, NO_MODEL, request).add()
            return
        series = self._series.get(model)
        if series is None:
            series = self._series[model] = RequestSeries(self._registry, model)
        series.count(request)

    def replica_faulted(self, replica_id: str, epoch: int, kind: FaultKind) -> None:
        model = self._model_of.get(replica_id) or self._model_before.get(replica_id, NO_MODEL)
        self._registry.value(catalogue.REQUEST_FAULTS, model, kind).add()
