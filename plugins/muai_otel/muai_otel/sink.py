"""The sink: hands everything on to threads of its own. Imports the SDK only when opened."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muai_core.model.metrics import MetricFamily
from muai_core.model.requests import RequestRecord
from muai_core.plugin.metric_sink import MetricSink

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
        from muai_otel.pipeline import Pipeline

        self._pipeline = Pipeline(OtelOptions.model_validate(options), os.environ)

    def location(self) -> str | None:
        """Where the first signal that is on goes; None when closed."""
        if self._pipeline is None:
            return None
        return next(iter(self._pipeline.collectors.values())).endpoint

    def publish(self, families: Sequence[MetricFamily]) -> None:
        if self._pipeline is not None:
            self._pipeline.publish(families)

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        if self._pipeline is not None:
            self._pipeline.trace(requests)

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None
