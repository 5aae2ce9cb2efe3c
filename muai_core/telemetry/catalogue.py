"""Every metric of MuAI, as data. Nothing else may invent a name; docs/metrics.md lists the same.

`RECORDED` metrics accumulate in the registry as things happen; `OBSERVED` ones are read off the
state at each collection. Units are base units and stand last in the name (`_total` is added to
counters by the exporter); the five device gauges without prefix are a contract of their own.
"""

from msgspec import Struct

from muai_core.model.metrics import MetricFamily, MetricKind, MetricPoint

#: The label whose values clients can choose; the registry admits only models that are served.
MODEL_LABEL = "model"

#: 10 µs to 1 s: a step handles an event in microseconds, and 0.1 s of it would be felt.
STEP_BUCKETS_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 0.01, 0.1, 1.0)
#: OpenTelemetry, `gen_ai.server.request.duration`: 0.01 s doubled thirteen times.
REQUEST_BUCKETS_S = tuple(round(0.01 * 2**k, 2) for k in range(14))
#: OpenTelemetry, `gen_ai.server.time_to_first_token`, and two more for engines on a CPU.
# fmt: off
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    30.0, 60.0,
)
# fmt: on
#: A small model is up in a second, a large one loads for twenty minutes.
START_BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)


class Metric(Struct, frozen=True, kw_only=True):
    """One metric: its name without `_total`, what it means, the names of its labels.

    `buckets` are the upper bounds of a histogram without +Inf, ascending, in the metric's unit.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed_name(self) -> str:
        """The name as people query it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def family(self, points: tuple[MetricPoint, ...]) -> MetricFamily:
        """The given series as a family of this metric."""
        return MetricFamily(
            name=self.name, kind=self.kind, help=self.help, label_names=self.labels, points=points
        )


