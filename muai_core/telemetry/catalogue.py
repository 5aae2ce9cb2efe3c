"""Every metric of MuAI, as data. Nothing else may invent a name; docs/metrics.md lists the same.

`RECORDED` metrics accumulate in the registry as things happen; `OBSERVED` ones are read off the
state at each collection. Units are base units and stand last in the name (`_total` is added to
counters by the exporter). Those of single devices are in `device_catalogue`.
"""

from muai_core.telemetry.device_catalogue import DEVICE_METRICS, MEASUREMENTS_REJECTED
from muai_core.telemetry.metric import Metric, counter, gauge, histogram

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
#: OpenTelemetry, `gen_ai.server.time_per_output_token`.
# fmt: off
OUTPUT_TOKEN_BUCKETS_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)
# fmt: on
#: The gateway's own work takes 0.1 ms; the wait for another replica up to `retry_wait_s`, 30 s.
QUEUE_BUCKETS_S = (1e-4, 2.5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
#: A small model is up in a second, a large one loads for twenty minutes.
START_BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
#: A healthy driver answers in milliseconds, one with a sick GPU is silent for 45 s at a time.
# fmt: off
OBSERVE_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 50.0,
)
# fmt: on

# The controller
BUILD_INFO = gauge("muai_build_info", "Always 1; the label tells the version.", "version")
UPTIME = gauge("muai_controller_uptime_seconds", "Time since the controller started.")
STEP_DURATION = histogram(
    "muai_controller_step_duration_seconds",
    "Time of one step of the control plane, for one batch of events.",
    STEP_BUCKETS_S,
)
EVENTS = counter(
    "muai_controller_events",
    "Events by what the control plane did: applied, ignored as stale, or rejected as illegal.",
    "event",
    "outcome",
)
ACTIONS = counter("muai_controller_actions", "Actions that the control plane ordered.", "action")
SOURCE_FAILURES = counter(
    "muai_device_source_failures",
    "Observations of a device source that raised or missed their deadline.",
    "source",
)
SOURCE_UP = gauge(
    "muai_device_source_up",
    "1 while the source answers, 0 when its last observation failed.",
    "source",
)
OBSERVE_DURATION = histogram(
    "muai_device_source_observe_duration_seconds",
    "Time that a device source took for one observation of all its devices.",
    OBSERVE_BUCKETS_S,
    "source",
)
HOST_FAULT = gauge(
    "muai_host_fault",
    "1 while something is wrong with the node or the driver, and nothing is known of its devices.",
    "source",
    "kind",
)
HEALTH_TRANSITIONS = counter(
    "muai_device_health_transitions", "Changes of the health of devices.", "from", "to"
)
SELF_TESTS = counter(
    "muai_device_self_tests", "Self-tests of devices that ended, by their verdict.", "verdict"
)
POLICY_FAILURES = counter(
    "muai_policy_failures",
    "Calls into an allocation strategy or recovery policy that raised or answered nonsense.",
    "policy",
)
JOURNAL_BYTES = gauge("muai_journal_bytes", "Size of the journal file.")

# Models and replicas
REPLICAS_DESIRED = gauge(
    "muai_model_replicas_desired", "Replicas that the config asks for.", MODEL_LABEL
)
REPLICAS = gauge(
    "muai_model_replicas", "Replicas of the model in each state.", MODEL_LABEL, "state"
)
REPLICA_INFO = gauge(
    "muai_replica_info",
    "Always 1, for each replica that has devices; the labels tell how it runs.",
    MODEL_LABEL,
    "replica",
    "engine",
    "tensor_parallel_size",
    "pipeline_parallel_size",
)
REPLICA_READY = gauge(
    "muai_replica_ready",
    "1 while requests are routed to the replica, else 0.",
    MODEL_LABEL,
    "replica",
)
REPLICA_RESTARTS = counter(
    "muai_replica_restarts",
    "Starts of the replica after its first, whatever ended the one before.",
    MODEL_LABEL,
    "replica",
)
REPLICA_REQUESTS_RUNNING = gauge(
    "muai_replica_requests_running",
    "Requests that the engine of the replica works on.",
    MODEL_LABEL,
    "replica",
)
REPLICA_REQUESTS_WAITING = gauge(
    "muai_replica_requests_waiting",
    "Requests that wait inside the engine of the replica.",
    MODEL_LABEL,
    "replica",
)
REPLICA_TOKENS_GENERATED = counter(
    "muai_replica_tokens_generated",
    "Tokens that the engine of the replica generated since its process started.",
    MODEL_LABEL,
    "replica",
)
REPLICA_START_DURATION = histogram(
    "muai_replica_start_duration_seconds",
    "Time from the order to start a replica until it was ready; successful starts only.",
    START_BUCKETS_S,
    MODEL_LABEL,
)
MEMORY_PREDICTED = gauge(
    "muai_memory_predicted_bytes",
    "Memory that a rank of the replica was predicted to hold of the device, by kind.",
    MODEL_LABEL,
    "replica",
    "uuid",
    "kind",
)
MEMORY_MEASURED = gauge(
    "muai_memory_measured_bytes",
    "Memory that it held once it was ready: the total as the device shows it, the rest as its"
    " engine told.",
    MODEL_LABEL,
    "replica",
    "uuid",
    "kind",
)

