"""The heart of a session: who may enter, which call runs next, and who is told what.

One lock guards the queues, the counters and the guards; it is never held while ONNX Runtime runs, while
inputs are checked or while an answer is given. A *ticket* stands for a call that runs; it is an object in
the set of its generation, so that an interrupt between two lines never loses count. At most as many calls
run at a time as there are slots, by workers and by callers who found the session idle; `run_many` runs in
its caller's thread beside them.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Collection

from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.errors import Closed, QueueFull, ServingError
from netfuse_onnx.runtime.generation import Generation, Job
from netfuse_onnx.runtime.idle import Idle
from netfuse_onnx.runtime.isolation import Outcome, Performed
from netfuse_onnx.runtime.moments import NEVER, seconds_until
from netfuse_onnx.runtime.queue import Answer, Queue
from netfuse_onnx.runtime.schedule import Later, Limits, Load
from netfuse_onnx.runtime.slots import Slots
from netfuse_onnx.runtime.stats import Stats
from netfuse_onnx.runtime.types import Engine, Request


class Dispatcher:
    """The queues of a session, and the state that all its threads share."""

    def __init__(self, engine: Engine, limits: Limits, bounds: Bounds, slots: int | None = None) -> None:
        self.bounds = bounds
        self.stats = Stats()
        self.lock = threading.RLock()
        """Reentrant, because a session that is collected as garbage says so from any line of any thread."""
        self.idle = Idle(self.lock)
        self.emptied = threading.Condition(self.lock)
        self.current = Generation(1, engine, limits)
        self.old: list[Generation] = []
        self.waiting = 0
        self.closing = ""
        """The reason why nothing enters any more."""
        self.is_stopped = False
        self.is_forked = False
        self._limits = limits
        self._fixed_slots = slots
        self.slots = Slots(slots or max(1, engine.slots))

    # ----------------------------------------------------------------------- entry

    def start(self, generation: Generation, ticket: object, request: Request) -> bool:
        """Give a caller the slot of an idle session, in which it runs its request itself and then calls
        `finish`. False: the request must wait, or can't enter."""
        with self.lock:
            if self.closing or generation is not self.current or self.waiting or not self.slots.is_free:
                return False
            self.slots.arrived()
            wide = generation.engine.wide and generation.runs_wide(request, self._load(), self.stats)
            generation.running.add(ticket)
            self.slots.take(ticket, wide)
            return True

    def enqueue(self, generation: Generation, request: Request) -> Answer | None:
        """Let a request wait, and return its future. None: the generation is no longer the current one, which
        must check the request again."""
        with self.lock:
            self.refuse_if_closed()
            if generation is not self.current:
                return None
            own, models = generation.queue.waiting_of(request.model), generation.engine.models
            if reason := self.bounds.refuse(own, self.waiting, len(models)):
                raise self.refused(_full(models[request.model], reason))
            request.answer = answer = Answer.to(self, generation, request)
            try:
                generation.queue.add(request)
                self.waiting += 1
                self.slots.arrived()
                if self.slots.is_free:
                    self.idle.wake()
                else:
                    self.idle.wake_by(request.deadline)
                self.stats.accepted += 1
                return answer
            except BaseException:
                self._restore(generation, request)
                raise

    def refuse_if_closed(self) -> None:
        """Raise Closed where nothing enters any more."""
        if self.closing:
            raise self.refused(Closed(self.closing))

    def refused(self, error: ServingError) -> ServingError:
        """Count an error that keeps a request out, and return it."""
        with self.lock:
            self.stats.refused[error.kind] += 1
        return error

    # ----------------------------------------------------------------------- the next call

    def next_job(self) -> Job | None:
        """Wait for something to do. None: the worker's work is over."""
        with self.lock:
            while True:
                now = time.monotonic()
                job = self._late(now)
                due = NEVER
                if job is None and self.slots.is_free:
                    job, due = self._chosen(now)
                due = min(due, *(generation.queue.next_deadline() for generation in self._generations()))
                if job is not None:
                    if self.waiting and self.slots.is_free:
                        self.idle.wake()
                    self.idle.wake_by(due)
                    return job
                if self.is_stopped and not self.waiting:
                    self.idle.wake_all()  # so that the others end as well
                    return None
                self.idle.wait(due)

    def _late(self, now: float) -> Job | None:
        """Return the requests of a generation whose time to start has passed."""
        for generation in self._generations():
            if generation.queue.next_deadline() > now:
                continue
            expired = generation.queue.expired(now)
            self.waiting -= len(expired)
            late = [r for r in expired if r.answer is not None and r.answer.starts()]
            if late:
                self.stats.ended["timed_out"] += len(late)
                generation.running.add(late[0])
                return Job(generation, None, late, is_counted=True)
        return None

    def _chosen(self, now: float) -> tuple[Job | None, float]:
        """Return a call whose requests have left the queue, or else the time at which to look again."""
        later = NEVER
        for generation in self._generations():
            while len(generation.queue):
                ends = self.is_stopped or generation.is_retired  # nothing else arrives: nothing to wait for
                limits = generation.at_once if ends else generation.limits
                call = generation.next_call(generation.queue.waiting, now, limits, self._load(), self.stats)
                if isinstance(call, Later):
                    later = min(later, call.at)
                    break
                taken = generation.queue.take(call)
                self.waiting -= len(taken)
                runs = [r for r in taken if r.answer is not None and r.answer.starts()]
                if runs:
                    generation.running.add(runs[0])
                    self.slots.take(runs[0], call.wide)
                    return Job(generation, call, runs), NEVER
        return None, later

    # ----------------------------------------------------------------------- the end of a call

    def finish(self, generation: Generation, ticket: object, *, looks: bool = False) -> None:
        """Give back the slot of a call, and close a generation that the last request leaves. With `looks`,
        the thread goes on to look for the next call itself, so that no other need be woken."""
        with self.lock:
            self.slots.discard(ticket)
            if self.waiting and not looks:
                self.idle.wake()
            ends = self._left(generation, ticket)
        if ends:
            generation.engine.close()

    def finish_one(
        self,
        generation: Generation,
        ticket: object,
        request: Request,
        outcome: Outcome,
        seconds: float,
        wide: bool,
    ) -> None:
        """Do what `finish` does, for a call of one request by itself."""
        with self.lock:
            try:
                generation.settle_one(self.stats, request, outcome, seconds, enters=True, wide=wide)
            finally:
                self.slots.discard(ticket)
                if self.waiting:
                    self.idle.wake()
                ends = self._left(generation, ticket)
        if ends:
            generation.engine.close()

    def settle_one(
        self, generation: Generation, request: Request, outcome: Outcome, seconds: float, wide: bool
    ) -> None:
        """Count a call of one request by itself, which was accepted when it came."""
        with self.lock:
            generation.settle_one(self.stats, request, outcome, seconds, enters=False, wide=wide)

    def settle(self, generation: Generation, done: Performed, *, enters: bool = False) -> None:
        """Count a call that ran; with `enters`, also that its requests were accepted, which is not said when
        their callers come who run them: an interrupted call then counts as none."""
        with self.lock:
            generation.settle(self.stats, done, enters=enters)

    def count_failed(self, requests: int) -> None:
        """Count requests that failed because of a mistake of ours."""
        with self.lock:
            self.stats.ended["failed"] += requests

    def withdraw(self, generation: Generation, request: Request) -> None:
        """Take a request that its caller cancelled out of the queue."""
        with self.lock:
            try:
                if generation.queue.withdraw(request):
                    self.waiting -= 1
            except BaseException:
                self._restore(generation, request)
                raise
            finally:
                if request.answer is not None and request.answer.leave():
                    self.stats.ended["cancelled"] += 1
                ends = self._emptied(generation)
        if ends:
            generation.engine.close()

    def _restore(self, generation: Generation, without: Request) -> None:
        """Bring the queue in order again, without one request, after an interrupt somewhere in it."""
        generation.queue.restore(without)
        self.waiting = sum(len(generation.queue) for generation in self._generations())

    def _left(self, generation: Generation, ticket: object) -> bool:
        """Return True where the caller is the last to leave a generation, and so closes it."""
        generation.running.discard(ticket)
        return (generation.is_retired or bool(self.closing)) and self._emptied(generation)

    def _emptied(self, generation: Generation) -> bool:
        """Return True where a retired generation is to be closed, by whoever asked."""
        if not generation.is_empty:
            return False
        self.emptied.notify_all()
        if generation.is_closed or not generation.is_retired:
            return False
        generation.is_closed = True
        if generation in self.old:
            self.old.remove(generation)
        return True

    # ----------------------------------------------------------------------- generations

    @property
    def running(self) -> int:
        """Calls that run now, and callers that run some beside the queue."""
        return sum(len(generation.running) for generation in self._generations())

    def kept_out(self, generation: Generation, now: float) -> Collection[int]:
        """Return the models of a generation that take no part in merged calls now."""
        if generation.guard.is_calm:
            return ()
        with self.lock:
            return tuple(generation.guard.kept_out(now))

    def replace(self, engine: Engine) -> int:
        """Let new requests enter a new engine. The old one is closed once its last request leaves."""
        with self.lock:
            self.refuse_if_closed()
            before = self.current
            self.current = Generation(before.number + 1, engine, self._limits)
            self.old.append(before)
            before.is_retired = True
            before.count_together(self.stats)
            self.stats.swaps += 1
            self.slots.count = self._fixed_slots or max(1, engine.slots)
            self.idle.wake_all()
            ends = self._emptied(before)
        if ends:
            before.engine.close()
        return self.current.number

    # ----------------------------------------------------------------------- closing

    def shut(self, reason: str) -> None:
        """Let nothing enter any more. What waits still runs, and then the workers end."""
        with self.lock:
            self.closing = self.closing or reason
            self.is_stopped = True
            self.idle.wake_all()

    def abandon(self) -> None:
        """Shut, because nobody holds the session any more."""
        self.shut("The session is gone: nobody held it any more.")

    def wait_until_empty(self, until: float) -> bool:
        """Wait until no request is inside, at most until a time of time.monotonic(). False: there still
        is."""
        with self.lock:
            while not all(generation.is_empty for generation in self._generations()):
                if time.monotonic() >= until:
                    return False
                self.emptied.wait(seconds_until(until))
            return True

    def clear(self, end: str = "dropped") -> list[Request]:
        """Take all requests out of the queues, and return those that nobody has cancelled."""
        with self.lock:
            taken = [r for generation in self._generations() for r in generation.queue.clear()]
            self.waiting = 0
            rest = [r for r in taken if r.answer is not None and r.answer.starts()]
            self.stats.ended[end] += len(rest)
            self.emptied.notify_all()
            return rest

    def retire(self) -> None:
        """Close each engine as soon as its last call ends: at once where none runs."""
        with self.lock:
            every = self._generations()
            for generation in every:
                generation.is_retired = True
            ends = [generation for generation in every if self._emptied(generation)]
        for generation in ends:
            generation.engine.close()

    def after_fork(self) -> None:
        """Forget, in the child of a fork, everything that the threads of the parent do: they are not here.

        ONNX Runtime's threads are not here either, so that a call, and even the end of a session of theirs,
        would wait for them for ever: nothing of them is released.
        """
        self.lock = threading.RLock()
        self.idle, self.emptied = Idle(self.lock), threading.Condition(self.lock)
        self.closing = "The session was opened before this process was forked off. Open one in each process."
        self.is_stopped, self.is_forked = True, True
        self.waiting = 0
        self.slots = Slots(self.slots.count)
        for generation in self._generations():
            generation.queue, generation.running, generation.is_closed = Queue(), set(), True
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(generation.engine))

    def _load(self) -> Load:
        return Load(self.slots.count, self.slots.busy, self.slots.rate.per_busy_second)

    def _generations(self) -> tuple[Generation, ...]:
        return (*self.old, self.current)


def _full(model: str, reason: str) -> QueueFull:
    """Return the error of a request for which there is no room."""
    hint = "Try again later, or open the session with larger queues."
    return QueueFull(f"Model {model!r}: {reason}.", hint, model=model)
