"""New weights, and the end of a server, under load: each answer is right, and of one generation entirely."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

import netfuse_onnx
from bench import mixed, wire
from bench.mixed import Ask, Mixed
from bench.wire import Lost, Server
from bench.wire_mixed import OUTPUTS, Told, outcome_of
from netfuse_onnx.runtime.errors import Closed

FAMILY = "lookups"
MODELS = 8
KINDS = ("http", "grpc", "http json")


class Generations:
    """Bundles of one family with other weights each. `path` is a link to the one that is to be served."""

    def __init__(self, folder: Path, count: int) -> None:
        self.files = [mixed.family(folder / f"g{g}", MODELS, g) for g in range(count)]
        self.bundles = [str(folder / f"bundle-{g}") for g in range(count)]
        for files, bundle in zip(self.files, self.bundles, strict=True):
            netfuse_onnx.merge(files, bundle, io="stacked", views=True, verify=False)
        self.path = str(folder / FAMILY)
        self.point(self.bundles[0])

    def point(self, bundle: str) -> None:
        """Let the path lead to another bundle."""
        beside = f"{self.path}.new"
        os.symlink(bundle, beside)
        os.replace(beside, self.path)


class Rows:
    """Requests to the family's own name, whose rows name their models, and the answers of each generation."""

    def __init__(self, files: Sequence[Sequence[str]], count: int = 24) -> None:
        sessions = [
            [ort.InferenceSession(one, providers=["CPUExecutionProvider"]) for one in generation]
            for generation in files
        ]
        rng = np.random.default_rng(5)
        self.asks = []
        for _ in range(count):
            models = rng.integers(0, MODELS, 6)
            ids, x = rng.integers(0, 50, (6, 3)), rng.standard_normal((6, 8)).astype(np.float32)
            answers = []
            for own in sessions:
                rows = [
                    own[m].run([*OUTPUTS], {"ids": ids[k : k + 1], "x": x[k : k + 1]})
                    for k, m in enumerate(models)
                ]
                answers.append(tuple(np.concatenate(column) for column in zip(*rows, strict=True)))
            feeds = {"model": models.astype(np.int64), "ids": ids, "x": x}
            self.asks.append(Ask(FAMILY, feeds, "", tuple(answers)))


@dataclass
class Reloads:
    """The generation that certainly serves: what is asked from now on may not be answered by an older one."""

    least: int = 0
    took: list[float] = field(default_factory=list)


def client(
    server: Server, load: Mixed, rows: Rows, seed: int, told: Told, reloads: Reloads, over: threading.Event
) -> None:
    """Send requests for models and for the family, until it is over."""
    rng, one = random.Random(seed), wire.CLIENTS[KINDS[seed % len(KINDS)]](server)
    try:
        while not over.is_set():
            ask = rng.choice(rows.asks) if rng.random() < 0.3 else load.innocent(rng)
            least = reloads.least
            told.sent += 1
            began = time.perf_counter()
            generation = load.judge(ask, outcome_of(one, server, ask))
            told.seconds.append(time.perf_counter() - began)
            if generation is not None:
                told.generations[generation] += 1
                if generation < least:
                    told.faults.append(f"generation {generation} answered after {least} was loaded")
    finally:
        one.close()


def run_clients(count: int, told: Told, run: Callable[[int], None], during: Callable[[], None]) -> None:
    """Run clients in threads while something happens. What a client raises is a fault."""

    def safely(place: int) -> None:
        try:
            run(place)
        except Exception as error:
            told.faults.append(f"client {place}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=safely, args=(place,), daemon=True) for place in range(count)]
    for one in threads:
        one.start()
    try:
        during()
    finally:
        for one in threads:
            one.join(2 * wire.PATIENCE)
    if any(one.is_alive() for one in threads):
        told.faults.append("a client does not end")


def reload_under_load(folder: Path, count: int, clients: int = 8) -> tuple[Told, Reloads]:
    """Load `count` generations one after the other under load, and between them files that are refused."""
    made = Generations(folder, count + 1)
    load, rows = Mixed(made.files, poisoned=0.0), Rows(made.files)
    told, reloads, over = Told(), Reloads(), threading.Event()
    broken = folder / "broken"
    broken.mkdir()
    with wire.served(made.path, folder, "--name", FAMILY) as server:

        def during() -> None:
            admin = httpclient.InferenceServerClient(server.http, network_timeout=wire.PATIENCE)
            try:
                for g in range(1, count + 1):
                    time.sleep(0.2)
                    made.point(str(broken))
                    try:
                        admin.load_model(FAMILY)
                        told.faults.append("a broken bundle was loaded")
                    except InferenceServerException:
                        pass
                    made.point(made.bundles[g])
                    began = time.perf_counter()
                    admin.load_model(FAMILY)
                    reloads.took.append(time.perf_counter() - began)
                    reloads.least = g
                time.sleep(0.3)
            finally:
                over.set()
                admin.close()

        run_clients(
            clients, told, lambda place: client(server, load, rows, place, told, reloads, over), during
        )
    told.faults += load.faults
    return told, reloads


# ----------------------------------------------------------------------------- the end


@dataclass
class Ended:
    """The end of a server: its exit code, the seconds that it took, and the ends of requests."""

    code: int | None = None
    seconds: float = 0.0
    answered: int = 0
    refused: int = 0
    lost: int = 0
    """Requests sent after the signal on connections that were closed: the server had not accepted them."""
    faults: list[str] = field(default_factory=list)


LEEWAY = 0.02
"""Seconds before the signal: what was sent before was accepted."""


def end_under_load(bundle: str, load: Mixed, folder: Path, clients: int = 16, seconds: float = 1.0) -> Ended:
    """Send SIGTERM under load. What was sent before is answered right, or told that the server ends."""
    ended, told, signalled = Ended(), Told(), [float("inf")]
    over = threading.Event()
    lock = threading.Lock()
    with wire.served(bundle, folder, "--name", FAMILY) as server:

        def run(place: int) -> None:
            rng, one = random.Random(place), wire.CLIENTS[KINDS[place % len(KINDS)]](server)
            while not over.is_set():
                ask, began = load.innocent(rng), time.monotonic()
                outcome = outcome_of(one, server, ask)
                with lock:
                    _ended(ended, load, ask, outcome, began < signalled[0] - LEEWAY)
                if isinstance(outcome, BaseException):
                    time.sleep(0.01)

        def during() -> None:
            time.sleep(seconds)
            signalled[0] = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            ended.code = server.process.wait(wire.PATIENCE)
            ended.seconds = time.monotonic() - signalled[0]
            time.sleep(0.1)
            over.set()

        run_clients(clients, told, run, during)
    ended.faults += told.faults
    return ended


def _ended(ended: Ended, load: Mixed, ask: Ask, outcome: object, before: bool) -> None:
    if isinstance(outcome, Closed | Lost):
        if isinstance(outcome, Closed) or outcome.before:  # it was not accepted, and its client is told so
            ended.refused += 1
        elif before:
            ended.faults.append(f"a request sent before the signal: {outcome!r}")
        else:
            ended.lost += 1
        return
    faults = len(load.faults)
    load.judge(ask, outcome)
    ended.answered += 1
    if len(load.faults) > faults:
        ended.faults.append(load.faults[-1])
