"""The threads of a session. They start with the first request that waits, and end when the session is closed.

There is one more than calls may run: it looks after deadlines while all others are in ONNX Runtime.
"""

from __future__ import annotations

import threading

from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import CallFailed, Closed, ServingError
from netfuse_onnx.runtime.generation import Job
from netfuse_onnx.runtime.isolation import Outcome, late, perform, perform_one
from netfuse_onnx.runtime.moments import seconds_until
from netfuse_onnx.runtime.types import Request


class Workers:
    """The threads that take calls from a dispatcher. They do not keep the session alive."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self.threads: list[threading.Thread] = []

    def ensure(self) -> None:
        """Start the threads that are missing. RuntimeError where there are none and none can be started."""
        wanted = self._dispatcher.slots.count + 1
        if len(self.threads) >= wanted:
            return
        with self._lock:
            while len(self.threads) < wanted:
                thread = threading.Thread(
                    target=work, args=(self._dispatcher,), name=f"netfuse-{len(self.threads)}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:
                    if self.threads:
                        return
                    raise
                self.threads.append(thread)

    @property
    def alive(self) -> int:
        """Threads that have not ended."""
        return sum(thread.is_alive() for thread in self.threads)

    @property
    def are_current(self) -> bool:
        """True where the thread that asks is one of these."""
        return threading.current_thread() in self.threads

    def join(self, until: float) -> None:
        """Wait for the end of all threads, at most until a time of time.monotonic()."""
        for thread in [*self.threads]:
            if thread is not threading.current_thread():
                thread.join(seconds_until(until))

    def after_fork(self) -> None:
        """Forget, in the child of a fork, the threads of the parent."""
        self._lock = threading.Lock()
        self.threads = []


def work(dispatcher: Dispatcher) -> None:
    """Take one job after the other, until the session is closed and nothing waits."""
    while _one_job(dispatcher):
        pass  # a function of its own, so that nothing of the last job is kept while waiting


def _one_job(dispatcher: Dispatcher) -> bool:
    try:
        job = dispatcher.next_job()
    except Exception as fault:  # a mistake of ours: nobody may wait for ever because of it
        for request in dispatcher.clear("failed"):
            answer(request, _ours(fault))
        return True
    if job is None:
        return False
    try:
        _do(dispatcher, job)
    except BaseException as fault:  # a mistake of ours, or SystemExit: its requests fail, the worker lives
        if not job.is_counted:
            dispatcher.count_failed(len(job.requests))
        for request in job.requests:
            answer(request, _ours(fault))
    finally:
        dispatcher.finish(job.generation, job.requests[0], looks=True)
    return True


def _do(dispatcher: Dispatcher, job: Job) -> None:
    if job.call is None:
        for request in job.requests:
            answer(
                request, late(job.generation.engine.models[request.model], request.deadline - request.arrived)
            )
        return
    must = job.generation.must_open(job.requests[0].model)
    if job.call.kind == "alone" and len(job.requests) == 1:
        (request,) = job.requests
        found = perform_one(job.generation.engine, request, job.call.wide, must=must)
        if found is not None:
            outcome, seconds = found
            job.is_counted = True
            dispatcher.settle_one(job.generation, request, outcome, seconds, job.call.wide)
            answer(request, outcome)
            return
        done = perform(job.generation.engine, "merged", job.requests)
    else:
        done = perform(job.generation.engine, job.call.kind, job.requests, job.call.wide, must=must)
    job.is_counted = True
    dispatcher.settle(job.generation, done)
    for request, outcome in zip(done.requests, done.outcomes, strict=True):
        answer(request, outcome)


def answer(request: Request, outcome: Outcome) -> None:
    """Give a request its outcome, once. Callbacks of the future run here; their errors end here, too."""
    future = request.answer
    if future is None:
        return
    request.answer = None
    future.leave()
    try:
        if isinstance(outcome, ServingError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except BaseException:
        if not future.done():
            raise


def drop(requests: list[Request], reason: str) -> None:
    """Tell requests that were taken out of the queue that the session was closed."""
    for request in requests:
        answer(request, Closed(reason))


def _ours(fault: BaseException) -> CallFailed:
    error = CallFailed(
        f"Serving failed: {type(fault).__name__}: {fault}.", "This is a bug, please report it."
    )
    error.__cause__ = fault
    return error
