"""Measures serving under load: a merged session, one request after the other, batches of each model alone.

    python bench/load.py                              # all cells, about 11 minutes
    python bench/load.py --families policy --mixes Zipf --loads 0.6 1.1
    python bench/load.py --quick                      # a tiny family, seconds

A cell is a family, a mix (which models are asked for) and a load, in parts of the capacity of one by one on
that mix. Requests of one row arrive as a Poisson process, the same for all contenders, which take turns; each
runs in a process of its own, with the thread that sends. Latencies count from the planned arrival. Every
answer is compared with that of the model's own session. It writes bench/results/serving_load.json after each
family, and `python bench/load_plot.py` draws that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import arrivals, rivals
from bench.children import Tasks, ask, child
from bench.served import CASES, FAMILIES, FOLDER, Served, prepared

RESULTS = Path(__file__).parent / "results" / "serving_load.json"
MERGED, ONE, PER_MODEL = "merged session", "one by one", "per-model batching"
CONTENDERS = (MERGED, ONE, PER_MODEL)
LOADS = (0.3, 0.6, 0.9, 1.1, 1.3)
NEAR = 0.95
"""Settings of a rival that reach so much of its best capacity are told apart by their p99."""
OVERLOAD = 3.0
"""The load, in parts of its own capacity, at which a session must still serve what it can."""
SHORT_QUEUE = 128
"""Requests that may wait in an overloaded session, so that it is full soon."""
WITHIN = 1.15
"""A measured p99 may exceed its bound by so much."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A contender, and of a rival the number of workers and the threads of each call."""

    contender: str
    workers: int = 0
    threads: int = 0
    queue: int = rivals.MAX_QUEUE
    """Requests that may wait, of the merged session."""

    def __str__(self) -> str:
        return f"workers {self.workers}, threads {self.threads}" if self.workers else "as it chooses"


class Merged:
    """The merged session as a contender."""

    def __init__(self, served: Served, queue: int) -> None:
        from netfuse_onnx import MergedSession

        self.session = MergedSession(served.bundle, max_queue=queue, max_queue_per_model=queue)
        self.session.warm_up()  # as the rivals, which open all sessions at once
        self._models = served.models

    def submit(self, model: int, feeds: Mapping[str, Any]) -> Any:
        return self.session.submit(self._models[model], feeds)

    def close(self) -> None:
        self.session.close()


