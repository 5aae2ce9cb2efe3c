"""MuAI's metrics for Prometheus to scrape: the controller's sink, and an exporter for scripts."""

from typing import TYPE_CHECKING, Any

from muai_prometheus.sink import PrometheusSink

if TYPE_CHECKING:
    from muai_prometheus.exporter import PrometheusExporter

__all__ = ["PrometheusExporter", "PrometheusSink"]


def __getattr__(name: str) -> Any:
    # The exporter brings the client library, which the controller must not load with its hooks.
    if name == "PrometheusExporter":
        from muai_prometheus.exporter import PrometheusExporter

        return PrometheusExporter
    raise AttributeError(f"module 'muai_prometheus' has no attribute {name!r}")
