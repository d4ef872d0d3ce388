"""Serves requests by an engine: everything of a session but the way in which its files are opened."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, cast

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.cost_table import CostTable, cost_table
from netfuse_onnx.runtime.direct import inside, run_directly
from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.generation import Generation
from netfuse_onnx.runtime.isolation import Outcome, perform, perform_one
from netfuse_onnx.runtime.moments import NEVER
from netfuse_onnx.runtime.prepared import Prepared
from netfuse_onnx.runtime.queue import Answer, answered, is_in_callback
from netfuse_onnx.runtime.reduced import Reduces, check, reduced
from netfuse_onnx.runtime.schedule import Limits
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.state import state
from netfuse_onnx.runtime.stats import exposition, samples
from netfuse_onnx.runtime.types import Engine, Feeds, Outputs, Request
from netfuse_onnx.runtime.workers import Workers, drop

Path = str | os.PathLike[str]
Open = Callable[[Path], Engine]
"""Opens the files of a path, and measures what calls cost."""
AT_EXIT = 5.0
"""Most seconds that the end of the process waits for calls that run."""
CLOSED = "The session is closed."


class Serving:
    """Takes requests for single models from any thread, and runs them in calls of an engine.

    A request is checked at once, in the thread that brings it: UnknownModel, BadInput and TooLarge are
    raised there, and so are QueueFull and Closed. `timeout` is the number of seconds in which a request
    must start: after them it leaves the queue with Timeout, before it cost anything. A call that has
    started is waited for.
    """

    in_loop = False
    """`submit` is called by the event loop of a server: it then runs somewhat longer calls there at once."""

    def __init__(
        self,
        open: Open,
        path: Path,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        *,
        workers: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self._open = open
        self._timeout = timeout
        self._dispatcher = Dispatcher(open(path), limits or Limits(), bounds or Bounds(), workers)
        self._workers = Workers(self._dispatcher)
        self._swaps = threading.Lock()
        weakref.finalize(self, self._dispatcher.abandon).atexit = False
        _OPEN.add(self)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that new requests may ask for, in the order of the merge."""
        return self._dispatcher.current.engine.models

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model, as servers tell them. Raises UnknownModel."""
        return self._dispatcher.current.engine.signature(model)

    @property
    def is_closed(self) -> bool:
        """True once nothing may enter any more."""
        return bool(self._dispatcher.closing)

    def __repr__(self) -> str:
        end = ", closed" if self.is_closed else ""
        return f"<{type(self).__name__} of {len(self.models)} models{end}>"

    # ----------------------------------------------------------------------- requests

    def run(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model for its inputs, both by the names of its own file.

        On an idle session the call runs in the caller's thread. Raises CallFailed with ONNX Runtime's
        sentence where the request itself can't run.
        """
        dispatcher = self._dispatcher
        while True:
            generation = dispatcher.current
            request = self._checked(generation, model, feeds, timeout)
            outcome = self._run_here(generation, request)
            if isinstance(outcome, ServingError):
                raise outcome
            if outcome is not None:
                return outcome
            if self._workers.are_current:  # a callback, whose worker can't wait for itself
                (outputs,) = self.run_many([(model, feeds)], timeout=timeout)
                return cast(Outputs, outputs)
            answer = dispatcher.enqueue(generation, request)
            if answer is not None:
                return self._wait_for(answer)

    def submit(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Future[Outputs]:
        """Return the future of a model's outputs. Cancelled before it runs, a request leaves the queue.

        The inputs are copied, so that the caller may write to its arrays at once. On an idle session, a call
        that takes less time than to hand it over runs at once, in the caller's thread.
        Callbacks of the future run in a worker of the session, which takes no call meanwhile, or at once
        where the request has run: they should be short, and may call `run` and `submit`, but not wait for a
        future of this session.
        """
        dispatcher = self._dispatcher
        while True:
            generation = dispatcher.current
            request = self._checked(generation, model, feeds, timeout, copy=True)
            rested = dispatcher.slots.rested
            quick = not dispatcher.waiting and generation.is_quick(request, rested, self.in_loop)
            outcome = self._run_here(generation, request) if quick and not is_in_callback() else None
            if outcome is not None:
                return answered(outcome)
            answer = dispatcher.enqueue(generation, request)
            if answer is not None:
                self._look_after(answer)
                return answer

    async def arun(self, model: str, feeds: Feeds, *, timeout: float | None = None) -> Outputs:
        """Return the outputs of a model without blocking the event loop. No thread is held while it waits,
        and a task that is cancelled cancels its request."""
        return await asyncio.wrap_future(self.submit(model, feeds, timeout=timeout))

    def run_many(
        self,
        requests: Iterable[tuple[str, Feeds]],
        *,
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Return the outputs of many (model, feeds), in order, run in the caller's thread without a queue.

        The scheduler chooses the calls: merged ones, and batches on own sessions. Where requests fail, the
        first error is raised, that of a check before anything runs and any other after all have run. With
        `return_errors`, errors stand in the places of the outputs, and nothing is raised.
        """
        return run_directly(self._dispatcher, requests, self._seconds(timeout), return_errors)

    def run_all(self, feeds: Feeds, *, reduce: Reduces | None = None, timeout: float | None = None) -> Any:
        """Return what all models make of the same inputs, which have the names of the first model's file.

        Without `reduce` that is {model: outputs}. Else it is one dictionary by the names of the first model's
        outputs: "mean" gives the mean of floating-point numbers, and "sum" their sum or that of int32 and
        int64, which wrap around; "vote" gives of scores `[.., classes]` the label `[..]`, int64, that most
        models rank first, and of labels (whole numbers, truth values, strings) the most frequent one; of
        several the smallest. {name: word} gives these outputs alone. Raises UsageFault for an output that has
        no such combination.
        """
        if reduce is not None:
            check(reduce)
        asked: list[tuple[str, Feeds]] = []

        def everyone(engine: Engine) -> list[tuple[str, Feeds]]:
            asked[:] = engine.everyone(feeds)
            return asked

        every = run_directly(self._dispatcher, everyone, self._seconds(timeout), False)
        if reduce is None:
            return dict(zip([model for model, _ in asked], every, strict=True))
        return reduced(reduce, every)

    # ----------------------------------------------------------------------- files, figures, the end

    def warm_up(self, models: Iterable[str] | None = None) -> int:
        """Open the own sessions of models now, by default of as many as are kept open together, so that no
        request waits for that; return how many are open. It ends early where the session is closed or
        swapped meanwhile. Raises UnknownModel, and FileFault for a file that does not open."""
        dispatcher, chosen = self._dispatcher, None if models is None else list(models)

        def opened(generation: Generation) -> int:
            return generation.engine.warm_up(chosen, lambda: generation.is_retired or self.is_closed)

        return inside(dispatcher, opened)

    def swap(self, path: Path) -> int:
        """Serve other files from now on, and return the number of their generation.

        They are opened and measured while the old ones serve, which they go on doing where this fails. Each
        request ends on the generation that it entered; old files are closed when its last one leaves. New
        files may have other models.
        """
        with self._swaps:
            return self.prepare(path).serve()

    def prepare(self, path: Path) -> Prepared:
        """Open and measure other files, and serve them later: `swap` in two steps, for who must look at the
        files or know the moment."""
        self._dispatcher.refuse_if_closed()
        return Prepared(self._dispatcher, self._open(path))

    def stats(self) -> dict[str, Any]:
        """Return the counters of all generations, and the state of now, as numbers in dictionaries."""
        return state(self._dispatcher, self._workers.alive)

    def cost_table(self) -> CostTable:
        """Return the times of calls, as the session knows them now, and from how many waiting models on it
        merges."""
        current = self._dispatcher.current
        engine = current.engine
        return cost_table(
            engine.costs, engine.costs.forms()[0], current.limits, models=len(engine.models),
            workers=self._dispatcher.slots.count, threads=int(engine.told().get("threads_per_call", 0)),
        )  # fmt: skip

    def metrics(self) -> dict[str, float]:
        """Return `stats()` as {name with labels: value}, in the notation of Prometheus."""
        return samples(self.stats())

    def prometheus(self) -> str:
        """Return `stats()` in the text format that Prometheus reads."""
        return exposition(self.metrics())

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests, and end. May be called again, and from any thread.

        With `drain`, requests that wait still run; else, and after `timeout` seconds, they end in Closed.
        Calls that run are waited for, `timeout` seconds at most; their files are closed when they end. In a
        callback of a future nothing is waited for.
        """
        until = NEVER if timeout is None else time.monotonic() + timeout
        dispatcher, workers = self._dispatcher, self._workers
        dispatcher.shut(CLOSED)
        if not drain:
            drop(dispatcher.clear(), CLOSED)
        elif dispatcher.waiting:
            workers.ensure()
        if workers.are_current:  # a callback, which can't wait for itself, nor for one that waits for it
            dispatcher.retire()
            return
        dispatcher.wait_until_empty(until)
        drop(dispatcher.clear(), CLOSED)
        dispatcher.retire()
        workers.join(until)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close: what waits still runs, unless an error ends the block."""
        self.close(drain=error is None)

    # ----------------------------------------------------------------------- steps of a request

    def _checked(
        self, generation: Generation, model: str, feeds: Feeds, timeout: float | None, copy: bool = False
    ) -> Request:
        arrived = time.monotonic()
        try:
            request = generation.engine.check(model, feeds, copy=copy)
        except ServingError as error:
            self._dispatcher.refused(error)
            raise
        request.arrived = arrived
        request.deadline = arrived + self._seconds(timeout)
        return request

    def _seconds(self, timeout: float | None) -> float:
        """Return the seconds in which a request must start, by its caller's word or the session's."""
        seconds = self._timeout if timeout is None else timeout
        if seconds is None:
            return NEVER
        if not seconds >= 0:
            raise UsageFault(f"A timeout is a number of seconds from 0, not {seconds}.")
        return seconds

    def _run_here(self, generation: Generation, request: Request) -> Outcome | None:
        """Run a request in the caller's thread, if the session is idle, and return its outcome; None where
        it is not, or the generation is no longer the current one."""
        dispatcher, ticket = self._dispatcher, object()
        try:
            if not dispatcher.start(generation, ticket, request):
                return None
            wide = dispatcher.slots.is_wide(ticket)
            must = generation.must_open(request.model)
            found = perform_one(generation.engine, request, wide, must=must)
            if found is not None:
                dispatcher.finish_one(generation, ticket, request, *found, wide)
                return found[0]
            done = perform(generation.engine, "merged", (request,))
            dispatcher.settle(generation, done, enters=True)
            dispatcher.finish(generation, ticket)
            return done.outcomes[0]
        finally:
            if ticket in generation.running:  # interrupted
                dispatcher.slots.discard(ticket)  # before any call of ours, where another could come
                generation.running.discard(ticket)
                dispatcher.finish(generation, ticket)

    def _look_after(self, answer: Answer) -> None:
        """See to it that there are threads for the queue. RuntimeError where none can be started."""
        try:
            self._workers.ensure()
        except RuntimeError:
            answer.cancel()
            raise

    def _wait_for(self, answer: Answer) -> Outputs:
        self._look_after(answer)
        try:
            return answer.result()
        except BaseException:  # an interrupt: nobody wants the answer any more
            answer.cancel()
            raise


_OPEN: weakref.WeakSet[Serving] = weakref.WeakSet()


def _at_exit() -> None:
    """End all sessions before Python takes itself apart: what waits is dropped, what runs is waited for."""
    for session in list(_OPEN):
        session.close(drain=False, timeout=AT_EXIT)


def _after_fork() -> None:
    for session in list(_OPEN):
        session._dispatcher.after_fork()
        session._workers.after_fork()
        session._swaps = threading.Lock()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
