"""Owns the text that Prometheus reads: the only module that names prometheus_client. It counts nothing."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from upsertq_worker.metrics.table import Distribution, Family, Kind, Value


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


def _family(family: Family) -> Metric:
    labels = ["queue", *family.metric.labels]
    arguments = family.metric.name, family.metric.help
    match family.metric.kind:
        case Kind.COUNTER:
            counter = CounterMetricFamily(*arguments, labels=labels)
            _add_numbers(counter.add_metric, family)
            return counter
        case Kind.GAUGE:
            gauge = GaugeMetricFamily(*arguments, labels=labels)
            _add_numbers(gauge.add_metric, family)
            return gauge
        case Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(*arguments, labels=labels)
            for names, found in _values(family):
                assert isinstance(found, Distribution)  # noqa: S101 - what a histogram's family holds
                histogram.add_metric(names, found.cumulated(), found.total)
            return histogram


def _add_numbers(add: Callable[[list[str], float], None], family: Family) -> None:
    for names, value in _values(family):
        assert not isinstance(value, Distribution)  # noqa: S101 - of a histogram alone
        add(names, value)


def _values(family: Family) -> Iterator[tuple[list[str], Value]]:
    for names, value in family.values.items():
        yield [family.queue, *names], value
