"""The ways to run N models once: in sequence, at once on a pool of threads, in one graph.

The constructor of a contender costs nothing; `setup` loads it, `run` is one call, `close` frees it. They
raise RunFailed where ONNX Runtime refuses.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from netfuse_onnx.measure.sessions import Runner, Settings
from netfuse_onnx.measure.workload import Results, Workload
from netfuse_onnx.run.runtime import Value


class Contender(ABC):
    """One way of running all models once."""

    kind: ClassVar[str]
    """The name of the way in the report."""

    def __init__(self, work: Workload, settings: Settings) -> None:
        self.work = work
        self.settings = settings

    @abstractmethod
    def setup(self) -> None:
        """Load the sessions."""

    @abstractmethod
    def run(self) -> object:
        """Make one call, which is measured. Returns outputs that `results` sorts by model."""

    @abstractmethod
    def results(self) -> Results:
        """Make one call, and return its outputs per model."""

    @abstractmethod
    def close(self) -> None:
        """Free the sessions, also after a setup that failed."""

    def check(self) -> tuple[float, str]:
        """Compare its outputs with the sources'. Returns the worst ratio, and '' or what is wrong."""
        return self.work.error(self.results())

    def elsewhere(self) -> int:
        """Return the bytes resident in other processes."""
        return 0


class InSequence(Contender):
    """A session per model, one after the other."""

    kind = "sequence"

    def setup(self) -> None:
        work = self.work
        self._runners = [
            Runner(path, work.feeds(m), work.wants(m), work.runtime, self.settings, work.tf32)
            for m, path in enumerate(work.paths)
        ]

    def run(self) -> list[Sequence[Value]]:
        return [runner.run() for runner in self._runners]

    def results(self) -> Results:
        named = zip(self._runners, self.run(), strict=True)
        return [
            self.work.first_names(m, dict(zip(runner.outputs, values, strict=True)))
            for m, (runner, values) in enumerate(named)
        ]

    def close(self) -> None:
        self._runners = []


class CudaGraphs(InSequence):
    """The sequence, where each session replays a CUDA graph."""

    kind = "sequence, CUDA graphs"


class Concurrent(InSequence):
    """A session per model, at once: on the CPU by as many threads as there are cores, each session on the
    thread that calls it; on CUDA by a thread and a stream each. The caller is one of the threads."""

    kind = "concurrent"

    def setup(self) -> None:
        self._go: list[queue.SimpleQueue[bool]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._results: list[Sequence[Value]] = [[] for _ in self.work.paths]
        super().setup()
        models = self.work.models
        count = models if self.work.runtime.provider == "cuda" else min(models, self.work.cores)
        self._shares = [range(first, models, count) for first in range(count)]
        for share in self._shares[1:]:
            ready: queue.SimpleQueue[bool] = queue.SimpleQueue()
            self._go.append(ready)
            threading.Thread(target=self._serve, args=(ready, share), daemon=True).start()

    def _serve(self, ready: queue.SimpleQueue[bool], share: range) -> None:
        while ready.get():
            problem = None
            try:
                self._run_share(share)
            except BaseException as error:  # raised again by the caller
                problem = error
            self._done.put(problem)

    def _run_share(self, share: range) -> None:
        for model in share:
            self._results[model] = self._runners[model].run()

    def run(self) -> list[Sequence[Value]]:
        for ready in self._go:
            ready.put(True)
        try:
            self._run_share(self._shares[0])
        finally:
            problems = [self._done.get() for _ in self._go]
        for problem in filter(None, problems):
            raise problem
        return list(self._results)

    def close(self) -> None:
        for ready in self._go:
            ready.put(False)
        self._go, self._runners, self._results = [], [], []


class OneGraph(Contender):
    """One session that runs all models: the merged file, or any other with the same feeds."""

    kind = "merged"
    _runner: Runner | None = None

    def __init__(
        self, work: Workload, settings: Settings, path: str, io: str = "separate", share: Sequence[str] = ()
    ) -> None:
        super().__init__(work, settings)
        self.path, self.io, self.share = path, io, share

    def setup(self) -> None:
        feeds, wants = self._feeds(), self._wants()
        self._runner = Runner(self.path, feeds, wants, self.work.runtime, self.settings, self.work.tf32)

    def _feeds(self) -> dict[str, Value]:
        return self.work.merged_feeds(self.io, self.share)

    def _wants(self) -> dict[str, Value]:
        return self.work.merged_wants(self.io)

    def _split_models(self, result: Mapping[str, Value]) -> Results:
        return self.work.split_models(result, self.io)

    def run(self) -> Any:
        assert self._runner is not None
        return self._runner.run()

    def results(self) -> Results:
        assert self._runner is not None
        return self._split_models(self._runner.named())

    def close(self) -> None:
        self._runner = None


class SideBySide(OneGraph):
    """One graph with the models side by side, as onnx.compose makes it. The prefix of model m is `m/`."""

    kind = "side by side"

    def _feeds(self) -> dict[str, Value]:
        return self._numbered([self.work.feeds(m) for m in range(self.work.models)])

    def _wants(self) -> dict[str, Value]:
        return self._numbered([self.work.wants(m) for m in range(self.work.models)])

    def _numbered(self, values: Results) -> dict[str, Value]:
        return {f"{m}/{name}": value for m, own in enumerate(values) for name, value in own.items()}

    def _split_models(self, result: Mapping[str, Value]) -> Results:
        outputs = enumerate(self.work.outputs)
        return [{name: result[f"{m}/{own}"] for name, own in each.items()} for m, each in outputs]
