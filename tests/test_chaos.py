"""A session under mixed load, all ways in at once: each request ends in its own outcome and no other.

Requests and their right outcomes come from `bench/mixed.py`. The threads switch a thousand times as often as
usual, so that orders come up that are rare; a deadlock prints the stacks of all threads. Few seconds are enough
to find what is broken; the `slow` one sends a hundred times as many, for what is rare.
"""

from __future__ import annotations

import faulthandler
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from fake_engine import FakeEngine, feeds, serving

import netfuse_onnx
from bench import mixed
from bench.mixed import Mixed
from netfuse_onnx import MergedSession
from netfuse_onnx.runtime.errors import Closed, QueueFull
from sample_models.networks import SIZES, encoder

MODELS, STUCK = 4, 100.0
ALL_WAYS = ("run", "run", "submit", "asyncio", "run_many")
Open = Callable[..., MergedSession]


@pytest.fixture(autouse=True)
def frantic() -> Iterator[None]:
    """Switches threads every microsecond, and tells where they stand if a test does not end."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    faulthandler.dump_traceback_later(STUCK, exit=False)
    yield
    faulthandler.cancel_dump_traceback_later()
    sys.setswitchinterval(before)


class Files:
    """Bundles of two generations of one family, whose answers differ."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = [mixed.family(folder / f"g{g}", MODELS, g) for g in (0, 1)]

    def bundle(self, generation: int = 0, io: str = "stacked") -> str:
        out = self.folder / f"bundle-{generation}-{io}"
        if not out.exists():
            netfuse_onnx.merge(self.sources[generation], str(out), io=io, views=True, verify=False)
        return str(out)

    def open(self, io: str = "stacked") -> MergedSession:
        return MergedSession(self.bundle(0, io))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("chaos"))


def no_faults(load: Mixed) -> None:
    assert not load.faults, f"{len(load.faults)} faults, such as {load.faults[:5]}"


def accounts_balance(session: MergedSession) -> None:
    """All that was accepted has ended, in one way each, and the scheduler has chosen each call."""
    told = session.stats()
    requests = told["requests"]
    ends = ("answered", "failed", "timed_out", "cancelled", "dropped")
    assert requests["accepted"] == sum(requests[end] for end in ends)
    assert not any(told["queue"].values()) and not told["scheduler_faults"]


# ------------------------------------------------------------------------ mixed and poisoned


@pytest.mark.parametrize(("io", "count"), [("stacked", 10_000), ("separate", 2_000), ("routed", 2_000)])
def test_each_of_ten_thousand_requests_has_its_own_outcome(files: Files, io: str, count: int) -> None:
    load = Mixed(files.sources[:1])
    with files.open(io) as session:
        mixed.send(session, load, ALL_WAYS, count)
        told = session.stats()
    accounts_balance(session)
    no_faults(load)
    assert load.outcomes.keys() == {"innocent", *mixed.POISONS}
    assert load.outcomes.total() >= count
    assert told["calls"]["merged"] and told["calls"]["alone"] and told["retries"]


@pytest.mark.parametrize("io", ["stacked", "separate", "routed"])
def test_a_file_without_own_sessions_answers_by_merged_calls_alone(files: Files, io: str) -> None:
    """A request that fails must not stay in the buffers of the calls after it."""
    load = Mixed(files.sources[:1], poisoned=0.1)
    (merged,) = Path(files.bundle(0, io)).glob("merged-*.onnx")
    with MergedSession(merged, rows_apart=True) as session:
        mixed.send(session, load, ALL_WAYS, 2_000)
        told = session.stats()
    no_faults(load)
    accounts_balance(session)
    assert told["calls"]["merged"] and told["retries"]


