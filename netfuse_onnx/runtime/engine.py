"""One generation of files: the sessions of a merged file and of its models, and the calls of them.

In: requests that the contract has checked. Out: each one's outputs, from a call of one model's own session or
from a merged call, which the packing fills and the sessions run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from netfuse_onnx import edges
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime import padding, samples, sources, threads, timing
from netfuse_onnx.runtime.buckets import Buckets
from netfuse_onnx.runtime.bundle import Bundle
from netfuse_onnx.runtime.calls import Calls, OnCpu
from netfuse_onnx.runtime.contract import Contract, Form
from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts, size_of
from netfuse_onnx.runtime.cuda import OnCuda
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.ort import ALL, CPU, Setup, open_session, shares_pool
from netfuse_onnx.runtime.own import Openings, OwnSessions
from netfuse_onnx.runtime.packing import Packed, Packing
from netfuse_onnx.runtime.placed import USES
from netfuse_onnx.runtime.ports import KEY
from netfuse_onnx.runtime.signature import Signature, signature
from netfuse_onnx.runtime.streams import Streams
from netfuse_onnx.runtime.threads import Threads
from netfuse_onnx.runtime.types import Costs, Feeds, Io, Kind, Outputs, Pays, Request, Together
from netfuse_onnx.runtime.wider import Wider

if TYPE_CHECKING:
    from netfuse_onnx.runtime.opening import Opening

AROUND = 25e-6
"""Seconds in which a call is chosen, handed to a thread, counted and answered; measured with a policy network
of 10 us, of which a request by itself takes 40 us of the processor."""
PART = 0.4
"""The part of the time of measuring that the number of threads may take."""


class ServedFiles:
    """The Engine of a merged file, and of the models' own files where a bundle or the options name them.
    Without them every call is a merged one."""

    def __init__(self, path: str, options: Opening, bundle: Bundle | None = None) -> None:
        paths = bundle.view_paths if bundle else options.sources
        self.own_sessions = bool(paths)
        self.setup = Setup(options.providers or (CPU,), libraries=options.libraries)
        sizes = [view.shared + view.again for view in bundle.views] if bundle else None
        self.threads, self.calls = self._opened(path, paths, options, sizes)
        merged, first = self.calls.edges()
        self.contract = Contract.read(
            merged, bundle, own=first, rows_apart=options.rows_apart,
            buckets=Buckets(options.buckets, options.pad), max_rows=options.max_batch,
        )  # fmt: skip
        self.calls.use(self.contract)
        if paths and not self.setup.on_cuda:
            self.contract.wider = Wider(self.contract.inputs, self._open)
        self._shared_pool = shares_pool(merged)
        self.models = self.contract.models
        if not (self.contract.answers or paths):
            raise UsageFault(
                "The merged file gives outputs of all models combined, which answer no request for one.",
                "Merge with --views, or give the models' own files as sources.",
            )
        if paths and not bundle:
            sources.check(paths, _digests(merged), self.models)
        self.rows_apart, self.slots = self.contract.apart, self.threads.workers
        self.wide = self.calls.wide is not None
        self.clock = threads.clock(self.threads.threads, self.setup.on_cuda)
        self.check = self.contract.check
        self.packing = Packing(self.contract)
        inputs = self.contract.inputs
        self._names = [{port.own[0]: port.own[m] for port in inputs} for m in range(len(self.models))]
        """For each model, its own names of inputs by those of the first one."""
        self._openings, self._max_rows = Openings(), options.max_rows
        self._streams: Streams | None = None
        self._prove_padding()
        made_up = samples.MadeUp(self.contract, lambda request: self.alone([request]))
        measured = self._measured(made_up, options)
        self.costs: Costs = measured
        if paths and isinstance(self.calls, OnCuda) and made_up.form is not None:
            streams = Streams(self.calls, self.packing, measured, made_up, options.max_rows)
            self.costs = streams.costs
            self._streams = streams if streams.most else None

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""
        return signature(self.contract.file, self.contract.place(model), apart=self.contract.apart)

    def everyone(self, feeds: Feeds) -> list[tuple[str, Feeds]]:
        """Return a request for each model, of inputs by the names of the first one."""
        return [
            (model, {own.get(name, name): value for name, value in feeds.items()})
            for model, own in zip(self.models, self._names, strict=True)
        ]

    def prepare(self, requests: Sequence[Request], *, must: bool = False) -> bool:
        """Open the own sessions of the requests' model, where it has some that are not open yet. False: they
        stay closed, and a merged call is to answer, because opening takes longer than is lost so, or fails;
        not with `must`, nor where only the own session can answer: the call tells then."""
        model = requests[0].model
        if not self.own_sessions or self.is_open(model):
            return True
        can_wait = self.contract.answers and not _is_own(requests)
        if not must and can_wait and not self._openings.pays(model, self._lost(requests)):
            return False
        with suppress(Exception):
            self._open(model)
        return must or not can_wait or self.is_open(model)

    def is_open(self, model: int) -> bool:
        """Return True where the own session of a model is open."""
        return self.calls.own.has(model)

    def warm_up(self, models: Sequence[str] | None, ends: Callable[[], bool]) -> int:
        """Open the own sessions of models, by default of as many as are kept open together, until `ends`
        says that nobody wants them any more. Return how many are open. Raises UnknownModel, FileFault."""
        chosen = [self.contract.place(model) for model in models] if models is not None else None
        own = self.calls.own
        for model in chosen if chosen is not None else range(own.fitting):
            if ends():
                break
            if self.own_sessions:
                self._open(model)
        return len(own)

    def _open(self, model: int) -> Any:
        """Return the own session of a model; where it is not open yet, open it, and that of wide calls."""
        if self.is_open(model):
            return self.calls.own.get(model)
        with self._openings.timed(model):
            if self.calls.wide is not None:
                self.calls.wide.get(model)
            return self.calls.own.get(model)

    def _lost(self, requests: Sequence[Request]) -> float:
        """Return the seconds that a merged call of these requests alone takes longer than an own call, with
        the longer way through it."""
        rows = sum(request.rows for request in requests)
        if rows > self._max_rows:
            return float("inf")
        times = self.costs.of(requests[0].form)
        return max(times.merged(1, rows, rows) + AROUND - times.alone(rows), 0.0)

    def alone(self, requests: Sequence[Request], *, wide: bool = False) -> list[Outputs]:
        """Run requests of one model and one form in one call of the model's own session; in several, where
        its batch is fixed. With `wide`, on all cores. Where that session does not open any more, because its
        file is gone, the merged file answers, which is open. Raises CallFailed."""
        if not self.own_sessions:
            return self.merged(requests)
        if len(requests) > 1 and (_is_own(requests) or not self.contract.side_by_side):
            return [self.alone([request], wide=wide)[0] for request in requests]
        packed = self.packing.alone(requests)
        try:
            return self.calls.alone(requests[0].model, packed, wide)
        except FileFault:
            if _is_own(requests) or not self.contract.answers:
                raise
        return [self._run_merged(self.packing.merged([request]))[0] for request in requests]

    def merged(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one form in one merged call, several of a model where rows are apart. Raises
        CallFailed."""
        if _is_own(requests) or not self.contract.answers:
            return [self.alone([request])[0] for request in requests]
        if self._streams is not None and self._streams.pays(requests):
            return self._streams.run(requests)
        return self._run_merged(self.packing.merged(requests))

    def alike(self, pairs: Sequence[tuple[str, Feeds]], pays: Pays) -> Together | None:
        """Check (model, feeds) of different models and run them in one merged call, where they are so alike
        that this takes no request for each, and `pays` says so. None where not, or where the call failed."""
        apart = self._streams is not None and len(pairs) <= self._streams.most
        packed = self.packing.express(pairs, pays) if self.contract.answers and not apart else None
        if packed is None:
            return None
        form, models, rows = packed.form, packed.models, packed.rows
        try:
            return Together(self._run_merged(packed), form, models, rows)
        except Exception:  # the usual way finds out whose fault it is
            return None

    def _prove_padding(self) -> None:
        """Raise UsageFault where outputs depend on padding."""
        if not self.contract.buckets:
            return
        plain = self.contract.unpadded()
        packing = Packing(plain)

        def requests(models: Sequence[int], each: Sequence[Feeds]) -> list[Request]:
            return [plain.check(self.models[model], feeds) for model, feeds in zip(models, each, strict=True)]

        def alone(models: Sequence[int], each: Sequence[Feeds]) -> list[Outputs]:
            return self.calls.alone(models[0], packing.alone(requests(models, each)))

        def merged(models: Sequence[int], each: Sequence[Feeds]) -> list[Outputs]:
            return self._run_merged(packing.merged(requests(models, each)))

        padding.prove(
            self.contract, alone if self.own_sessions else None, merged if self.contract.answers else None
        )

    def _run_merged(self, packed: Packed) -> list[Outputs]:
        try:
            outputs = self.calls.merged(packed)
        except BaseException:
            packed.release(failed=True)
            raise
        packed.release()
        return outputs

    def computed_rows(self, rows: Mapping[int, int]) -> int:
        """Return how many rows a merged call computes that has so many rows of each model."""
        if edges.is_by_index(self.contract.io):
            return sum(rows.values())
        slots = len(rows) if edges.is_selected(self.contract.io) else len(self.models)
        return slots * max(rows.values())

    def told(self) -> dict[str, Any]:
        """Return how the sessions were opened. `threads_per_call` is 0 for ONNX Runtime's default;
        `wide_calls` is True where a call that has the machine for itself may run on all cores;
        `shared_pool` is True where the program has made one pool for all sessions of the process, whose
        threads they use then; `at_once` is the number of models up to which own sessions that start at once
        take the place of a merged call, on CUDA."""
        return {
            "provider": self.setup.names[0],
            "threads_per_call": self.threads.threads,
            "calls_at_a_time": self.threads.workers,
            "wide_calls": self.wide,
            "shared_pool": self._shared_pool,
            "own_sessions_open": len(self.calls.own),
            "at_once": self._streams.most if self._streams else 0,
        }

    def close(self) -> None:
        """Release the sessions. A call that runs keeps its own until it ends."""
        self.calls.close()

    def _opened(
        self, path: str, paths: Sequence[str], options: Opening, sizes: Sequence[int] | None
    ) -> tuple[Threads, Calls]:
        """Open the sessions, with the threads that pay."""
        if self.setup.on_cuda:
            chosen = threads.given(options.threads, options.workers) or Threads(1, 1)
            return chosen, OnCuda(path, paths, self.setup, options.own_sessions, sizes)
        chosen, tried = _threads(paths[0] if paths else path, self.setup, options)
        setup = self.setup = self.setup.with_threads(chosen.threads)
        first = tried.get(chosen.threads)
        merged = first if first is not None and not paths else open_session(path, setup)
        own = OwnSessions(paths, lambda one: open_session(one, setup), options.own_sessions, sizes)
        if paths and first is not None:
            own.put(0, first)
        wide = None
        if chosen.on_all < 1 and paths and own.fits(times=2):
            on_all = setup.with_threads(ALL)
            wide = OwnSessions(paths, lambda one: open_session(one, on_all), None, sizes)
            wide.put(0, tried[ALL])
        return chosen, OnCpu(merged, own, wide)

    def _measured(self, made_up: samples.MadeUp, options: Opening) -> MeasuredCosts:
        """Return the times of calls of made-up requests, or guesses where none runs."""
        count, io = len(self.models), cast(Io, self.contract.io)
        if made_up.form is None:
            return unknown(io, count)

        def run_once(kind: Kind, form: Hashable, rows: Mapping[int, int]) -> object:
            requests = made_up.requests(rows)
            return self.alone(requests) if kind == "alone" else self.merged(requests)

        most = (options.max_rows, options.max_batch)
        if not (self.contract.batched or self.contract.apart):
            most = (1, 1)  # a request is one row, and a model has one request in a call
        return timing.measured(
            run_once, [made_up.form], io, count, max_rows=most[0], max_batch=most[1],
            seconds=options.calibrate, warm=USES if self.setup.on_cuda else 0,
            took=self.clock, around=AROUND, on_all=self.threads.on_all if self.wide else 1.0,
        )  # fmt: skip


