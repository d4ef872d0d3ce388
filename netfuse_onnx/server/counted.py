"""Counts what the server did: for Prometheus, and by model as the protocol's statistics have it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram, in seconds."""


@dataclass(slots=True)
class Statistics:
    """The requests to one name: how many succeeded and failed, and how long they took in nanoseconds."""

    succeeded: int = 0
    success_ns: int = 0
    failed: int = 0
    fail_ns: int = 0
    inferences: int = 0
    """Rows of requests that succeeded."""
    last_ms: int = 0
    """The time of the latest request, in milliseconds since 1970."""


class Counted:
    """The counters of a server. They are changed in the thread of its event loop alone."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside each counter
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "netfuse_server_requests", "Inference requests by protocol and status.",
            ["protocol", "status"], registry=self.registry,
        )  # fmt: skip
        self._latency = Histogram(
            "netfuse_server_latency_seconds", "Seconds from a request's headers to its answer.",
            ["protocol"], buckets=LATENCIES, registry=self.registry,
        )  # fmt: skip
        self._children: dict[tuple[str, str], Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self.by_name: dict[str, Statistics] = {}

    def ended(self, protocol: str, status: str, name: str, rows: int, began_ns: int) -> None:
        """Count a request that ended. `rows` is 0 for one that failed, and `name` '' for no known model."""
        took = time.perf_counter_ns() - began_ns
        self._child(protocol, status).inc()
        self._histogram(protocol).observe(took / 1e9)
        if not name:
            return
        told = self.by_name.get(name)
        if told is None:
            told = self.by_name[name] = Statistics()
        if rows:
            told.succeeded += 1
            told.success_ns += took
            told.inferences += rows
        else:
            told.failed += 1
            told.fail_ns += took
        told.last_ms = time.time_ns() // 1_000_000

    def text(self) -> str:
        """Return the counters in the text format that Prometheus reads."""
        return generate_latest(self.registry).decode()

    def _child(self, protocol: str, status: str) -> Counter:
        child = self._children.get((protocol, status))
        if child is None:
            child = self._children[protocol, status] = self._requests.labels(protocol, status)
        return child

    def _histogram(self, protocol: str) -> Histogram:
        found = self._histograms.get(protocol)
        if found is None:
            found = self._histograms[protocol] = self._latency.labels(protocol)
        return found
