"""The requests of one generation that wait for a call, in the order of their arrival.

A queue has no lock of its own: whoever uses it holds the lock of its dispatcher.
"""

from __future__ import annotations

import heapq
from collections import Counter
from concurrent.futures import Future, InvalidStateError
from itertools import count
from typing import TYPE_CHECKING

from netfuse_onnx.runtime.errors import ServingError
from netfuse_onnx.runtime.moments import NEVER
from netfuse_onnx.runtime.schedule import Waiting
from netfuse_onnx.runtime.types import Call, Outputs, Request

if TYPE_CHECKING:
    from netfuse_onnx.runtime.dispatch import Dispatcher
    from netfuse_onnx.runtime.generation import Generation

SPARE = 64
"""Entries of answered requests that the heap of deadlines may hold beside as many as there are requests."""


class Answer(Future[Outputs]):
    """The future of a request in a queue: cancelled, the request leaves the queue at once.

    Once answered it holds the answer alone, so that the inputs of a request live no longer than its call.
    """

    _entry: tuple[Dispatcher, Generation, Request] | None = None

    @classmethod
    def to(cls, dispatcher: Dispatcher, generation: Generation, request: Request) -> Answer:
        """Return the future of a request in the queue of a generation."""
        answer = cls()
        answer._entry = (dispatcher, generation, request)
        return answer

    def cancel(self) -> bool:
        """Cancel the request. Returns False where it runs or has been answered."""
        cancelled = super().cancel()
        entry = self._entry
        if cancelled and entry is not None:
            dispatcher, generation, request = entry
            dispatcher.withdraw(generation, request)
        return cancelled

    def starts(self) -> bool:
        """Return True where the request is to run now: it was not cancelled, and no longer can be."""
        try:
            return self.set_running_or_notify_cancel()
        except (RuntimeError, InvalidStateError):  # its holder gave it a result: it is none of ours any more
            return False

    def leave(self) -> bool:
        """Let go of the request. Returns False where that was done before."""
        entry, self._entry = self._entry, None
        return entry is not None


def answered(outcome: Outputs | ServingError) -> Future[Outputs]:
    """Return the future of a request that has run."""
    future: Future[Outputs] = Future()
    if isinstance(outcome, ServingError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


class Queue:
    """The requests that wait, with their number by model, and with their deadlines."""

    def __init__(self) -> None:
        self.waiting = Waiting()
        self._of_model: Counter[int] = Counter()
        self._deadlines: list[tuple[float, int, Request]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self.waiting)

    def waiting_of(self, model: int) -> int:
        """Return how many requests of a model wait."""
        return self._of_model.get(model, 0)

    def add(self, request: Request) -> None:
        """Append a request."""
        self.waiting.add(request)
        self._of_model[request.model] += 1
        if request.deadline != NEVER:
            if len(self._deadlines) > 2 * len(self) + SPARE:
                self._forget_answered()
            heapq.heappush(self._deadlines, (request.deadline, next(self._order), request))

    def take(self, call: Call) -> list[Request]:
        """Remove and return the requests of a call, model after model, oldest first."""
        taken = self.waiting.take(call)
        for request in taken:
            self._of_model[request.model] -= 1
        return taken

    def withdraw(self, request: Request) -> bool:
        """Remove a request. Returns False where it does not wait any more."""
        waits = self.waiting.remove(request)
        if waits:
            self._of_model[request.model] -= 1
        return waits

    def next_deadline(self) -> float:
        """Return the earliest deadline of a request that waits, or of one that did."""
        return self._deadlines[0][0] if self._deadlines else NEVER

    def expired(self, now: float) -> list[Request]:
        """Remove and return the requests whose deadline has passed."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if self.withdraw(request):
                late.append(request)
        return late

    def clear(self) -> list[Request]:
        """Remove and return all requests."""
        every = list(self.waiting)
        self.waiting = Waiting()
        self._of_model.clear()
        self._deadlines.clear()
        return every

    def _forget_answered(self) -> None:
        """Rebuild the heap of deadlines from the requests that wait."""
        self._deadlines = [
            (request.deadline, next(self._order), request)
            for request in self.waiting
            if request.deadline != NEVER
        ]
        heapq.heapify(self._deadlines)


def waits_for(waiting: Waiting, call: Call) -> bool:
    """Return True where the requests of a call wait."""
    lines = waiting.lines.get(call.form, {})
    return bool(call.taken) and all(
        model in lines and 0 < number <= len(lines[model].requests) for model, number in call.taken
    )
