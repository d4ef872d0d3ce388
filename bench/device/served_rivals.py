"""The ways to run the sources' sessions that serve.py compares with, and ways in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, LEAST = 30, 5
"""Rounds in which all ways take turns, and those that are run whatever the time is."""


class Ways:
    """Streams.run needs no more of an engine."""

    def __init__(self, engine: Any) -> None:
        self._calls, self._packing = engine.calls, engine.packing


class Rivals:
    """The sources' sessions with fixed places and, where they take them, CUDA graphs."""

    def __init__(
        self, paths: Sequence[str | Path], plain: Sequence[Any], feeds: Sequence[Mapping[str, Any]]
    ) -> None:
        import onnxruntime

        from netfuse_onnx.measure.sessions import Runner, Settings
        from netfuse_onnx.run.runtime import RunFailed, Runtime

        self.graphs, runtime, self._feeds = True, Runtime("cuda"), feeds
        names = [port.name for port in plain[0].get_outputs()]
        wanted = dict(zip(names, plain[0].run(names, feeds[0]), strict=True))

        def opened(graph: bool) -> list[Any]:
            runners = [
                Runner(path, own, wanted, runtime, Settings(0, graph=graph))
                for path, own in zip(paths, feeds, strict=True)
            ]
            for runner in runners:
                runner.run()
            return runners

        try:
            self._runners = opened(True)
        except RunFailed:
            self.graphs, self._runners = False, opened(False)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._options.add_run_config_entry("gpu_graph_id", "0")

    def one_by_one(self) -> object:
        return [runner.run() for runner in self._runners]

    def first(self) -> object:
        return self._runners[0].run()

    def at_once(self) -> object:
        for runner in self._runners:
            runner.put()
        for runner in self._runners:
            runner.bound.run(self._options)
        self._runners[-1].bound.wait()
        return [runner.bound.get() for runner in self._runners]


def in_turns(ways: Mapping[str, Callable[[], object]], until: float) -> dict[str, Any]:
    """Return the quartiles of each way in milliseconds, and the reason where one fails."""
    samples: dict[str, list[float]] = {way: [] for way in ways}
    failed: dict[str, str] = {}
    for turn in range(ROUNDS + 2):
        if turn >= LEAST and time.time() > until - 2.0:
            break
        for way, run in ways.items():
            if way in failed:
                continue
            try:
                start = time.perf_counter()
                run()
                samples[way].append(time.perf_counter() - start)
            except Exception as error:
                failed[way] = repr(error)[:300]
    taken = {
        way: [1e3 * q for q in np.quantile(found[2:], (0.25, 0.5, 0.75))]
        for way, found in samples.items()
        if found[2:]
    }
    return {"ms": taken, "failed": failed}
