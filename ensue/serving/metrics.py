"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counts of one service. Its threads may share it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ensue_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "ensue_request_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.batch = Histogram(
            "ensue_batch_requests",
            "Requests that were answered together.",
            buckets=SIZES,
            registry=self._registry,
        )
        self.events = Counter(
            "ensue_events",
            "Events that were acknowledged, by whether they were new.",
            ["kind"],
            registry=self._registry,
        )

    def watch(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        method = method if method in METHODS else "other"  # a sender cannot make up series
        series = route, method, status
        if series not in self._series:  # to find them takes longer than to count
            found = self._requests.labels(route, method, str(status)), self._seconds.labels(route)
            self._series[series] = found
        requests, taken = self._series[series]
        requests.inc()
        taken.observe(seconds)

    def text(self) -> bytes:
        """Return all counts in Prometheus' text format."""
        return generate_latest(self._registry)
