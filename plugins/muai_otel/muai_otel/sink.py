"""The sink: hands everything on to threads of its own. Imports the SDK only when opened."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.plugin.metric_sink import MetricSink, SinkUnavailable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_otel.pipeline import Pipeline


class OtelSink(MetricSink):
    """Metrics and traces over OTLP. A collector that is away costs a bounded queue of spans."""

    name = "otel"

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None

    def options_model(self) -> "type[BaseModel]":
        from muai_otel.config import OtelOptions

        return OtelOptions

    def trace_sample_ratio(self, options: Mapping[str, Any]) -> float | None:
        return float(options["sample_ratio"]) if options["traces"] else None

    def open(self, options: Mapping[str, Any]) -> None:
        """Start delivering; the collector need not be there.

        Raises SinkError for a file that cannot be read or an OTEL_* variable that makes no sense.
        """
        from muai_otel.config import OtelOptions

        with _quiet_grpc():
            from muai_otel.pipeline import Pipeline

        self._pipeline = Pipeline(OtelOptions.model_validate(options), os.environ)

    def location(self) -> str | None:
        """Where the first signal that is on goes; None when closed."""
        if self._pipeline is None:
            return None
        return next(iter(self._pipeline.collectors.values())).endpoint

    def publish(self, families: Sequence[MetricFamily]) -> None:
        """Leave the batch to be delivered.

        Raises SinkUnavailable while the collector does not take what was sent before.
        """
        if self._pipeline is None:
            return
        self._pipeline.publish(families)
        if (failure := self._pipeline.failure) is not None:
            raise SinkUnavailable(failure)

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        if self._pipeline is not None:
            self._pipeline.trace(requests)

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None


@contextmanager
def _quiet_grpc() -> Iterator[None]:
    """gRPC's core writes to standard error past Python's logging, unless this is set when it loads.

    A value of the user's stays. Ours is taken back: it is for this process only.
    """
    name = "GRPC_VERBOSITY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "NONE"
    try:
        yield
    finally:
        del os.environ[name]
