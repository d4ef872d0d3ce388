"""Counts what a session does, and says it as one dictionary, or in the text format of Prometheus.

The counters have no lock of their own: whoever uses them holds the lock of its dispatcher.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

WINDOW = 4096
"""Latest requests whose latencies make p50 and p99."""
BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds, in seconds, of the histogram of latencies."""
ENDS = ("answered", "failed", "timed_out", "cancelled", "dropped")
"""The ends of a request that was accepted: dropped where the session was closed without waiting for it."""


class Stats:
    """The counters of a session, over all generations."""

    def __init__(self) -> None:
        self.accepted = 0
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.failed_calls: Counter[str] = Counter()
        self.requests_in: Counter[str] = Counter()
        self.models_in_merged = 0
        self.useful_rows = 0
        self.padded_rows = 0
        self.retries = 0
        self.scheduler_faults = 0
        self.wide_calls = 0
        self.swaps = 0
        self.seconds = 0.0
        self._latest: deque[float] = deque(maxlen=WINDOW)
        self._buckets = [0] * (len(BUCKETS) + 1)

    def took(self, seconds: float) -> None:
        """Count the latency of a request, from its arrival to its answer."""
        self.seconds += seconds
        self._latest.append(seconds)
        self._buckets[bisect_left(BUCKETS, seconds)] += 1

    def took_each(self, seconds: list[float]) -> None:
        """Count the latencies of several requests."""
        self.seconds += sum(seconds)
        self._latest.extend(seconds)
        for one in seconds:
            self._buckets[bisect_left(BUCKETS, one)] += 1

    def together(self, requests: int, rows: int, computed: int, seconds: float) -> None:
        """Count requests of different models that came together and were answered by one merged call."""
        self.accepted += requests
        self.ended["answered"] += requests
        self.merged(requests, requests, rows, computed)
        self.seconds += seconds * requests
        self._latest.extend([seconds] * requests)
        self._buckets[bisect_left(BUCKETS, seconds)] += requests

    def alone(self, requests: int, rows: int, wide: bool = False) -> None:
        """Count a call of a model's own session."""
        self.calls["alone"] += 1
        self.wide_calls += wide
        self.requests_in["alone"] += requests
        self.useful_rows += rows

    def merged(self, requests: int, models: int, rows: int, computed: int) -> None:
        """Count a merged call, which computed so many rows, of which `rows` are those of requests."""
        self.calls["merged"] += 1
        self.requests_in["merged"] += requests
        self.models_in_merged += models
        self.useful_rows += rows
        self.padded_rows += max(0, computed - rows)

    def latencies(self) -> list[float]:
        """Return the latencies of the latest requests."""
        return list(self._latest)

    def as_dict(self) -> dict[str, Any]:
        """Return all counters but the quantiles of latencies, as numbers and dictionaries of numbers."""
        merged = self.calls["merged"]
        computed = self.useful_rows + self.padded_rows
        return {
            "requests": {
                "accepted": self.accepted,
                **{end: self.ended[end] for end in ENDS},
                "refused": dict(self.refused),
            },
            "calls": {kind: self.calls[kind] for kind in ("alone", "merged")},
            "wide_calls": self.wide_calls,
            "failed_calls": {kind: self.failed_calls[kind] for kind in ("alone", "merged")},
            "requests_in_calls": {kind: self.requests_in[kind] for kind in ("alone", "merged")},
            "models_per_merged_call": self.models_in_merged / merged if merged else 0.0,
            "rows": {
                "useful": self.useful_rows,
                "padded": self.padded_rows,
                "useful_part": self.useful_rows / computed if computed else 1.0,
            },
            "retries": self.retries,
            "scheduler_faults": self.scheduler_faults,
            "swaps": self.swaps,
            "latency_seconds": {
                "sum": self.seconds,
                "count": sum(self._buckets),
                "buckets": self._cumulated(),
            },
        }

    def _cumulated(self) -> dict[str, int]:
        """Return {upper bound: requests at most as slow}, as Prometheus counts."""
        total, told = 0, {}
        for bound, number in zip((*map(repr, BUCKETS), "+Inf"), self._buckets, strict=True):
            total += number
            told[bound] = total
        return told