def main() -> int:
    given = _arguments()
    report = {
        "machine": machine(),
        "seconds": given.seconds,
        "turns": given.turns,
        "cells": [],
        "overload": [],
    }
    for name in given.families:
        served = prepared(CASES[name], given.folder)
        report["overload"].append(overload(served, given.seconds, given.turns))
        for cell in family(served, given.mixes, given.loads, given.seconds, given.turns):
            report["cells"].append(cell)
            print(line(cell), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(summary(report["cells"]), *map(overload_line, report["overload"]), sep="\n")
    return 0


def family(
    served: Served, mixes: Sequence[str], loads: Sequence[float], seconds: float, turns: int
) -> Iterator[dict[str, Any]]:
    """Measure the cells of a family, the contenders in turns."""
    with ExitStack() as stack:
        servers = {MERGED: stack.enter_context(child(contender, served, Setting(MERGED)))}
        chosen = {name: best_setting(served, name, seconds) for name in (ONE, PER_MODEL)}
        servers |= {
            name: stack.enter_context(child(contender, served, setting)) for name, setting in chosen.items()
        }
        for mix in mixes:
            limit = float(ask(servers[ONE], "capacity", mix, max(1.0, seconds)))
            for load in loads:
                samples = _in_turns(servers, mix, load * limit, seconds, turns)
                yield {
                    "family": served.name, "about": CASES[served.name].about, "models": len(served.models),
                    "mix": mix, "load": load, "capacity": round(limit, 1),
                    "settings": {name: str(setting) for name, setting in chosen.items()},
                    "contenders": {name: figures(samples[name]) for name in CONTENDERS},
                }  # fmt: skip


def _in_turns(
    servers: Mapping[str, Connection], mix: str, rate: float, seconds: float, turns: int
) -> dict[str, list[arrivals.Sample]]:
    samples: dict[str, list[arrivals.Sample]] = {name: [] for name in CONTENDERS}
    for turn in range(turns):
        for name in (*CONTENDERS[turn % 3 :], *CONTENDERS[: turn % 3]):
            samples[name].append(ask(servers[name], "load", mix, rate, seconds, turn))
    return samples


def overload(served: Served, seconds: float, turns: int) -> dict[str, Any]:
    """Measure the merged session alone: what it serves when three times its capacity is offered, as a part of
    that capacity, and the milliseconds in which it refuses 99 of 100 requests that it has no room for."""
    parts, refusals = [], []
    with child(contender, served, Setting(MERGED, queue=SHORT_QUEUE)) as server:
        for turn in range(turns):
            limit = float(ask(server, "capacity", "uniform", max(1.0, seconds)))
            # Long enough that the queue, which is empty at first, is full for most of the time.
            sample = ask(server, "load", "uniform", OVERLOAD * limit, seconds + SHORT_QUEUE / limit, turn)
            parts.append(sample.goodput / limit)
            refusals.append(1e3 * sample.refusals)
    every = np.concatenate([*refusals, [0.0]])
    return {
        "family": served.name, "capacity": round(limit, 1), "goodput": round(float(np.median(parts)), 3),
        "refused": len(every) - 1, "refusal_p99": round(float(np.quantile(every, 0.99)), 3),
    }  # fmt: skip


def overload_line(one: Mapping[str, Any]) -> str:
    served = f"{one['goodput']:.2f} of its capacity of {one['capacity']:.0f}/s"
    refused = f"{one['refused']} refused in {one['refusal_p99']:.2f} ms (p99)"
    return f"{one['family']:10} {OVERLOAD:g} x overload: {served}, {refused}"


def best_setting(served: Served, rival: str, seconds: float) -> Setting:
    """Return the setting of a rival with the highest capacity; of near ones, that with the lowest p99."""
    tried = []
    for workers, threads in rivals.settings():
        setting = Setting(rival, workers, threads)
        with child(contender, served, setting) as server:
            limit = float(ask(server, "capacity", "uniform", max(1.0, seconds)))
            sample = ask(server, "load", "uniform", 0.5 * limit, seconds, 0)
            tried.append((limit, float(np.quantile(sample.latencies, 0.99)), setting))
    top = max(limit for limit, _, _ in tried)
    return min((one for one in tried if one[0] >= NEAR * top), key=lambda one: one[1])[2]


def figures(samples: Sequence[arrivals.Sample]) -> dict[str, Any]:
    """Return the figures of one contender in a cell: rates per second, latencies in milliseconds, of the p99
    the lowest and highest of the turns, and the processor's time per request, that of sending it included."""
    p99 = [1e3 * float(np.quantile(one.latencies, 0.99)) for one in samples]
    p50 = [1e3 * float(np.quantile(one.latencies, 0.5)) for one in samples]
    offered, done = (sum(getattr(one, name) for one in samples) for name in ("offered", "done"))
    return {
        "offered": round(offered / sum(one.seconds for one in samples), 1),
        "goodput": round(float(np.median([one.goodput for one in samples])), 1),
        "served": round(done / offered, 4),
        "refused": sum(len(one.refusals) for one in samples),
        "p50": round(float(np.median(p50)), 3),
        "p99": round(float(np.median(p99)), 3),
        "processor_us": round(1e6 * sum(one.processor for one in samples) / max(1, done), 1),
        "p99_of_turns": [round(min(p99), 3), round(max(p99), 3)],
    }


def line(cell: Mapping[str, Any]) -> str:
    shown = []
    for name, one in cell["contenders"].items():
        latencies = f"p50 {one['p50']:.2f} p99 {one['p99']:.2f} ms"
        shown.append(f"{name} {one['goodput']:.0f}/s, {latencies}, {one['processor_us']:.0f} us")
    return f"{cell['family']:10} {cell['mix']:8} {cell['load']:.1f}: " + "; ".join(shown)


def beside(cell: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the share that the merged session served of what the better rival did, its p99 in parts of the
    lower p99 of both, and the same in parts of the bound, 1.1 x + 0.1 ms."""
    own, *others = (cell["contenders"][name] for name in CONTENDERS)
    served = own["served"] / max(one["served"] for one in others)
    p99 = min(one["p99"] for one in others)
    return served, own["p99"] / p99, own["p99"] / (1.1 * p99 + 0.1)


def summary(cells: Sequence[Mapping[str, Any]]) -> str:
    """Say how the merged session stands against the better rival of each cell, and where it falls short."""
    rows = [beside(cell) for cell in cells]
    mean = float(np.exp(np.mean([np.log(ratio) for _, ratio, _ in rows])))
    short = [
        f"  {line(cell)}"
        for cell, (served, _, bound) in zip(cells, rows, strict=True)
        if served < 0.99 / WITHIN or bound > WITHIN
    ]
    strict = sum(served < 0.99 or bound > 1.0 for served, _, bound in rows)
    return "\n".join([
        f"{len(cells)} cells; p99 beside the better rival {mean:.2f} (geometric mean), "
        f"at most {max(ratio for _, ratio, _ in rows):.2f}; served at least {min(rows)[0]:.3f} of it.",
        f"Beyond the bound: {strict} cells; by more than 15 %: {len(short)}.", *short,
    ])  # fmt: skip


@contextmanager
def contender(served: Served, setting: Setting) -> Iterator[Tasks]:
    """Start a contender, and warm it up."""
    server, full = _server(served, setting)
    warm = arrivals.plan(served, "uniform", 20.0 * len(served.models), 0.2, 0)
    arrivals.run(server, served, warm, full)
    try:
        yield {
            "capacity": lambda mix, seconds: arrivals.capacity(server, served, mix, seconds, full),
            "load": lambda *wanted: arrivals.run(server, served, arrivals.plan(served, *wanted), full),
        }
    finally:
        server.close()


def _server(served: Served, setting: Setting) -> tuple[Any, type[Exception]]:
    """Return a server, and the error with which it refuses requests."""
    if setting.contender == MERGED:
        from netfuse_onnx.runtime.errors import QueueFull

        return Merged(served, setting.queue), QueueFull
    kind = rivals.OneByOne if setting.contender == ONE else rivals.PerModel
    return kind(served.sources, setting.workers, setting.threads), rivals.Full


def machine() -> dict[str, object]:
    """Return what was measured on."""
    return {
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "onnxruntime": ort.__version__, "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--families", nargs="+", choices=CASES, default=FAMILIES)
    parser.add_argument("--mixes", nargs="+", choices=arrivals.MIXES, default=list(arrivals.MIXES))
    parser.add_argument(
        "--loads", nargs="+", type=float, default=LOADS, help="in parts of one by one's capacity"
    )
    parser.add_argument("--seconds", type=float, default=0.7, help="of a contender's turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the tiny family, one turn of 0.2 s")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where families are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.quick:
        given.families, given.mixes, given.loads = ["tiny"], ["uniform"], [0.5]
        given.seconds, given.turns = 0.2, 1
    return given


if __name__ == "__main__":
    sys.exit(main())
