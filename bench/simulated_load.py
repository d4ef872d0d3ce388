"""Simulates loads on the scheduler and its rivals, and prints p50, p99 and served load of every cell.

    python bench/simulated_load.py                                  # all tables of tests/costs
    python bench/simulated_load.py --families policy lora --workers 1 --count 5000 --seeds 5
    python bench/simulated_load.py -o build/simulated_load.json     # for a plot
    python bench/simulated_load.py --choices                        # what a choice costs on this machine

A load is a part of what the sources' sessions serve one by one. A line has our served load and 99th
percentile beside the better of the rivals, and `worse` where a bar is missed. Requests of all seeds count
together. No thread runs: the times of calls are those of bench/call_costs.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import timeit
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from simulated import FORM, TABLES, Cell, Served, recorded

from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.runtime.schedule import Limits, Waiting, choose
from netfuse_onnx.runtime.types import Request

LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 3.0)
KINDS = ("uniform", "zipf", "two")
RIVALS = ("one by one", "per model")


def main() -> None:
    arguments = parsed()
    if arguments.choices:
        print_choices()
        return
    rows = []
    print(f"{'':34}{'load':>6}{'p99':>7}  p99 in ms: one by one, per model, ours")
    for family in arguments.families:
        costs = recorded(family)
        for workers in arguments.workers:
            least = merges_from(costs, costs.models, FORM, workers)
            print(f"{family}, {workers} workers: a merged call pays from {least} of {costs.models} models on")
        for workers, kind, load in itertools.product(arguments.workers, KINDS, arguments.loads):
            cell = Cell(family, workers, kind, load)
            rows.append(line(cell, cell.compared(arguments.count, range(arguments.seeds))))
    tell(rows)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", nargs="+", default=sorted(path.stem for path in TABLES.glob("*.json")))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument("--count", type=int, default=2000, help="requests of a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("-o", "--out")
    return parser.parse_args()


def line(cell: Cell, found: dict[str, Served]) -> dict[str, Any]:
    """Print a cell, and return its figures: milliseconds, and requests a second."""
    ours = found["ours"]
    load = ours.load / max(found[name].load for name in RIVALS)
    best = min(found[name].percentile(99) for name in RIVALS)
    p99 = ours.percentile(99) / best
    worse = load < 0.99 or ours.percentile(99) > 1.1 * best + 1e-4
    where = f"{cell.family}, {cell.workers} workers, {cell.kind}, {cell.load}"
    times = ", ".join(f"{1e3 * found[name].percentile(99):.3f}" for name in (*RIVALS, "ours"))
    print(f"{where:34}{load:6.3f}{p99:7.3f}  {times}{'  worse' if worse else ''}", flush=True)
    ways = {
        name: {
            "p50_ms": 1e3 * served.percentile(50),
            "p99_ms": 1e3 * served.percentile(99),
            "served_per_s": served.load,
            "refused": served.refused,
        }
        for name, served in found.items()
    }
    at = {"family": cell.family, "workers": cell.workers, "kind": cell.kind, "load": cell.load}
    return at | {"load_ratio": load, "p99_ratio": p99, "worse": worse, "ways": ways}


def tell(rows: list[dict[str, Any]]) -> None:
    ratios = [row["p99_ratio"] for row in rows]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(
        f"{len(rows)} cells, {sum(row['worse'] for row in rows)} worse than a rival; p99 {min(ratios):.2f} to"
    )
    print(f"{max(ratios):.2f} times the better rival's, geometric mean {mean:.3f};")
    print(f"served load {min(row['load_ratio'] for row in rows):.3f} times the better rival's and more.")


def print_choices() -> None:
    """Print what a choice costs, in microseconds: the shortest of many."""
    limits = Limits()
    for family, models, deep in (
        ("policy", 8, 1),
        ("policy", 20, 1),
        ("policy", 8, 6),
        ("lora-selected", 8, 1),
    ):
        costs, waiting = recorded(family), Waiting()
        for turn, model in itertools.product(range(deep), range(models)):
            waiting.add(Request(model, (), 1, FORM, turn + model / 100))
        times = timeit.repeat(lambda: choose(waiting, costs, 9.0, limits), number=100, repeat=100)  # noqa: B023
        print(f"{family}, {models} models with {deep} requests each: {min(times) / 100 * 1e6:.1f} us")


if __name__ == "__main__":
    main()
