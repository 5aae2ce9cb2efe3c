"""What this plugin registers."""

from collections.abc import Sequence

from muai_core.plugin.hookspecs import hookimpl
from muai_core.plugin.metric_sink import MetricSink
from muai_otel.sink import OtelSink


@hookimpl
def muai_metric_sinks() -> Sequence[MetricSink]:
    return [OtelSink()]
