"""The kit for metric sinks."""

from muai_core.testing.metric_sink.subject import MetricSinkLimits, MetricSinkSubject

__all__ = ["MetricSinkLimits", "MetricSinkSubject"]
