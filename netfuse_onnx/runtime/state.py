"""The state of a session and its counters, as one dictionary: what `MergedSession.stats()` gives."""

from __future__ import annotations

import time
from typing import Any

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.stats import quantile


def state(dispatcher: Dispatcher, threads: int) -> dict[str, Any]:
    """Return the counters of all generations, and the state of now, as numbers in dictionaries. `threads`
    counts those of the session itself."""
    with dispatcher.lock:
        for generation in (*dispatcher.old, dispatcher.current):
            generation.count_together(dispatcher.stats)
        told = dispatcher.stats.as_dict()
        latest = dispatcher.stats.latencies()
        engine = dispatcher.current.engine
        kept_out = dispatcher.kept_out(dispatcher.current, time.monotonic())
        told |= {
            "queue": {"waiting": dispatcher.waiting, "running": dispatcher.running},
            "generation": dispatcher.current.number,
            "old_generations": len(dispatcher.old),
            "models": len(engine.models),
            "kept_out": [engine.models[model] for model in sorted(kept_out)],
            "workers": dispatcher.slots.count,
            "threads": threads,
            "sessions": engine.told(),
        }
    told["latency_seconds"] |= {"p50": quantile(latest, 0.50), "p99": quantile(latest, 0.99)}
    return told
