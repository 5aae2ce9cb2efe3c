"""The controller's metrics for Prometheus to scrape."""

from muai_prometheus.sink import PrometheusSink

__all__ = ["PrometheusSink"]
