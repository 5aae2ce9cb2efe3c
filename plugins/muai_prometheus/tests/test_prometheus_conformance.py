"""The sink for Prometheus keeps the contract of all metric sinks; it is read by scraping it."""

from muai_prometheus import PrometheusSink

from muai_core.testing import MetricSinkConformance


class TestPrometheusSink(MetricSinkConformance):
    def make_sink(self) -> PrometheusSink:
        return PrometheusSink()
