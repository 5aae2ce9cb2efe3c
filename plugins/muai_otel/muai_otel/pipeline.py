"""Everything that runs while the sink is open. Importing this imports the OpenTelemetry SDK."""

import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from muai_core.model.metrics import MetricFamily, MetricPoint
from muai_core.model.requests import RequestRecord
from muai_otel.config import OtelOptions
from muai_otel.conversion import Converter
from muai_otel.delivery import MetricDelivery, SpanDelivery
from muai_otel.exporters import Exporter
from muai_otel.outages import Outages
from muai_otel.sampling import is_sampled
from muai_otel.settings import Collector, Signal, collector, export_interval_s
from muai_otel.spans import span

#: What is left to deliver at the end gets this long; all sinks together have 2 s to close.
LAST_WORDS_S = 1.0
#: How long to wait for what was broken off.
BREAK_OFF_S = 0.3


class Pipeline:
    """The deliveries of one open sink. No method waits for the collector but `close`."""

    def __init__(self, options: OtelOptions, environ: Mapping[str, str]) -> None:
        """Raises SinkError for what cannot be read or makes no sense; needs no collector."""
        self.collectors = _collectors(options, environ)
        self._sample_ratio = options.sample_ratio
        self._outages = Outages(self.collectors.values())
        self._exporters = {name: Exporter(one) for name, one in self.collectors.items()}
        self._metrics: MetricDelivery | None = None
        self._spans: SpanDelivery | None = None
        resource = _resource(options, environ)
        scope = InstrumentationScope("muai", version("muai-core"))
        if options.metrics:
            converter = Converter(resource, scope, opened_ns=time.time_ns())
            self._metrics = MetricDelivery(
                self._exporters["metrics"],
                converter.convert,
                export_interval_s(options, environ),
                self._outages,
            )
        if options.traces:
            self._spans = SpanDelivery(
                self._exporters["traces"],
                lambda record: span(record, resource, scope),
                options.max_queued_spans,
                self._outages,
            )

    @property
    def failure(self) -> str | None:
        """Why something is not delivered at present."""
        return self._outages.reason

    def publish(self, families: Sequence[MetricFamily]) -> None:
        if self._metrics is not None:
            self._metrics.offer([*families, self._spans_lost()], time.time_ns())

    def trace(self, requests: Sequence[RequestRecord]) -> None:
        if self._spans is not None:
            ratio = self._sample_ratio
            self._spans.offer([one for one in requests if is_sampled(one.trace, ratio)])

    def close(self) -> None:
        """Deliver what waits if that is quick; returns within 1.6 s whatever the collector does."""
        deliveries = [one for one in (self._metrics, self._spans) if one is not None]
        for delivery in deliveries:
            delivery.stop()
        deadline_s = time.monotonic() + LAST_WORDS_S
        for delivery in deliveries:
            delivery.join(max(0.0, deadline_s - time.monotonic()))
        for exporter in self._exporters.values():
            exporter.close()
        deadline_s = time.monotonic() + BREAK_OFF_S
        for delivery in deliveries:
            delivery.join(max(0.0, deadline_s - time.monotonic()))
        self._outages.close(0 if self._spans is None else self._spans.waiting())

    def _spans_lost(self) -> MetricFamily:
        return MetricFamily(
            name="muai_otel_spans_dropped",
            kind="counter",
            help="Spans that never reached the collector.",
            points=(MetricPoint((), float(self._outages.spans_lost)),),
        )


def _collectors(options: OtelOptions, environ: Mapping[str, str]) -> dict[Signal, Collector]:
    signals: list[Signal] = []
    if options.metrics:
        signals.append("metrics")
    if options.traces:
        signals.append("traces")
    return {signal: collector(options, signal, environ) for signal in signals}


def _resource(options: OtelOptions, environ: Mapping[str, str]) -> Resource:
    """Who sends. The config wins over the environment, and that over what we know ourselves."""
    told = OTELResourceDetector().detect().attributes
    service_name = options.service_name or environ.get("OTEL_SERVICE_NAME")
    return Resource.create(
        {
            "service.name": "muai",
            "service.version": version("muai-core"),
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            **told,
            **options.resource_attributes,
            **({"service.name": service_name} if service_name else {}),
        }
    )
