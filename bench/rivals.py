"""Serves without merging: one request after the other, or batches of each model alone.

Both take requests from any thread, give futures, have the same bound on waiting requests as a merged
session, and run sessions of the sources with a number of workers and threads: `load.py` tries settings and
keeps the best.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]
Waiting = tuple[float, Mapping[str, Array], "Future[Outputs]"]

MAX_QUEUE = 1024
"""Requests that may wait, as in a merged session."""


class Full(Exception):
    """So many requests wait that this one is refused."""


def settings() -> list[tuple[int, int]]:
    """Return the settings that are tried: how many workers, and how many threads each call has."""
    cores = os.cpu_count() or 1
    return list(dict.fromkeys([(1, 1), (cores, 1), (1, cores)]))


def opened(paths: Sequence[str], threads: int) -> list[ort.InferenceSession]:
    """Open the sessions of all sources. Several threads are those of one pool that all sessions share; it may
    be set up once in a process."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads == 1:
        options.intra_op_num_threads = 1
    else:
        ort.set_global_thread_pool_sizes(threads, 1)
        options.use_per_session_threads = False
    return [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]


class OneByOne:
    """Runs requests in the order in which they come."""

    def __init__(self, paths: Sequence[str], workers: int, threads: int) -> None:
        self._sessions = opened(paths, threads)
        self._outputs = [[one.name for one in own.get_outputs()] for own in self._sessions]
        self._queue: SimpleQueue[tuple[int, Mapping[str, Array], Future[Outputs]] | None] = SimpleQueue()
        self._workers = _started(self._work, workers)

    def submit(self, model: int, feeds: Mapping[str, Array]) -> Future[Outputs]:
        if self._queue.qsize() >= MAX_QUEUE:
            raise Full
        future: Future[Outputs] = Future()
        self._queue.put((model, feeds, future))
        return future

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            model, feeds, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                answer = self._sessions[model].run(None, feeds)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(dict(zip(self._outputs[model], answer, strict=True)))

    def close(self) -> None:
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join()


class PerModel:
    """Runs the requests of one model as one batch. The model whose oldest request waits longest is next."""

    def __init__(self, paths: Sequence[str], workers: int, threads: int, max_batch: int = 64) -> None:
        self._sessions = opened(paths, threads)
        self._outputs = [[one.name for one in own.get_outputs()] for own in self._sessions]
        self._max_batch = max_batch
        self._waiting: dict[int, deque[Waiting]] = {}  # of the models that have requests
        self._count, self._closed = 0, False
        self._ready = threading.Condition(threading.Lock())
        self._workers = _started(self._work, workers)

    def submit(self, model: int, feeds: Mapping[str, Array]) -> Future[Outputs]:
        future: Future[Outputs] = Future()
        with self._ready:
            if self._count >= MAX_QUEUE:
                raise Full
            self._waiting.setdefault(model, deque()).append((time.perf_counter(), feeds, future))
            self._count += 1
            self._ready.notify()
        return future

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            model, requests = taken
            alive = [one for one in requests if one[2].set_running_or_notify_cancel()]
            if not alive:
                continue
            try:
                self._answer(model, alive)
            except Exception as error:
                for _, _, future in alive:
                    future.set_exception(error)

    def _take(self) -> tuple[int, list[Waiting]] | None:
        """Wait for requests, and take the next batch. None: the end."""
        with self._ready:
            while not self._waiting:
                if self._closed:
                    return None
                self._ready.wait()
            model = min(self._waiting, key=lambda m: self._waiting[m][0][0])
            queue = self._waiting[model]
            taken = [queue.popleft() for _ in range(min(len(queue), self._max_batch))]
            if not queue:
                del self._waiting[model]
            self._count -= len(taken)
            return model, taken

    def _answer(self, model: int, requests: Sequence[Waiting]) -> None:
        """Run requests of one row each as one batch."""
        names = self._outputs[model]
        if len(requests) == 1:
            _, feeds, future = requests[0]
            future.set_result(dict(zip(names, self._sessions[model].run(None, feeds), strict=True)))
            return
        joined = {name: np.concatenate([one[1][name] for one in requests]) for name in requests[0][1]}
        answer = self._sessions[model].run(None, joined)
        for row, (_, _, future) in enumerate(requests):
            future.set_result({name: y[row : row + 1] for name, y in zip(names, answer, strict=True)})

    def close(self) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for worker in self._workers:
            worker.join()


def _started(work: Any, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads
