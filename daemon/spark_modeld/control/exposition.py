"""``GET /metrics``: what was counted, in Prometheus' text format. Imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from spark_modeld.metrics import Metrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def render(metrics: Metrics, version: str) -> bytes:
    """The text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(metrics, version))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, metrics: Metrics, version: str) -> None:
        self._metrics = metrics
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Each metric as the library knows it."""
        info = GaugeMetricFamily("spark_modeld_build_info", "1, and the daemon's version", labels=("version",))
        info.add_metric((self._version,), 1.0)
        yield info
        for counter in self._metrics.counters:
            counted = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
            for labels, value in counter.values.items():
                counted.add_metric(labels, value)
            yield counted
        for histogram in self._metrics.histograms:
            spread = HistogramMetricFamily(histogram.name, histogram.help, labels=histogram.labels)
            for labels in histogram.counts:
                spread.add_metric(labels, histogram.cumulative(labels), histogram.sums[labels])
            yield spread
        for gauge in self._metrics.gauges:
            shown = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.read().items():
                shown.add_metric(labels, value)
            yield shown