def _is_own(requests: Sequence[Request]) -> bool:
    """True where only the model's own file takes the sizes of a request."""
    return cast(Form, requests[0].form).is_own


def unknown(io: Io, models: int) -> MeasuredCosts:
    """Return costs of which nothing is known: a millisecond for each model, and less in a merged call."""
    own, each = 1e-3, 1e-3 * timing.GUESS
    merged = {models: models * each} if io == "selected" else {1: each if io == "index" else models * each}
    return MeasuredCosts(
        io, models, {(): FormTimes(io, models, Curve({1: own}), {1: Curve(merged)})}, size_of
    )


def _threads(path: str, setup: Setup, options: Opening) -> tuple[Threads, dict[int, Any]]:
    """Return the threads of calls, and the sessions of `path` that were opened, by their threads."""
    chosen = threads.given(options.threads, options.workers)
    if chosen is not None or options.calibrate <= 0:
        return chosen or Threads(ALL, 1), {}

    def opened(count: int) -> Any:
        return open_session(path, setup.with_threads(count))

    feeds = samples.feeds_of(opened(1), options.buckets)
    if feeds is None:
        return Threads(ALL, 1), {}
    return threads.measured(opened, lambda session: session.run(None, feeds), options.calibrate * PART)


def _digests(session: Any) -> list[str]:
    """Return the digests of the sources, in the order of the models."""
    return list(json.loads(session.get_modelmeta().custom_metadata_map[KEY])["sha256"])
