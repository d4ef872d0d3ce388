"""Measures serving over the network under load: a merged session, and one session per model, behind one
server.

    python bench/server_load.py                                  # all cells, about 25 minutes
    python bench/server_load.py --families encoder --mixes Zipf --loads 0.6 1.3 --protocols gRPC
    python bench/server_load.py --quick                          # a tiny family, some seconds

The server is that of `netfuse-onnx serve`, and the clients are those of tritonclient, over loopback. A cell
is a family, a protocol, a mix (which models are asked for) and a load, in parts of what one session per model
can serve on that mix behind the server. Requests of one row arrive as a Poisson process, the same for all
ways, which take turns. Each way has a process of its own, and so have the clients. Latencies count from the
planned arrival; every answer is compared with that of the model's own session. It writes
bench/results/server_load.json after each family, and `python bench/server_load_plot.py` draws that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import arrivals, rivals
from bench.children import ask, child
from bench.load import NEAR, machine
from bench.served import CASES, FOLDER, Served, prepared
from bench.server_client import PROTOCOLS, Sample, clients
from bench.server_ways import MERGED, OWN, PER_MODEL, WAYS, Setting, processor_seconds, server

RESULTS = Path(__file__).parent / "results" / "server_load.json"
FAMILIES = ("policy-8", "encoder", "mobilenet", "heads")
LOADS = (0.3, 0.6, 0.9, 1.3)
WITHIN = 1.1
"""The merged session may be worse than its rival by so much."""
BUSY = 0.9
"""The clients' share of a core from which on they may be what is measured."""
TRIES = 3
"""Times that the capacity is measured."""
Turn = tuple[Sample, float]
"""A turn of a way, and the processor's seconds of its server in it."""


