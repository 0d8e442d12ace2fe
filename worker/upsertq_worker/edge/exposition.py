"""Owns the text that Prometheus reads: the only module that names prometheus_client. It counts nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from upsertq_worker.metrics.table import Distribution, Family, Kind

_MADE: Final[Mapping[Kind, Any]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


class Exposition:
    """Makes the text of families, with those of this process: memory, processor time, open files."""

    def __init__(self) -> None:
        self._families: Sequence[Family] = ()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self, families: Sequence[Family], accept: str) -> tuple[bytes, str]:
        """The text, and its Content-Type; the scraper's header Accept chooses between Prometheus' and OpenMetrics."""
        self._families = families
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """As prometheus_client asks for it."""
        return map(_family, self._families)


def _family(family: Family) -> Any:
    metric = family.metric
    made = _MADE[metric.kind](metric.name, metric.help, labels=["queue", *metric.labels])
    for names, value in family.values.items():
        figures = (value.cumulated(), value.total) if isinstance(value, Distribution) else (value,)
        made.add_metric([family.queue, *names], *figures)
    return made
