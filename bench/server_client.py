"""The sender of `server_load.py`: stock clients of the Open Inference Protocol, in a process of their own.

A thread sends each request when the plan says so, because timers of an event loop are off by a millisecond;
the loop of the clients waits for the answers. Latencies count from the planned time.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.arrivals import Array, Plan, plan
from bench.children import Tasks
from bench.served import TYPES, Served, agrees

HTTP, GRPC = "HTTP", "gRPC"
PROTOCOLS = (HTTP, GRPC)
CONNECTIONS = 800
"""Connections of the HTTP client: more than requests wait in a server."""
WINDOW = 32
"""Requests that are under way while the capacity is measured."""
GRACE = 30.0
"""Most seconds that answers are waited for after the last request."""
REFUSED = ("429", "StatusCode.RESOURCE_EXHAUSTED")
OIP = {np.float32: "FP32", np.int64: "INT64"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of a server. Times are in seconds; `done` counts the answers that came within `seconds`.

    `late` has the delay of each request before it was sent, and `client` the processor's time of the clients.
    """

    offered: int
    done: int
    refused: int
    seconds: float
    latencies: Array
    late: Array
    client: float


class Sender:
    """A client of one server, with the requests of a family ready to be sent."""

    def __init__(self, served: Served, protocol: str, port: int) -> None:
        self._served = served
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client, self._inputs = self._wait(self._connected(protocol, f"127.0.0.1:{port}"))

    async def _connected(self, protocol: str, url: str) -> tuple[Any, list[list[list[Any]]]]:
        if protocol == HTTP:
            from tritonclient.http import InferInput
            from tritonclient.http.aio import InferenceServerClient

            client: Any = InferenceServerClient(url, conn_limit=CONNECTIONS)
        else:
            from tritonclient.grpc import InferInput
            from tritonclient.grpc.aio import InferenceServerClient

            client = InferenceServerClient(url)

        def ready(name: str, value: Array) -> Any:
            found = InferInput(name, list(value.shape), OIP[value.dtype.type])
            found.set_data_from_numpy(value)
            return found

        return client, [
            [[ready(name, value) for name, value in feeds.items()] for feeds in picks]
            for picks in self._served.feeds
        ]

    def _wait(self, task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result()

    def close(self) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # ----------------------------------------------------------------------- one request

    async def _ask(self, model: int, pick: int) -> Any:
        """Return the answer, and None for a refusal. Any other error ends the measurement."""
        try:
            return await self._client.infer(self._served.models[model], self._inputs[model][pick])
        except Exception as error:
            if _is_refusal(error):
                return None
            raise

    # ----------------------------------------------------------------------- an open loop

    def load(self, mix: str, rate: float, seconds: float, seed: int) -> Sample:
        """Send the requests of a plan when it says so, and check all answers."""
        planned = plan(self._served, mix, rate, seconds, seed)
        count = len(planned.at)
        sent, done = np.zeros(count), np.full(count, np.inf)
        answers: list[Any] = [None] * count
        faults: list[BaseException] = []
        left = threading.Semaphore(0)

        async def one(i: int, model: int, pick: int) -> None:
            try:
                answers[i] = await self._ask(model, pick)
                done[i] = time.perf_counter()
            except BaseException as error:
                faults.append(error)
            finally:
                left.release()

        def begin(i: int) -> None:
            sent[i] = time.perf_counter()
            tasks.add(task := self._loop.create_task(one(i, planned.model[i], planned.pick[i])))
            task.add_done_callback(tasks.discard)

        tasks: set[Any] = set()
        with _no_collections():
            used, start = time.process_time(), time.perf_counter() + 0.01
            for i, at in enumerate(planned.at):
                if (wait := start + at - time.perf_counter()) > 0.0:
                    time.sleep(wait)
                self._loop.call_soon_threadsafe(begin, i)
            end = time.perf_counter() + GRACE
            every = all(left.acquire(timeout=max(0.0, end - time.perf_counter())) for _ in range(count))
            used = time.process_time() - used
        if faults or not every:
            raise SystemExit(f"A request failed: {faults[0] if faults else 'no answer came'}")
        self._check(planned, answers)
        came = np.array([answer is not None for answer in answers])
        at = start + np.asarray(planned.at)
        in_time = int((done[came] <= start + seconds).sum())
        refused = int((~came).sum())
        return Sample(count, in_time, refused, seconds, (done - at)[came], sent - at, used)

    def _check(self, planned: Plan, answers: list[Any]) -> None:
        """Compare every answer with what the model's own session gave. Raises SystemExit."""
        groups = defaultdict(list)
        for model, pick, answer in zip(planned.model, planned.pick, answers, strict=True):
            if answer is not None:
                groups[model, pick].append(answer)
        for (model, pick), got in groups.items():
            want = self._served.answers[model][pick]
            for name, value in zip(self._served.outputs, want, strict=True):
                stacked = np.stack([one.as_numpy(name) for one in got])
                if not agrees([stacked], [np.broadcast_to(value, stacked.shape)]):
                    raise SystemExit(f"A wrong answer of {self._served.models[model]}, output {name}")

    # ----------------------------------------------------------------------- a closed loop

    def capacity(self, mix: str, seconds: float) -> float:
        """Return the requests per second that are answered while some always wait."""
        return float(self._wait(self._saturated(mix, seconds)))

    async def _saturated(self, mix: str, seconds: float) -> float:
        planned = plan(self._served, mix, 20_000.0, 1.0, 0)
        finished: list[float] = []
        start = time.perf_counter()
        end, begun = start + seconds, 0

        async def one() -> None:
            nonlocal begun
            while time.perf_counter() < end:
                k = begun % len(planned.at)
                begun += 1
                if await self._ask(planned.model[k], planned.pick[k]) is not None:
                    finished.append(time.perf_counter())

        await asyncio.gather(*(one() for _ in range(WINDOW)))
        middle = start + seconds / 4  # the first requests are slower
        return sum(middle <= at <= end for at in finished) / (end - middle)


def _is_refusal(error: Exception) -> bool:
    """Return True for a request that the server had no room for. Where gRPC itself has none, it refuses a
    stream (error 7 of HTTP/2), or cancels requests that its server has not taken yet."""
    status = str(getattr(error, "status", lambda: "")())
    if status == "StatusCode.UNAVAILABLE":
        return "error code 7" in str(error)
    return status in (*REFUSED, "StatusCode.CANCELLED")


@contextmanager
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def clients(served: Served, ports: dict[str, dict[str, int]]) -> Iterator[Tasks]:
    """Connect to all servers: {name of the server: {protocol: port}}."""
    senders = {
        (name, protocol): Sender(served, protocol, port)
        for name, listened in ports.items()
        for protocol, port in listened.items()
    }
    try:
        yield {
            "load": lambda name, protocol, *given: senders[name, protocol].load(*given),
            "capacity": lambda name, protocol, *given: senders[name, protocol].capacity(*given),
        }
    finally:
        for sender in senders.values():
            sender.close()


assert set(TYPES.values()) == OIP.keys()
