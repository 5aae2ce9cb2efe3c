"""Metrics and traces for OpenTelemetry collectors."""

from muai_otel.sink import OtelSink

__all__ = ["OtelSink"]
