"""Measures plan-fleet: the heuristic beside the solver on small fleets, the simulation of plans beside their
targets, and the time for large fleets.

    python bench/fleet.py                      # all three: 200 fleets, 20 plans, 10,000 models
    python bench/fleet.py --fleets 200 --plans 0 --models 0
    python bench/fleet.py --fleets 0 --plans 0 --models 10000

Fleets are drawn from seeds (tests/fleets.py), with the cost tables of tests/costs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from fleets import gap, large, medium

from netfuse_onnx import NetfuseError, plan_fleet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fleets", type=int, default=200)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--models", type=int, nargs="*", default=[10_000])
    given = parser.parse_args()
    if given.fleets:
        gaps(given.fleets)
    if given.plans:
        plans(given.plans)
    for models in given.models:
        if models:
            timed(models)


def gaps(count: int) -> None:
    """Compare the heuristic with the solver on so many fleets that both can plan."""
    found, seed, start = list[float](), 0, time.monotonic()
    while len(found) < count:
        one = gap(seed)
        if one is not None:
            found.append(one)
            if one > 0.05:
                print(f"seed {seed}: {one:.1%} above the optimum", flush=True)
        seed += 1
    over = sum(one > 0.05 for one in found)
    print(
        f"{count} fleets of {seed} seeds in {time.monotonic() - start:.0f} s: {over} more than 5 % above the "
        f"optimum, the worst {max(found):.1%}, the mean {sum(found) / count:.2%}",
        flush=True,
    )


def plans(count: int) -> None:
    """Compare the simulated latencies of plans with their targets."""
    worst = []
    for seed in range(count):
        start = time.monotonic()
        try:
            report = plan_fleet(medium(seed), compare=False)
        except NetfuseError as error:
            print(f"seed {seed}: {error}")
            continue
        worst.append(report.worst or 0.0)
        print(
            f"seed {seed}: {report.models} models, {len(report.machines)} machines, bound {report.bound:g}, "
            f"worst p99 {worst[-1]:.2f} of its target, {time.monotonic() - start:.1f} s",
            flush=True,
        )
    print(f"worst p99 over its target: {min(worst):.2f} to {max(worst):.2f}", flush=True)


def timed(models: int) -> None:
    """Plan one large fleet."""
    start = time.monotonic()
    report = plan_fleet(large(models), compare=False)
    print(
        f"{models} models: {time.monotonic() - start:.1f} s, {len(report.machines)} machines, bound "
        f"{report.bound:g}, worst p99 {report.worst:.2f} of its target ({report.simulated} simulated)",
        flush=True,
    )


if __name__ == "__main__":
    main()
