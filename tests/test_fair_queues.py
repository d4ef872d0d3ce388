"""Each model has a kept share of the queue, accepted requests are never dropped, and the queue has an end.

The dispatcher is driven without threads: requests enter, calls are taken and finished, callers cancel.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from itertools import product
from typing import Any

import pytest
from fake_engine import PATIENCE, FakeEngine, Gate, behind, feeds, right, serving
from hypothesis import example, given
from hypothesis import strategies as st

from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.dispatch import Dispatcher
from netfuse_onnx.runtime.errors import QueueFull
from netfuse_onnx.runtime.schedule import Limits

TAKE, CANCEL, SWAP = -1, -2, -3
"""Steps of a history beside the arrival of a request, which is the number of its model."""


class History:
    """A dispatcher, and what is known of the requests that wait in it."""

    def __init__(self, models: int, bounds: Bounds) -> None:
        self.engine = FakeEngine([f"m{k}" for k in range(models)])
        self.dispatcher = Dispatcher(self.engine, Limits(max_rows=1, max_batch=1), bounds, 1)
        self.bounds, self.models = bounds, models
        self.waiting: dict[Future[Any], tuple[int, int]] = {}
        """The generation and model of each request that waits, by its future."""
        self.ended = self.accepted = 0

    @property
    def generation(self) -> int:
        return self.dispatcher.current.number

    @property
    def most(self) -> int:
        """The bound of all requests that wait, with a share for the models of each old generation."""
        n, share = self.models, max(1, self.bounds.max_queue // self.models)
        return self.bounds.max_queue + (n - 1) * share + n * share * len(self.dispatcher.old)

    def step(self, step: int) -> None:
        """Do one step, and compare the queue with what must wait in it."""
        if step >= 0:
            self.arrive(step % self.models)
        elif step == SWAP:
            self.dispatcher.replace(FakeEngine(self.engine.models))
        elif step == CANCEL and self.waiting:
            answer = next(iter(self.waiting))
            assert answer.cancel()
            del self.waiting[answer]
        elif self.waiting:
            self.take()
        assert self.dispatcher.waiting == len(self.waiting) <= self.most

    def arrive(self, model: int) -> None:
        """A request comes: it is refused where its model may have no more, or has its share in a full queue."""
        dispatcher, bounds = self.dispatcher, self.bounds
        own = Counter(self.waiting.values())[self.generation, model]
        is_full = len(self.waiting) >= bounds.max_queue
        has_share = own >= max(1, bounds.max_queue // self.models)
        request = self.engine.check(f"m{model}", feeds(1))
        if own >= bounds.max_queue_per_model or (is_full and has_share):
            with pytest.raises(QueueFull, match=rf"'m{model}': .*\b{own} ") as refused:
                dispatcher.enqueue(dispatcher.current, request)
            assert refused.value.model == f"m{model}"
            return
        answer = dispatcher.enqueue(dispatcher.current, request)
        assert answer is not None
        self.waiting[answer] = (self.generation, model)
        self.accepted += 1

    def take(self) -> None:
        """A worker takes the next call, and ends it."""
        job = self.dispatcher.next_job()
        assert job is not None
        for request in job.requests:
            assert request.answer is not None
            assert self.waiting.pop(request.answer)[1] == request.model
            request.answer.set_result({})
        self.ended += len(job.requests)
        self.dispatcher.finish(job.generation, job.requests[0])


@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(st.integers(SWAP, 5), max_size=60),
)
@example(6, 4, 9, [0] * 9 + [1, 2, 3, 4, 5] * 2)
@example(2, 8, 9, [0] * 9 + [1] * 9 + [SWAP] + [0] * 9 + [1] * 9)
def test_a_request_is_refused_only_where_its_model_has_its_share(
    models: int, max_queue: int, per_model: int, steps: list[int]
) -> None:
    history = History(models, Bounds(max_queue, per_model))
    for step in steps:
        history.step(step)
    while history.waiting:
        history.step(TAKE)
    assert history.dispatcher.waiting == 0


def test_no_order_of_arrivals_passes_the_bound() -> None:
    """All histories of five steps of three models, from a queue that one of them has filled."""
    highest = 0
    for steps in product((0, 1, 2, TAKE), repeat=5):
        history = History(3, Bounds(4, 9))
        for step in (0,) * 4 + steps:
            history.step(step)
            highest = max(highest, len(history.waiting))
    assert highest == 4 + (3 - 1) * 1, "the bound is the least one"


@pytest.mark.parametrize(
    ("models", "max_queue", "share", "most"),
    [(1, 1024, 1024, 1024), (8, 1024, 128, 1024 + 7 * 128), (1000, 1024, 1, 2023), (3000, 1024, 1, 4023)],
)
def test_the_share_of_each_model_is_there_when_the_hottest_came_first(
    models: int, max_queue: int, share: int, most: int
) -> None:
    """The first models ask for all that they can get; then each of the others has its share, and no more."""
    history = History(models, Bounds(max_queue, max_queue))
    dispatcher, engine = history.dispatcher, history.engine

    def enters(model: int) -> bool:
        try:
            return dispatcher.enqueue(dispatcher.current, engine.check(f"m{model}", feeds(1))) is not None
        except QueueFull:
            return False

    assert sum(enters(0) for _ in range(2 * max_queue)) == max_queue
    for model in range(1, models):
        assert [enters(model) for _ in range(share + 1)] == [True] * share + [False]
    assert dispatcher.waiting == most == history.most


def test_a_quiet_model_enters_a_queue_that_others_fill(gate: Gate) -> None:
    """It is answered, and so is everybody who was there before."""
    engine = FakeEngine(hook=gate)
    with serving(engine, max_queue=6, max_queue_per_model=3, max_batch=1, max_rows=1) as session:
        answers = behind(gate, session, [(model, k) for k in range(3) for model in "bc"])
        with pytest.raises(QueueFull, match=r"'b': 3 requests of this model"):
            session.submit("b", feeds(3))
        quiet = session.submit("d", feeds(7))
        with pytest.raises(QueueFull, match=r"'d': 7 requests wait already.*share is 1"):
            session.submit("d", feeds(8))
        gate.open.set()
        assert right(engine, "d", 7, quiet.result(PATIENCE))
        assert all(answer.result(PATIENCE) for answer in answers)
