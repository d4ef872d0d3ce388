"""One generation of files: the sessions of a merged file and of its models, and the calls of them.

In: requests that the contract has checked. Out: each one's outputs, from a call of one model's own session or
from a merged call, which the packing fills and the sessions run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from netfuse_onnx import edges
from netfuse_onnx.runtime import bundle as bundles
from netfuse_onnx.runtime import samples, sources, threads, timing
from netfuse_onnx.runtime.buckets import Buckets
from netfuse_onnx.runtime.bundle import Bundle
from netfuse_onnx.runtime.calls import Calls, OnCpu
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.costs import Curve, FormTimes, MeasuredCosts, size_of
from netfuse_onnx.runtime.ort import ALL, CPU, Provider, Setup, open_session
from netfuse_onnx.runtime.own import OwnSessions
from netfuse_onnx.runtime.packing import Packing
from netfuse_onnx.runtime.ports import KEY
from netfuse_onnx.runtime.threads import Threads
from netfuse_onnx.runtime.types import Costs, Io, Kind, Outputs, Request

PART = 0.4
"""The part of the time of measuring that the number of threads may take."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an engine. Those without a word here are MergedSession's."""

    sources: tuple[str, ...] = ()
    providers: tuple[Provider, ...] | None = None
    threads: int | None = None
    workers: int | None = None
    libraries: tuple[str, ...] = ()
    max_rows: int = 8
    max_batch: int = 64
    buckets: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    pad: Mapping[str, Any] = field(default_factory=dict)
    rows_apart: bool | None = None
    own_sessions: int = 64
    """Most own sessions that are open at a time."""
    calibrate: float = 1.0


def open_files(path: str | os.PathLike[str], options: Options | None = None) -> ServedFiles:
    """Open a merged file, or a bundle. Raises FileFault for files that do not open, and UsageFault for
    options that do not fit them."""
    options = options or Options()
    path = os.fspath(path)
    if bundles.is_bundle(path):
        return bundles.opened(path, lambda bundle: ServedFiles(bundle.merged_path, options, bundle))
    return ServedFiles(path, options)


class ServedFiles:
    """The Engine of a merged file, and of the models' own files where a bundle or the options name them.
    Without them every call is a merged one."""

    def __init__(self, path: str, options: Options, bundle: Bundle | None = None) -> None:
        paths = bundle.view_paths if bundle else options.sources
        self.own_sessions = bool(paths)
        setup = Setup(options.providers or (CPU,), libraries=options.libraries)
        self.threads, first = _threads(paths[0] if paths else path, setup, options)
        self.setup = setup.with_threads(self.threads.threads)
        merged = self._opened(path) if paths or first is None else first
        sizes = [view.shared + view.again for view in bundle.views] if bundle else None
        own = OwnSessions(paths, self._opened, options.own_sessions, sizes)
        if paths:
            own.put(0, first or self._opened(paths[0]))
        self.contract = Contract.read(
            merged, bundle, own=own.get(0) if paths else None, rows_apart=options.rows_apart,
            buckets=Buckets(options.buckets, options.pad), max_rows=options.max_batch,
        )  # fmt: skip
        self.models = self.contract.models
        if options.sources and not bundle:
            sources.check(paths, _digests(merged), self.models)
        self.rows_apart, self.slots = self.contract.apart, self.threads.workers
        self.check = self.contract.check
        self.packing = Packing(self.contract)
        self.calls: Calls = OnCpu(merged, own)
        self.costs: Costs = self._measured(options)

    def alone(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one model and one form in one call of the model's own session; in several, where
        its batch is fixed. Raises CallFailed."""
        if not self.own_sessions:
            return self.merged(requests)
        if len(requests) > 1 and not self.contract.batched:
            return [self.alone([request])[0] for request in requests]
        packed = self.packing.alone(requests)
        results, fresh = self.calls.alone(requests[0].model, packed)
        return packed.split(results, fresh=fresh)

    def merged(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one form in one merged call, several of a model where rows are apart. Raises
        CallFailed."""
        packed = self.packing.merged(requests)
        try:
            results, fresh = self.calls.merged(packed)
            outputs = packed.split(results, fresh=fresh)
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

    def close(self) -> None:
        """Release the sessions. A call that runs keeps its own until it ends."""
        self.calls.close()

    def _opened(self, path: str) -> Any:
        return open_session(path, self.setup)

    def _measured(self, options: Options) -> Costs:
        """Return the times of calls of made-up requests, or guesses where none runs."""
        io, count = cast(Io, self.contract.io), len(self.models)
        made_up = samples.MadeUp(self.contract, lambda request: self.alone([request]))
        if made_up.form is None:
            return unknown(io, count)

        def run_once(kind: Kind, form: Hashable, rows: Mapping[int, int]) -> object:
            requests = made_up.requests(rows)
            return self.alone(requests) if kind == "alone" else self.merged(requests)

        return timing.measured(
            run_once, [made_up.form], io, count, max_rows=options.max_rows, max_batch=options.max_batch,
            seconds=options.calibrate,
        )  # fmt: skip


def unknown(io: Io, models: int) -> MeasuredCosts:
    """Return costs of which nothing is known: a millisecond for each model, and less in a merged call."""
    own, each = 1e-3, 1e-3 * timing.GUESS
    merged = {models: models * each} if io == "selected" else {1: each if io == "index" else models * each}
    return MeasuredCosts(
        io, models, {(): FormTimes(io, models, Curve({1: own}), {1: Curve(merged)})}, size_of
    )


def _threads(path: str, setup: Setup, options: Options) -> tuple[Threads, Any]:
    """Return the threads of calls, and a session of `path` that has them, where one was opened."""
    chosen = threads.given(options.threads, options.workers)
    if setup.on_cuda:
        return chosen or Threads(ALL, 1), None
    if chosen is not None or options.calibrate <= 0:
        return chosen or Threads(ALL, 1), None

    def opened(count: int) -> Any:
        return open_session(path, setup.with_threads(count))

    feeds = samples.feeds_of(opened(1), options.buckets)
    if feeds is None:
        return Threads(ALL, 1), None
    return threads.measured(opened, lambda session: session.run(None, feeds), options.calibrate * PART)


def _digests(session: Any) -> list[str]:
    """Return the digests of the sources, in the order of the models."""
    return list(json.loads(session.get_modelmeta().custom_metadata_map[KEY])["sha256"])
