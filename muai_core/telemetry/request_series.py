"""The request metrics of one model, found in the registry once: this is paid for every request."""

from muai_core.model.requests import RequestRecord
from muai_core.telemetry import catalogue
from muai_core.telemetry.registry import Registry, Value


class RequestSeries:
    """Counts the requests of one model that is served."""

    def __init__(self, registry: Registry, model: str) -> None:
        self._registry = registry
        self._model = model
        self._requests: dict[tuple[str, int, bool], Value] = {}
        self._duration = registry.histogram(catalogue.REQUEST_DURATION, model)
        self._queue = registry.histogram(catalogue.REQUEST_QUEUE, model)
        self._first_token = registry.histogram(catalogue.TIME_TO_FIRST_TOKEN, model)
        self._per_token = registry.histogram(catalogue.TIME_PER_OUTPUT_TOKEN, model)
        self._tokens: dict[str, Value] = {}
        self._retries = registry.value(catalogue.REQUEST_RETRIES, model)

    def count(self, request: RequestRecord) -> None:
        """One request that ended."""
        kind = (request.outcome, request.status, request.streamed)
        requests = self._requests.get(kind)
        if requests is None:
            requests = self._requests[kind] = request_count(self._registry, self._model, request)
        requests.add()
        if request.outcome == "ok":
            self._duration.observe(request.duration_s)
        if request.queue_s is not None:
            self._queue.observe(request.queue_s)
        if request.first_token_s is not None:
            self._first_token.observe(request.first_token_s)
            per_token_s = time_per_output_token_s(request)
            if per_token_s is not None:
                self._per_token.observe(per_token_s)
        if request.retries:
            self._retries.add(request.retries)
        if request.prompt_tokens:
            self._count_tokens("prompt", request.prompt_tokens)
        if request.completion_tokens:
            self._count_tokens("completion", request.completion_tokens)

    def _count_tokens(self, kind: str, tokens: int) -> None:
        value = self._tokens.get(kind)
        if value is None:
            metric = catalogue.REQUEST_TOKENS
            value = self._tokens[kind] = self._registry.value(metric, self._model, kind)
        value.add(tokens)


def request_count(registry: Registry, model: str, request: RequestRecord) -> Value:
    """The counter of requests that ended as this one did."""
    streamed = "true" if request.streamed else "false"
    labels = (model, request.outcome, str(request.status), streamed)
    return registry.value(catalogue.REQUESTS, *labels)


def time_per_output_token_s(request: RequestRecord) -> float | None:
    """Seconds per token after the first of a stream that succeeded; None where it has no two.

    OpenTelemetry's `gen_ai.server.time_per_output_token`. A stream whose engine tells no usage is
    taken to hold one token per event.
    """
    first_s = request.first_token_s
    tokens = request.completion_tokens
    if tokens is None:
        tokens = request.events
    if request.outcome != "ok" or first_s is None or tokens < 2:
        return None
    return (request.duration_s - first_s) / (tokens - 1)