# Requests
REQUESTS = counter(
    "muai_requests",
    "Requests that ended at the gateway, by what became of them and the HTTP status.",
    MODEL_LABEL,
    "outcome",
    "code",
    "streamed",
)
REQUEST_DURATION = histogram(
    "muai_request_duration_seconds",
    "Time from the arrival of a request to the end of its answer; successful requests only.",
    REQUEST_BUCKETS_S,
    MODEL_LABEL,
)
TIME_TO_FIRST_TOKEN = histogram(
    "muai_time_to_first_token_seconds",
    "Time from the arrival of a streamed request to the first event of its answer.",
    FIRST_TOKEN_BUCKETS_S,
    MODEL_LABEL,
)
TIME_PER_OUTPUT_TOKEN = histogram(
    "muai_time_per_output_token_seconds",
    "Time per token after the first, of streams that succeeded.",
    OUTPUT_TOKEN_BUCKETS_S,
    MODEL_LABEL,
)
REQUEST_QUEUE = histogram(
    "muai_request_queue_seconds",
    "Time from the arrival of a request until it was first handed to a replica.",
    QUEUE_BUCKETS_S,
    MODEL_LABEL,
)
REQUEST_TOKENS = counter(
    "muai_request_tokens",
    "Tokens of requests whose answers tell how many: of the prompt, and of the completion.",
    MODEL_LABEL,
    "kind",
)
REQUEST_RETRIES = counter(
    "muai_request_retries", "Further tries of requests after a replica failed one.", MODEL_LABEL
)
REQUEST_FAULTS = counter(
    "muai_request_faults",
    "Tries that failed through the fault of a replica, retried or not.",
    MODEL_LABEL,
    "fault",
)
REPLICA_REQUESTS_IN_FLIGHT = gauge(
    "muai_replica_requests_in_flight",
    "Requests that the gateway has at the replica.",
    MODEL_LABEL,
    "replica",
)

# Sinks
SINK_BATCHES_DROPPED = counter(
    "muai_sink_batches_dropped",
    "Batches of metrics that a sink lost because it was slow or failed.",
    "sink",
)
SINK_REQUESTS_DROPPED = counter(
    "muai_sink_requests_dropped",
    "Requests that a sink should have traced and lost because it was slow or failed.",
    "sink",
)

RECORDED: tuple[Metric, ...] = (
    STEP_DURATION,
    ACTIONS,
    SOURCE_FAILURES,
    OBSERVE_DURATION,
    HEALTH_TRANSITIONS,
    SELF_TESTS,
    REPLICA_START_DURATION,
    REQUESTS,
    REQUEST_DURATION,
    TIME_TO_FIRST_TOKEN,
    TIME_PER_OUTPUT_TOKEN,
    REQUEST_QUEUE,
    REQUEST_TOKENS,
    REQUEST_RETRIES,
    REQUEST_FAULTS,
)
OBSERVED: tuple[Metric, ...] = (
    BUILD_INFO,
    UPTIME,
    EVENTS,
    SOURCE_UP,
    HOST_FAULT,
    MEASUREMENTS_REJECTED,
    POLICY_FAILURES,
    JOURNAL_BYTES,
    REPLICAS_DESIRED,
    REPLICAS,
    REPLICA_INFO,
    REPLICA_READY,
    REPLICA_RESTARTS,
    REPLICA_REQUESTS_IN_FLIGHT,
    REPLICA_REQUESTS_RUNNING,
    REPLICA_REQUESTS_WAITING,
    REPLICA_TOKENS_GENERATED,
    MEMORY_PREDICTED,
    MEMORY_MEASURED,
    SINK_BATCHES_DROPPED,
    SINK_REQUESTS_DROPPED,
    *DEVICE_METRICS,
)
METRICS: tuple[Metric, ...] = RECORDED + OBSERVED
