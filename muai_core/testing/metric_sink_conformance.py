"""The kit for metric sinks as a pytest class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from muai_core.plugin.metric_sink import MetricSink
from muai_core.testing.clauses import Kind
from muai_core.testing.conformance import Conformance
from muai_core.testing.metric_sink import MetricSinkLimits, MetricSinkSubject
from muai_core.testing.metric_sink.subject import Read


class MetricSinkConformance(Conformance):
    """Opens a sink, gives it batches of all kinds, reads them back where it can, and ends it."""

    kind: ClassVar[Kind] = "metric sink"
    #: The module with the plugin's hooks; unset: that of its entry point, else the sink's own.
    plugin_module: ClassVar[str | None] = None
    limits: ClassVar[MetricSinkLimits] = MetricSinkLimits()

    def make_sink(self) -> MetricSink:
        """The sink that is tested, not opened yet."""
        raise NotImplementedError

    def make_options(self, tmp_path: Path) -> Mapping[str, Any]:
        """Its options, as `sinks.<name>` in a config. Without a `port`, any free one is taken."""
        return {}

    def make_read(self) -> Read | None:
        """Tells what was exported last. A sink that Prometheus scrapes needs none."""
        return None

    def aimed_at(self, port: int) -> Mapping[str, Any] | None:
        """The options with which it sends to that port of this machine. None: to nobody."""
        return None

    def make_subject(self, tmp_path: Path) -> MetricSinkSubject:
        return MetricSinkSubject(
            self.make_sink(),
            self.make_options(tmp_path),
            read=self.make_read(),
            aimed_at=self._aimed_at if self.aimed_at(1) is not None else None,
            plugin_module=self.plugin_module,
            limits=self.limits,
        )

    def _aimed_at(self, port: int) -> Mapping[str, Any]:
        return self.aimed_at(port) or {}