def main() -> int:
    given = _arguments()
    report: dict[str, Any] = {
        "machine": machine(), "seconds": given.seconds, "turns": given.turns, "cells": [],
    }  # fmt: skip
    for name in given.families:
        served = prepared(CASES[name], given.folder)
        for cell in family(served, given):
            report["cells"].append(cell)
            print(line(cell), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(summary(report["cells"]))
    return 0


def family(served: Served, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the cells of a family, the ways in turns."""
    chosen = {way: best_setting(served, way, given.seconds) for way in given.ways if way != MERGED}
    chosen[MERGED] = Setting(MERGED)
    with ExitStack() as stack:
        servers = {way: stack.enter_context(child(server, served, chosen[way])) for way in given.ways}
        ports = {way: ask(one, "ports") for way, one in servers.items()}
        sender = stack.enter_context(child(clients, served, ports))
        pids = {way: ask(one, "pid") for way, one in servers.items()}
        for protocol in (one for one in given.protocols if one in ports[OWN]):
            for mix in given.mixes:
                limit = _capacity(sender, protocol, mix, given.seconds)
                for load in given.loads:
                    turns = _in_turns(sender, pids, protocol, mix, load * limit, given)
                    yield {
                        "family": served.name, "about": CASES[served.name].about,
                        "models": len(served.models), "protocol": protocol, "mix": mix, "load": load,
                        "capacity": round(limit, 1),
                        "settings": {way: str(setting) for way, setting in chosen.items()},
                        "ways": {way: figures(turns[way]) for way in given.ways},
                        "ratios": {
                            way: ratios(turns[MERGED], turns[way]) for way in given.ways if way != MERGED
                        },
                    }  # fmt: skip


def _capacity(sender: Connection, protocol: str, mix: str, seconds: float) -> float:
    """Return the requests per second that one session per model serves: the most of several tries, since what
    else runs on the machine only takes some away."""
    tries = [ask(sender, "capacity", OWN, protocol, mix, max(1.0, seconds)) for _ in range(TRIES)]
    return float(max(tries))


def _in_turns(
    sender: Connection, pids: Mapping[str, int], protocol: str, mix: str, rate: float, given: Any
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {way: [] for way in given.ways}
    for turn in range(given.turns):
        first = turn % len(given.ways)
        for way in (*given.ways[first:], *given.ways[:first]):
            used = processor_seconds(pids[way])
            sample = ask(sender, "load", way, protocol, mix, rate, given.seconds, turn)
            turns[way].append((sample, processor_seconds(pids[way]) - used))
    return turns


def best_setting(served: Served, way: str, seconds: float) -> Setting:
    """Return the setting of a rival with the highest capacity behind the server; of near ones, that with the
    lowest p99."""
    tried = []
    for workers, threads in rivals.settings():
        setting = Setting(way, workers, threads)
        with ExitStack() as stack:
            one = stack.enter_context(child(server, served, setting))
            sender = stack.enter_context(child(clients, served, {way: ask(one, "ports")}))
            limit = float(ask(sender, "capacity", way, PROTOCOLS[0], "uniform", max(1.0, seconds)))
            sample = ask(sender, "load", way, PROTOCOLS[0], "uniform", 0.5 * limit, seconds, 0)
            tried.append((limit, float(np.quantile(sample.latencies, 0.99)), setting))
    top = max(limit for limit, _, _ in tried)
    return min((one for one in tried if one[0] >= NEAR * top), key=lambda one: one[1])[2]


# --------------------------------------------------------------------------- figures


def p99(turn: Turn) -> float:
    return 1e3 * float(np.quantile(turn[0].latencies, 0.99)) if len(turn[0].latencies) else float("inf")


def figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the figures of one way in a cell: rates per second, latencies in milliseconds, the processor's
    microseconds per request of the server and of the clients, the clients' share of a core, and how late they
    sent."""
    samples = [sample for sample, _ in turns]
    answers = sum(one.offered - one.refused for one in samples)
    seconds = sum(one.seconds for one in samples)
    each = [p99(turn) for turn in turns]
    late = np.concatenate([one.late for one in samples])
    return {
        "offered": round(sum(one.offered for one in samples) / seconds, 1),
        "goodput": round(float(np.median([one.done / one.seconds for one in samples])), 1),
        "served": round(sum(one.done for one in samples) / sum(one.offered for one in samples), 4),
        "refused": sum(one.refused for one in samples),
        "p50": round(float(np.median([1e3 * np.quantile(one.latencies, 0.5) for one in samples])), 3),
        "p99": round(float(np.median(each)), 3),
        "p99_of_turns": [round(min(each), 3), round(max(each), 3)],
        "server_us": round(1e6 * sum(used for _, used in turns) / max(1, answers), 1),
        "client_us": round(1e6 * sum(one.client for one in samples) / max(1, answers), 1),
        "client_busy": round(sum(one.client for one in samples) / seconds, 3),
        "late_p99": round(1e3 * float(np.quantile(late, 0.99)), 3),
    }


def ratios(merged: Sequence[Turn], rival: Sequence[Turn]) -> dict[str, Any]:
    """Return the requests served and the p99 of the merged session, each as a part of the rival's, by turn:
    the median, the lowest and the highest."""
    pairs = list(zip(merged, rival, strict=True))
    served = [one[0].done / max(1, other[0].done) for one, other in pairs]
    slow = [p99(one) / p99(other) for one, other in pairs]
    return {
        name: [round(float(value), 3) for value in (np.median(each), min(each), max(each))]
        for name, each in (("served", served), ("p99", slow))
    }


def line(cell: Mapping[str, Any]) -> str:
    shown = []
    for way, one in cell["ways"].items():
        latencies = f"p50 {one['p50']:.2f} p99 {one['p99']:.2f} ms"
        shown.append(f"{way} {one['goodput']:.0f}/s {latencies} {one['server_us']:.0f} us")
    beside = cell["ratios"][OWN]
    return (
        f"{cell['family']:9} {cell['protocol']:4} {cell['mix']:8} {cell['load']:.1f}: {'; '.join(shown)}; "
        f"merged / own: served {beside['served'][0]:.2f}, p99 {beside['p99'][0]:.2f}"
    )


def is_short(cell: Mapping[str, Any]) -> bool:
    """Return True where the merged session is more than 10 % worse than one session per model."""
    beside = cell["ratios"][OWN]
    return bool(beside["served"][0] < 1 / WITHIN or beside["p99"][0] > WITHIN)


def summary(cells: Sequence[Mapping[str, Any]]) -> str:
    """Say how the merged session stands against one session per model, and where it falls short."""
    short = [cell for cell in cells if is_short(cell)]
    better = sum(cell["ratios"][OWN]["p99"][0] < 1 / WITHIN for cell in cells)
    busy = [cell for cell in cells if any(one["client_busy"] > BUSY for one in cell["ways"].values())]
    told = [
        f"{len(cells)} cells; more than 10 % worse than {OWN}: {len(short)}; p99 better by 10 %: {better}.",
        *(f"  worse: {line(cell)}" for cell in short),
    ]
    if busy:
        told.append(f"In {len(busy)} cells the clients took more than {BUSY:.0%} of a core.")
    return "\n".join(told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--families", nargs="+", choices=CASES, default=FAMILIES)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--mixes", nargs="+", choices=arrivals.MIXES, default=list(arrivals.MIXES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[MERGED, OWN, PER_MODEL])
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS, help="in parts of one by one")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a way's turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the tiny family, one turn of 0.3 s")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where families are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.ways = list(dict.fromkeys([MERGED, OWN, *given.ways]))
    if given.quick:
        given.families, given.mixes, given.loads = ["tiny"], ["uniform"], [0.5]
        given.seconds, given.turns = 0.3, 1
    return given


if __name__ == "__main__":
    sys.exit(main())
