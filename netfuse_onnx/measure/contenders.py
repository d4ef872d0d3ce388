"""The ways to run N models once: in sequence, at once on a pool of threads, in one graph.

The constructor of a contender costs nothing; `setup` loads it, `run` is one call, `close` frees it. They
raise RunFailed where ONNX Runtime refuses.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from netfuse_onnx import edges
from netfuse_onnx.measure.sessions import Runner, Settings
from netfuse_onnx.measure.workload import Results, Workload
from netfuse_onnx.run.bound import Bound
from netfuse_onnx.run.runtime import RunFailed, Value, onnxruntime

LOADERS = 12
"""At most so many threads load the sessions of one way on CUDA."""
THREADS = 16
"""At most so many threads call the sessions of one way on CUDA."""


class Contender(ABC):
    """One way of running all models once."""

    kind: ClassVar[str]
    """The name of the way in the report."""
    on_device: bool = False
    """True where `start` and `wait` run it without copies, once it is set up."""

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
        """Make one call, and return its outputs per model, not yet combined."""

    @abstractmethod
    def close(self) -> None:
        """Free the sessions, also after a setup that failed."""

    def device_run(self) -> None:
        """Make one call whose inputs and outputs stay on the device, where `on_device` is true."""
        raise RunFailed("its inputs and outputs do not stay on the device")

    def feed(self, turn: int) -> bool:
        """Set the inputs of further calls to those of a turn of the workload. False where it has only one."""
        return turn == 0

    def check(self, turn: int = 0) -> tuple[float, str]:
        """Compare its outputs with the sources', on the inputs of the turn that it was fed. Returns the worst
        ratio, and '' or what is wrong."""
        return self.work.error(self.results(), turn, exact=self.settings.exact)

    def elsewhere(self) -> int:
        """Return the bytes resident in other processes."""
        return 0


class InSequence(Contender):
    """A session per model, one after the other."""

    kind = "sequence"
    _runners: Sequence[Runner] = ()

    def setup(self) -> None:
        """Load the sessions; on CUDA by several threads, since creating one leaves Python's lock free."""
        models = range(self.work.models)
        if self.work.runtime.provider == "cuda":
            with ThreadPoolExecutor(min(LOADERS, len(models))) as pool:
                self._runners = [*pool.map(self._load, models)]
        else:
            self._runners = [self._load(model) for model in models]
        self._first_run()
        self.on_device = all(runner.bound for runner in self._runners)

    def _load(self, model: int) -> Runner:
        work = self.work
        path, feeds, wants = work.paths[model], work.feeds(model), work.wants(model)
        return Runner(path, feeds, wants, work.runtime, self.settings, work.tf32)

    def _first_run(self) -> None:
        """Capture the CUDA graphs, one at a time: what another thread does on the device breaks a capture."""
        if self.settings.graph:
            self.run()

    def use(self, other: InSequence) -> None:
        """Take over the sessions of another way, which stays their owner, instead of a setup."""
        self._runners, self.on_device = other._runners, other.on_device

    def feed(self, turn: int) -> bool:
        for model, runner in enumerate(self._runners):
            runner.feed(self.work.feeds(model, turn))
        return True

    def run(self) -> object:
        """Run all models. Outputs that the merged model combines are combined in numpy, as a user would."""
        values = self.run_some(self.work.models)
        return self.work.combine(self._named(values)) if self.work.combined else values

    def run_some(self, count: int) -> list[Sequence[Value]]:
        """Make a call that wants only the first `count` models."""
        return [runner.run() for runner in self._runners[:count]]

    def device_run(self) -> None:
        for runner in self._runners:
            _bound(runner).run()

    def results(self) -> Results:
        return self._named(self.run_some(self.work.models))

    def _named(self, each: Sequence[Sequence[Value]]) -> Results:
        """Return the outputs of the sessions by the first model's names."""
        return [
            self.work.first_names(m, dict(zip(runner.outputs, values, strict=True)))
            for m, (runner, values) in enumerate(zip(self._runners, each, strict=True))
        ]

    def close(self) -> None:
        self._runners = []


class NotWaiting(InSequence):
    """On CUDA, one thread that starts all sessions, each on its own stream, and waits once at the end."""

    kind = "sequence, waiting once"

    def __init__(self, work: Workload, settings: Settings) -> None:
        super().__init__(work, settings)
        self._options = onnxruntime().RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # This is the graph that a run without options captures. Without a name, ONNX Runtime 1.31 throws and
        # catches an error inside each run with options, which takes 0.1 ms.
        self._options.add_run_config_entry("gpu_graph_id", "0")

    def run_some(self, count: int) -> list[Sequence[Value]]:
        runners = self._runners[:count]
        for runner in runners:
            runner.put()
        self._start(runners)
        return [[*_bound(runner).get().values()] for runner in runners]

    def device_run(self) -> None:
        self._start(self._runners)

    def _start(self, runners: Sequence[Runner]) -> None:
        for runner in runners:
            _bound(runner).run(self._options)
        _bound(runners[-1]).wait()  # for the device, whatever runs on it