def quantile(values: list[float], part: float) -> float:
    """Return the smallest of the values that at least that part of them does not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


METRICS = (
    ("requests_total", "counter", "Requests by how they ended."),
    ("refused_total", "counter", "Requests refused before the queue, by the kind of error."),
    ("calls_total", "counter", "Runs of ONNX Runtime that succeeded, by kind."),
    ("wide_calls_total", "counter", "Calls of one model that had all cores for themselves."),
    ("failed_calls_total", "counter", "Runs of ONNX Runtime that failed, by kind."),
    ("requests_in_calls_total", "counter", "Requests answered by calls of a kind."),
    ("models_in_merged_calls_total", "counter", "Models with a request in a merged call."),
    ("rows_total", "counter", "Rows computed: useful ones, and those of padding."),
    ("retries_total", "counter", "Requests run again alone after their call failed."),
    ("swaps_total", "counter", "Swaps to another generation of files."),
    ("queue_depth", "gauge", "Requests that wait."),
    ("running_calls", "gauge", "Calls that run."),
    ("generation", "gauge", "The generation of files that serves new requests, from 1."),
    ("workers", "gauge", "Calls that may run at the same time."),
    ("threads", "gauge", "Threads of the session itself."),
    ("latency_seconds", "histogram", "Seconds from arrival to answer."),
)  # fmt: skip
"""Name after the prefix, type and help of each metric."""
PREFIX = "netfuse_"


def samples(stats: Mapping[str, Any]) -> dict[str, float]:
    """Return what `MergedSession.stats()` gave as {name with labels: value}, in Prometheus's notation."""
    flat: dict[str, float] = {}

    def put(name: str, value: float, **labels: str) -> None:
        pairs = ",".join(f'{key}="{told}"' for key, told in labels.items())
        flat[f"{PREFIX}{name}{{{pairs}}}" if pairs else f"{PREFIX}{name}"] = value

    for end in ENDS:
        put("requests_total", stats["requests"][end], end=end)
    for kind, number in sorted(stats["requests"]["refused"].items()):
        put("refused_total", number, error=kind)
    for name in ("calls", "failed_calls", "requests_in_calls"):
        for kind, number in stats[name].items():
            put(f"{name}_total", number, kind=kind)
    put("wide_calls_total", stats["wide_calls"])
    put("models_in_merged_calls_total", round(stats["models_per_merged_call"] * stats["calls"]["merged"]))
    for use in ("useful", "padded"):
        put("rows_total", stats["rows"][use], use=use)
    put("retries_total", stats["retries"])
    put("swaps_total", stats["swaps"])
    put("queue_depth", stats["queue"]["waiting"])
    put("running_calls", stats["queue"]["running"])
    for name in ("generation", "workers", "threads"):
        put(name, stats[name])
    for bound, number in stats["latency_seconds"]["buckets"].items():
        put("latency_seconds_bucket", number, le=bound)
    put("latency_seconds_sum", stats["latency_seconds"]["sum"])
    put("latency_seconds_count", stats["latency_seconds"]["count"])
    return flat


def exposition(flat: Mapping[str, float]) -> str:
    """Return samples in the text format that Prometheus reads."""
    lines = []
    for name, kind, told in METRICS:
        own = [key for key in flat if _metric_of(key) == PREFIX + name]
        if own:
            lines += [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}"]
            lines += [f"{key} {flat[key]}" for key in own]
    return "\n".join(lines) + "\n"


def _metric_of(sample: str) -> str:
    """Return the metric that a sample belongs to: a histogram has several."""
    name = sample.partition("{")[0]
    for end in ("_bucket", "_sum", "_count"):
        if name == f"{PREFIX}latency_seconds{end}":
            return name.removesuffix(end)
    return name