def _gauge(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", help=help_text, labels=labels)


def _counter(name: str, help_text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", help=help_text, labels=labels)


def _histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name=name, kind="histogram", help=help_text, labels=labels, buckets=buckets)


# The controller
BUILD_INFO = _gauge("muai_build_info", "Always 1; the label tells the version.", "version")
UPTIME = _gauge("muai_controller_uptime_seconds", "Time since the controller started.")
STEP_DURATION = _histogram(
    "muai_controller_step_duration_seconds",
    "Time of one step of the control plane, for one batch of events.",
    STEP_BUCKETS_S,
)
EVENTS = _counter(
    "muai_controller_events",
    "Events by what the control plane did: applied, ignored as stale, or rejected as illegal.",
    "event",
    "outcome",
)
ACTIONS = _counter("muai_controller_actions", "Actions that the control plane ordered.", "action")
SOURCE_FAILURES = _counter(
    "muai_device_source_failures",
    "Observations of a device source that raised or missed their deadline.",
    "source",
)
POLICY_FAILURES = _counter(
    "muai_policy_failures",
    "Calls into an allocation strategy or recovery policy that raised or answered nonsense.",
    "policy",
)
JOURNAL_BYTES = _gauge("muai_journal_bytes", "Size of the journal file.")

# Models and replicas
REPLICAS_DESIRED = _gauge(
    "muai_model_replicas_desired", "Replicas that the config asks for.", MODEL_LABEL
)
REPLICAS = _gauge(
    "muai_model_replicas", "Replicas of the model in each state.", MODEL_LABEL, "state"
)
REPLICA_READY = _gauge(
    "muai_replica_ready",
    "1 while requests are routed to the replica, else 0.",
    MODEL_LABEL,
    "replica",
)
REPLICA_RESTARTS = _counter(
    "muai_replica_restarts",
    "Starts of the replica after its first, whatever ended the one before.",
    MODEL_LABEL,
    "replica",
)
REPLICA_REQUESTS_RUNNING = _gauge(
    "muai_replica_requests_running",
    "Requests that the engine of the replica works on.",
    MODEL_LABEL,
    "replica",
)
REPLICA_REQUESTS_WAITING = _gauge(
    "muai_replica_requests_waiting",
    "Requests that wait inside the engine of the replica.",
    MODEL_LABEL,
    "replica",
)
REPLICA_TOKENS_GENERATED = _counter(
    "muai_replica_tokens_generated",
    "Tokens that the engine of the replica generated since its process started.",
    MODEL_LABEL,
    "replica",
)
REPLICA_START_DURATION = _histogram(
    "muai_replica_start_duration_seconds",
    "Time from the order to start a replica until it was ready; successful starts only.",
    START_BUCKETS_S,
    MODEL_LABEL,
)

# Requests
REQUESTS = _counter(
    "muai_requests",
    "Requests that ended at the gateway, by what became of them and the HTTP status.",
    MODEL_LABEL,
    "outcome",
    "code",
    "streamed",
)
REQUEST_DURATION = _histogram(
    "muai_request_duration_seconds",
    "Time from the arrival of a request to the end of its answer; successful requests only.",
    REQUEST_BUCKETS_S,
    MODEL_LABEL,
)
TIME_TO_FIRST_TOKEN = _histogram(
    "muai_time_to_first_token_seconds",
    "Time from the arrival of a streamed request to the first event of its answer.",
    FIRST_TOKEN_BUCKETS_S,
    MODEL_LABEL,
)
REQUEST_RETRIES = _counter(
    "muai_request_retries", "Further tries of requests after a replica failed one.", MODEL_LABEL
)
REQUEST_FAULTS = _counter(
    "muai_request_faults",
    "Tries that failed through the fault of a replica, retried or not.",
    MODEL_LABEL,
    "fault",
)
REPLICA_REQUESTS_IN_FLIGHT = _gauge(
    "muai_replica_requests_in_flight",
    "Requests that the gateway has at the replica.",
    MODEL_LABEL,
    "replica",
)

# Sinks
SINK_BATCHES_DROPPED = _counter(
    "muai_sink_batches_dropped",
    "Batches of metrics that a sink lost because it was slow or failed.",
    "sink",
)

# Devices. Five names and the label gpu_id are fixed by contract.
GPU_MEMORY_USED = _gauge(
    "gpu_memory_used_bytes", "Memory in use on the GPU, by any process.", "gpu_id"
)
GPU_MEMORY_AVAILABLE = _gauge(
    "gpu_memory_available_bytes", "Memory of the GPU that nobody uses.", "gpu_id"
)
GPU_UTILIZATION = _gauge(
    "gpu_utilization_percent", "Share of time in which the GPU was busy, 0 to 100.", "gpu_id"
)
GPU_TEMPERATURE = _gauge("gpu_temperature_celsius", "Temperature of the GPU.", "gpu_id")
GPU_HEALTH = _gauge(
    "gpu_health_status",
    "1 while the GPU may get new work (healthy or degraded), else 0.",
    "gpu_id",
)
GPU_INFO = _gauge(
    "gpu_info", "Always 1; joins gpu_id with the GPU's identity.", "gpu_id", "uuid", "node", "name"
)
DEVICE_CLAIMED = _gauge(
    "muai_device_claimed_bytes", "Memory of the GPU that replicas have claimed.", "gpu_id"
)

RECORDED: tuple[Metric, ...] = (
    STEP_DURATION,
    ACTIONS,
    SOURCE_FAILURES,
    REPLICA_START_DURATION,
    REQUESTS,
    REQUEST_DURATION,
    TIME_TO_FIRST_TOKEN,
    REQUEST_RETRIES,
    REQUEST_FAULTS,
)
OBSERVED: tuple[Metric, ...] = (
    BUILD_INFO,
    UPTIME,
    EVENTS,
    POLICY_FAILURES,
    JOURNAL_BYTES,
    REPLICAS_DESIRED,
    REPLICAS,
    REPLICA_READY,
    REPLICA_RESTARTS,
    REPLICA_REQUESTS_IN_FLIGHT,
    REPLICA_REQUESTS_RUNNING,
    REPLICA_REQUESTS_WAITING,
    REPLICA_TOKENS_GENERATED,
    SINK_BATCHES_DROPPED,
    GPU_MEMORY_USED,
    GPU_MEMORY_AVAILABLE,
    GPU_UTILIZATION,
    GPU_TEMPERATURE,
    GPU_HEALTH,
    GPU_INFO,
    DEVICE_CLAIMED,
)
METRICS: tuple[Metric, ...] = RECORDED + OBSERVED
