"""Open-loop load: requests are sent at random times, whether or not earlier ones are answered.

The family for it has calls of milliseconds, so that clients on the same machine cost little beside it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from onnx import numpy_helper

import netfuse_onnx
from bench import wire
from bench.wire import Server
from netfuse_onnx.runtime.errors import QueueFull

Array = np.ndarray[Any, Any]
STEPS = 16
TEXT = """<ir_version: 9, opset_import: ["": 17]>
g (float[batch, 8] x) => (float[batch, 8] y) {{
    h0 = MatMul(x, w1)
    {steps}
    y = MatMul(h{last}, w2)
}}"""
POOL = 8
"""Requests that are drawn for each model, with their answers."""
CHANNELS = 4


@dataclass(frozen=True)
class Slow:
    """A family on disk, with requests and their answers by model."""

    bundle: str
    pool: Mapping[str, Sequence[tuple[Array, Array]]]


def family(folder: Path, models: int = 4, width: int = 1 << 17) -> Slow:
    """Write models whose rows take milliseconds each, whatever the batch."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = "\n".join(f"h{k + 1} = Sin(h{k})" for k in range(STEPS))
    paths, pool = [], {}
    for m in range(models):
        proto, rng = onnx.parser.parse_model(TEXT.format(steps=steps, last=STEPS)), np.random.default_rng(m)
        for name, shape, scale in (("w1", (8, width), 1.0), ("w2", (width, 8), width**-0.5)):
            values = (rng.standard_normal(shape) * scale).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
        paths.append(folder / f"slow{m}.onnx")
        paths[-1].write_bytes(proto.SerializeToString())
        own = ort.InferenceSession(str(paths[-1]), providers=["CPUExecutionProvider"])
        drawn = [rng.standard_normal((1, 8)).astype(np.float32) for _ in range(POOL)]
        pool[f"slow{m}"] = [(x, own.run(None, {"x": x})[0]) for x in drawn]
    out = str(folder / "bundle")
    netfuse_onnx.merge([*map(str, paths)], out, io="stacked", views=True, verify=False)
    return Slow(out, pool)


@dataclass
class Ends:
    """The ends of requests: the times of answers and of refusals in seconds, and what went wrong."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    seconds: float = 0.0
    late: int = 0
    """Answers that came after these seconds, when the load was over."""

    @property
    def goodput(self) -> float:
        """Return the right answers per second."""
        return (len(self.answered) - self.late) / self.seconds


class Asker:
    """Stock clients of asyncio, of HTTP and gRPC in turns. Make it in an event loop."""

    def __init__(self, server: Server, slow: Slow) -> None:
        self._slow, self._rng = slow, random.Random(1)
        self._http = httpaio.InferenceServerClient(server.http, conn_limit=2000, conn_timeout=wire.PATIENCE)
        local = [("grpc.use_local_subchannel_pool", 1)]
        self._grpc = [grpcaio.InferenceServerClient(server.grpc, channel_args=local) for _ in range(CHANNELS)]
        self._sent = 0

    async def ask(self, ends: Ends) -> None:
        """Send a request, and count its end."""
        self._sent += 1
        model = self._rng.choice([*self._slow.pool])
        x, want = self._rng.choice(self._slow.pool[model])
        began = time.perf_counter()
        try:
            got = await self._answer(model, x)
        except wire.NETWORK as raised:
            error = wire.error_of(raised)
            if isinstance(error, QueueFull):
                ends.refused.append(time.perf_counter() - began)
            else:
                ends.others.append(f"{type(error).__name__}: {error}")
            return
        except Exception as error:
            ends.others.append(f"{type(error).__name__}: {error}")
            return
        if np.allclose(got, want, rtol=1e-3, atol=1e-3):
            ends.answered.append(time.perf_counter() - began)
        else:
            ends.others.append(f"a wrong answer of {model}")

    async def _answer(self, model: str, x: Array) -> Array:
        if self._sent % 2:
            given: Any = wire.inputs_of(httpclient, {"x": x})
            result = await self._http.infer(model, given)
        else:
            given = wire.inputs_of(grpcclient, {"x": x})
            client = self._grpc[self._sent // 2 % CHANNELS]
            result = await client.infer(model, given, client_timeout=wire.PATIENCE)
        return np.asarray(result.as_numpy("y"))

    async def close(self) -> None:
        await self._http.close()
        for one in self._grpc:
            await one.close()


def closed_loop(server: Server, slow: Slow, clients: int, seconds: float) -> Ends:
    """Return the ends of requests of clients that each have one on the way."""
    ends = Ends()

    async def run() -> None:
        asker = Asker(server, slow)
        over = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < over:
                await asker.ask(ends)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        ends.seconds = time.perf_counter() - began
        await asker.close()

    asyncio.run(run())
    return ends


def open_loop(server: Server, slow: Slow, rate: float, seconds: float) -> Ends:
    """Return the ends of requests that are sent `rate` times a second at random times. Goodput counts
    until the last one is sent: what is queued then is answered later."""
    ends = Ends()

    async def run() -> None:
        asker, rng, tasks = Asker(server, slow), random.Random(2), set[asyncio.Task[None]]()
        began = at = time.perf_counter()
        while at - began < seconds:
            at += rng.expovariate(rate)
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(asker.ask(ends))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        ends.seconds = time.perf_counter() - began
        late = len(ends.answered)
        await asyncio.gather(*tasks)
        ends.late = len(ends.answered) - late
        await asker.close()

    asyncio.run(run())
    return ends


@dataclass
class Overload:
    """Answers under three times the load that a server can serve, in parts of what it can.

    `goodput` compares answers per second, and `per_cpu` those per second of the server's own processor time,
    which other programs on the machine do not change.
    """

    goodput: float = 0.0
    per_cpu: float = 0.0
    answered: int = 0
    refused: int = 0
    refusals: tuple[float, float] = (0.0, 0.0)
    """Seconds until half of the refusals, and 99 % of them, had come."""
    faults: list[str] = field(default_factory=list)


TIMES, CLIENTS = 3.0, 24


def overload(server: Server, slow: Slow, rounds: int, seconds: float) -> Overload:
    """Measure capacity and overload in turns, and compare their medians."""
    found = Overload()
    closed_loop(server, slow, 8, 1.0)
    goodputs, per_cpu, refusals = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        least, least_cpu, most = _measured(server, lambda: closed_loop(server, slow, CLIENTS, seconds))
        rate = TIMES * least
        got, got_cpu, ends = _measured(server, lambda rate=rate: open_loop(server, slow, rate, seconds))
        goodputs.append(got / least)
        per_cpu.append(got_cpu / least_cpu)
        refusals += ends.refused
        found.answered += len(ends.answered)
        found.refused += len(ends.refused)
        found.faults += most.others + ends.others
    found.goodput, found.per_cpu = float(np.median(goodputs)), float(np.median(per_cpu))
    if refusals:
        found.refusals = (float(np.median(refusals)), float(np.quantile(refusals, 0.99)))
    return found


def _measured(server: Server, run: Callable[[], Ends]) -> tuple[float, float, Ends]:
    """Return right answers per second, and per second of the server's processor time."""
    before = server.cpu_seconds
    ends = run()
    return ends.goodput, len(ends.answered) / (server.cpu_seconds - before), ends
