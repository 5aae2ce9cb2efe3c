"""The sink: keeps the last batch and serves it. Imports the client library only when opened."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from muai_core.model.metrics import MetricFamily
from muai_core.plugin.metric_sink import MetricSink

if TYPE_CHECKING:
    from pydantic import BaseModel

    from muai_prometheus.exposition import Exposition
    from muai_prometheus.server import MetricsServer


class PrometheusSink(MetricSink):
    """`/metrics` for Prometheus. Rendering happens at each scrape, in a thread of its own."""

    name = "prometheus"

    def __init__(self) -> None:
        self._exposition: Exposition | None = None
        self._server: MetricsServer | None = None

    def options_model(self) -> "type[BaseModel]":
        from muai_prometheus.config import PrometheusOptions

        return PrometheusOptions

    def open(self, options: Mapping[str, Any]) -> None:
        """Listen. Raises SinkError when the port is taken or the address is not ours."""
        from muai_prometheus.config import PrometheusOptions
        from muai_prometheus.exposition import Exposition
        from muai_prometheus.server import MetricsServer

        chosen = PrometheusOptions.model_validate(options)
        exposition = Exposition()
        server = MetricsServer(chosen.host, chosen.port, chosen.path, exposition.render)
        server.start()
        self._exposition, self._server = exposition, server

    def location(self) -> str | None:
        """The URL at which the metrics are served; None when closed."""
        return None if self._server is None else self._server.url

    def publish(self, families: Sequence[MetricFamily]) -> None:
        if self._exposition is not None:
            self._exposition.publish(families)

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._exposition = self._server = None