class Concurrent(InSequence):
    """A session per model, at once: on the CPU by as many threads as there are cores, each session on the
    thread that calls it; on CUDA by up to THREADS threads and a stream for each session. The caller is one of
    the threads."""

    kind = "concurrent"

    def setup(self) -> None:
        self._go: list[queue.SimpleQueue[Callable[[int], object] | None]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._results: list[Sequence[Value]] = [[] for _ in self.work.paths]
        self._turns: AbstractContextManager[object] = nullcontext()
        models = self.work.models
        count = min(models, THREADS if self.work.runtime.provider == "cuda" else self.work.cores)
        self._shares = [range(first, models, count) for first in range(count)]
        for share in self._shares[1:]:
            ready: queue.SimpleQueue[Callable[[int], object] | None] = queue.SimpleQueue()
            self._go.append(ready)
            threading.Thread(target=self._serve, args=(ready, share), daemon=True).start()
        super().setup()

    def _first_run(self) -> None:
        """Capture each CUDA graph on the thread that will replay it: ONNX Runtime keeps them per thread."""
        self._turns = threading.Lock()
        try:
            super()._first_run()
        finally:
            self._turns = nullcontext()

    def _serve(self, ready: queue.SimpleQueue[Callable[[int], object] | None], share: range) -> None:
        while work := ready.get():
            problem = None
            try:
                self._run_share(work, share)
            except BaseException as error:  # raised again by the caller
                problem = error
            self._done.put(problem)

    def _run_share(self, work: Callable[[int], object], share: range) -> None:
        with self._turns:
            for model in share:
                work(model)

    def _run_one(self, model: int) -> None:
        self._results[model] = self._runners[model].run()

    def run_some(self, count: int) -> list[Sequence[Value]]:
        self._all(lambda model: self._run_one(model) if model < count else None)
        return self._results[:count]

    def device_run(self) -> None:
        self._all(lambda model: _bound(self._runners[model]).run())

    def _all(self, work: Callable[[int], object]) -> None:
        for ready in self._go:
            ready.put(work)
        try:
            self._run_share(work, self._shares[0])
        finally:
            problems = [self._done.get() for _ in self._go]
        for problem in filter(None, problems):
            raise problem

    def close(self) -> None:
        for ready in self._go:
            ready.put(None)
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
        self._some: dict[int, Mapping[str, Value]] = {}

    def setup(self) -> None:
        feeds, wants = self._feeds(), self._wants()
        self._runner = Runner(self.path, feeds, wants, self.work.runtime, self.settings, self.work.tf32)
        self.on_device = self._runner.bound is not None

    def feed(self, turn: int) -> bool:
        assert self._runner is not None
        self._runner.feed(self._feeds(turn))
        return True

    def device_run(self) -> None:
        assert self._runner is not None
        _bound(self._runner).run()

    def _feeds(self, turn: int = 0) -> dict[str, Value]:
        return self.work.merged_feeds(self.io, self.share, turn)

    def _wants(self) -> dict[str, Value]:
        return self.work.merged_wants(self.io)

    def _split_models(self, result: Mapping[str, Value]) -> Results:
        return self.work.split_models(result, self.io)

    def run(self) -> Any:
        assert self._runner is not None
        return self._runner.run()

    @property
    def chooses(self) -> bool:
        """True where a call may run some of the models; its inputs then have no fixed places."""
        return edges.is_selected(self.io) and not self.on_device

    def run_some(self, count: int) -> Sequence[Value]:
        """Make a call that chooses the first `count` models."""
        assert self._runner is not None
        if count not in self._some:
            self._some[count] = self.work.chosen_feeds(self.io, self.share, count)
        return self._runner.run(self._some[count])

    def results(self) -> Results:
        assert self._runner is not None
        return self._split_models(self._runner.named())

    def close(self) -> None:
        self._runner = None


class SideBySide(OneGraph):
    """One graph with the models side by side, as onnx.compose makes it. The prefix of model m is `m/`."""

    kind = "side by side"

    def run(self) -> Any:
        """Run the graph. Outputs that the merged model combines are combined in numpy."""
        assert self._runner is not None
        if not self.work.combined:
            return self._runner.run()
        return self.work.combine(self._split_models(self._runner.named()))

    def _feeds(self, turn: int = 0) -> dict[str, Value]:
        return self._numbered([self.work.feeds(m, turn) for m in range(self.work.models)])

    def _wants(self) -> dict[str, Value]:
        return self._numbered([self.work.wants(m) for m in range(self.work.models)])

    def _numbered(self, values: Results) -> dict[str, Value]:
        return {f"{m}/{name}": value for m, own in enumerate(values) for name, value in own.items()}

    def _split_models(self, result: Mapping[str, Value]) -> Results:
        outputs = enumerate(self.work.outputs)
        return [{name: result[f"{m}/{own}"] for name, own in each.items()} for m, each in outputs]


def _bound(runner: Runner) -> Bound:
    if runner.bound is None:
        raise RunFailed("it has inputs or outputs without a fixed place on the device")
    return runner.bound