@pytest.mark.parametrize("own_sessions", [True, False])
def test_texts_of_mixed_lengths_are_padded_to_buckets(tmp_path: Path, own_sessions: bool) -> None:
    """Texts of 1 to 29 tokens share calls, and each has the answer of its model without padding."""
    paths = [tmp_path / f"e{seed}.onnx" for seed in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(encoder(SIZES["tiny"], seed).SerializeToString())
    bundle = tmp_path / "bundle"
    netfuse_onnx.merge([*map(str, paths)], str(bundle), io="stacked", views=True, verify=False)
    opened: dict[str, Any] = {"buckets": {"sequence": 8}}
    if not own_sessions:
        (bundle,), opened["rows_apart"] = bundle.glob("merged-*.onnx"), True
    rng, sent = np.random.default_rng(0), []
    with MergedSession(bundle, **opened) as session:
        for number in range(200):
            rows, length = int(rng.integers(1, 4)), int(rng.integers(1, 30))
            mask = (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.int64)
            text = {"input_ids": rng.integers(0, 99, (rows, length)), "attention_mask": mask}
            sent.append((number % 3, text, session.submit(f"e{number % 3}", text)))
        answers = [future.result(timeout=STUCK) for _, _, future in sent]
    accounts_balance(session)
    assert own_sessions or session.stats()["calls"]["merged"]
    own = [ort.InferenceSession(str(path)) for path in paths]
    for (model, text, _), answer in zip(sent, answers, strict=True):
        (want,) = own[model].run(None, text)
        np.testing.assert_allclose(answer["logits"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # minutes: a million requests, for orders that come up once in a hundred thousand
def test_a_million_mixed_requests(files: Files) -> None:
    load = Mixed(files.sources[:1])
    with files.open() as session:
        mixed.send(session, load, ALL_WAYS, 1_000_000)
    accounts_balance(session)
    no_faults(load)


def test_requests_of_which_half_are_poisoned(files: Files) -> None:
    """Repeat offenders are kept out of merged calls, and the innocent still get their answers."""
    load = Mixed(files.sources[:1], poisoned=0.5)
    with files.open() as session:
        mixed.send(session, load, ALL_WAYS, 2_000)
    accounts_balance(session)
    no_faults(load)


@pytest.mark.parametrize("poison", mixed.POISONS)
def test_a_burst_in_which_one_request_is_poisoned(files: Files, poison: str) -> None:
    """Each of the others, which wait for the same call, has its answer."""
    load, rng = Mixed(files.sources[:1], poisoned=0.0), random.Random(0)
    with files.open() as session:
        for place in range(MODELS):
            asks = [load.draw(rng) for _ in range(4 * MODELS)]
            asks[place] = mixed.spoilt(asks[place], poison, rng)
            for ask, outcome in mixed.answered(session, asks):
                load.judge(ask, outcome)
    accounts_balance(session)
    no_faults(load)
    assert load.outcomes == {poison: MODELS, "innocent": MODELS * (4 * MODELS - 1)}


# ------------------------------------------------------------------------ swap


def test_each_request_is_answered_by_one_generation_while_files_are_swapped(files: Files) -> None:
    load, rng = Mixed(files.sources), random.Random(0)
    session = files.open()
    files.bundle(1)  # before there is load
    sender = threading.Thread(target=mixed.send, args=(session, load, ALL_WAYS, 4_000), daemon=True)
    with session:
        sender.start()
        swaps = 0
        while sender.is_alive() or swaps < 4:
            swaps += 1
            session.swap(files.bundle(swaps % 2))
            ask = load.innocent(rng)
            assert load.judge(ask, session.run(ask.model, ask.feeds)) == swaps % 2
        sender.join()
        told = session.stats()
    accounts_balance(session)
    no_faults(load)
    assert told["swaps"] == swaps and told["generation"] == swaps + 1 and not told["old_generations"]


# ------------------------------------------------------------------------ the end


@pytest.mark.parametrize("drain", [True, False])
def test_nothing_that_was_accepted_is_lost_when_a_session_closes(files: Files, drain: bool) -> None:
    load = Mixed(files.sources[:1], poisoned=0.0)
    session, enough = files.open(), threading.Semaphore(0)
    sent: list[tuple[mixed.Ask, Future[Any]]] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        while True:
            ask = load.draw(rng)
            try:
                sent.append((ask, session.submit(ask.model, ask.feeds)))
            except QueueFull:
                continue
            except Closed:
                return
            enough.release()

    clients = [threading.Thread(target=client, args=(seed,), daemon=True) for seed in range(3)]
    for thread in clients:
        thread.start()
    for _ in range(300):
        assert enough.acquire(timeout=STUCK / 2)
    session.close(drain=drain)
    for thread in clients:
        thread.join(timeout=STUCK / 2)
        assert not thread.is_alive()
    for ask, future in sent:
        assert future.done()
        error = future.exception()
        if drain or not isinstance(error, Closed):
            load.judge(ask, error or future.result())
    no_faults(load)
    accounts_balance(session)


# ------------------------------------------------------------------------ overload


def test_three_times_the_capacity() -> None:
    """An overloaded session loses no time between its calls, fills each, and refuses the rest at once. The
    calls sleep: one with 4 models of 2 rows takes 20 ms, so that the capacity is 400 rows a second."""
    sys.setswitchinterval(5e-3)  # what is measured are times
    seconds, capacity = 0.02, 400
    ran: list[tuple[float, float]] = []

    def call() -> None:
        begin = time.perf_counter()
        time.sleep(seconds)
        ran.append((begin, time.perf_counter()))

    engine = FakeEngine(hook=call)
    refusals: list[float] = []
    sent: list[tuple[int, Future[Any]]] = []
    with serving(engine, max_rows=2, max_batch=2, max_queue=64, max_queue_per_model=16) as session:
        begin = time.perf_counter()
        for number in range(3 * capacity):
            time.sleep(max(0.0, begin + number / (3 * capacity) - time.perf_counter()))
            before = time.perf_counter()
            try:
                sent.append((number, session.submit("abcd"[number % 4], feeds(100 + number))))
            except QueueFull:
                refusals.append(time.perf_counter() - before)
        ended = list(ran)
        calls = engine.calls[1 : len(ended)]  # the first one had not what to take
    for number, future in sent:
        answer = engine.answer("abcd"[number % 4], feeds(100 + number)["x"])
        assert future.result()["y"].tolist() == answer.tolist()
    assert len(refusals) > len(sent) and sorted(refusals)[len(refusals) * 95 // 100] < 1e-3
    assert sum(len(models) for _, models in calls) >= 0.95 * 8 * len(calls)
    pauses = sorted(after - end for (_, end), (after, _) in pairwise(ended))
    assert pauses[len(pauses) // 2] < 0.05 * seconds
