"""What a router tells Prometheus. Requests are counted in plain integers and read at a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from overdb_router.refusals import code_name

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class RouterMetrics(Collector):
    """``requests[method, code]`` is counted up directly by those who answer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self._registry = registry
        self._exchange_seconds = Histogram(
            "overdb_router_exchange_seconds",
            "From sending a message to a group to its answer",
            ["group"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._exchange_requests = Histogram(
            "overdb_router_exchange_requests",
            "Requests in one message to a group",
            ["group"],
            registry=registry,
            buckets=_SIZES,
        )
        self._batch_requests = Histogram(
            "overdb_router_batch_requests",
            "Requests in one message of a client",
            registry=registry,
            buckets=_SIZES,
        )
        self._call_seconds = Histogram(
            "overdb_router_call_seconds",
            "Duration of single calls",
            ["method"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._by_group: dict[int, tuple[Histogram, Histogram]] = {}
        registry.register(self)

    def count(self, method: str, code: int, number: int = 1) -> None:
        """Count requests that were answered with a status code."""
        key = (method, code)
        self.requests[key] = self.requests.get(key, 0) + number

    def exchanged(self, group: int, seconds: float, requests: int) -> None:
        """A message was answered by its group."""
        histograms = self._by_group.get(group)
        if histograms is None:
            histograms = self._by_group[group] = (
                self._exchange_seconds.labels(group=str(group)),
                self._exchange_requests.labels(group=str(group)),
            )
        histograms[0].observe(seconds)
        histograms[1].observe(requests)

    def batched(self, requests: int) -> None:
        """A message of a client was read."""
        self._batch_requests.observe(requests)

    def called(self, method: str, code: int, seconds: float) -> None:
        """A single call was answered."""
        self.count(method, code)
        self._call_seconds.labels(method=method).observe(seconds)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Register a gauge that is computed when it is scraped."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Called at a scrape."""
        family = CounterMetricFamily(
            "overdb_router_requests",
            "Requests answered, by method and code",
            labels=["method", "code"],
        )
        for (method, code), number in sorted(self.requests.items()):
            family.add_metric([method, code_name(code)], number)
        yield family
