"""Does to `netfuse-onnx serve` what happens to servers, at full size, and says how it and its clients fared.

    python bench/server_chaos.py                        # all, some six minutes
    python bench/server_chaos.py --only mixed reload    # some of it

Each line is one trial. The exit code is 1 where a request had a wrong end, or a bound was missed. Stock
clients (tritonclient) run in this process, on the same machine, and hostile ones in processes of their own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import mixed, wire, wire_goodbye, wire_hostile, wire_mixed, wire_open, wire_reload
from bench.mixed import Mixed

MODELS = 8
GOODPUT = 0.95
"""The part of capacity that must be served under three times the load."""
GROWTH = 400.0
"""MiB by which memory may grow under a hostile client."""
SLOWEST = 2.0
"""Seconds in which 99 % of the requests of others must be answered under a hostile client."""
Lines = Iterator[tuple[str, list[str], Mapping[str, Any]]]
"""Trials: a name, the faults, and facts."""


def family(folder: Path) -> tuple[str, list[str]]:
    """Write the family of the load: the bundle, and the models' own files."""
    files = mixed.family(folder / "models", MODELS)
    out = str(folder / "bundle")
    netfuse_onnx.merge(files, out, io="stacked", views=True, verify=False)
    return out, files


def mixed_load(folder: Path, count: int = 10_000) -> Lines:
    """Send mixed load, 5 % of it poisoned."""
    bundle, files = family(folder)
    load = Mixed([files], poisoned=0.05)
    with wire.served(bundle, folder) as server:
        began = time.perf_counter()
        told = wire_mixed.load(server, load, count)
        took = time.perf_counter() - began
        facts = {"requests": told.sent, "innocent": load.outcomes["innocent"], "errors": dict(told.errors)}
        yield "mixed load", told.faults, {**facts, "per second": round(told.sent / took)}


def reload(folder: Path, count: int = 12) -> Lines:
    """Load new weights again and again under load."""
    told, reloads = wire_reload.reload_under_load(folder, count)
    slowest = f"{max(reloads.took):.3f} s"
    yield "reload", told.faults, {"requests": told.sent, "loads": count, "slowest load": slowest}


def end(folder: Path, rounds: int = 5) -> Lines:
    """Send SIGTERM under load, and with a full queue."""
    bundle, files = family(folder)
    for number in range(rounds):
        where = folder / str(number)
        where.mkdir()
        ended = wire_reload.end_under_load(bundle, Mixed([files], poisoned=0.0), where)
        wrong = ended.faults + ([f"exit code {ended.code}"] if ended.code else [])
        yield "SIGTERM under load", wrong, {
            "answered": ended.answered, "refused": ended.refused, "lost, sent later": ended.lost,
            "seconds": round(ended.seconds, 2),
        }  # fmt: skip
    slow = wire_open.family(folder / "slow")
    with wire.served(slow.bundle, folder) as server:
        found = wire_goodbye.drained(server, slow, 300)
        wrong = found.faults + ([f"exit code {found.code}"] if found.code else [])
        facts = {"accepted": found.accepted, "answered": found.answered, "refused": found.refused}
        yield "SIGTERM with a full queue", wrong, facts


def overload(folder: Path) -> Lines:
    """Send three times the load that can be served."""
    slow = wire_open.family(folder / "slow")
    with wire.served(slow.bundle, folder, "--max-queue", "64") as server:
        found = wire_open.overload(server, slow, rounds=5, seconds=5.0)
    wrong = list(found.faults)
    if max(found.goodput, found.per_cpu) < GOODPUT:
        wrong.append(f"goodput is {found.goodput:.2f}, {found.per_cpu:.2f} by processor time")
    half, most = found.refusals
    yield "overload", wrong, {
        "goodput": round(found.goodput, 3), "by processor time": round(found.per_cpu, 3),
        "refused": found.refused, "answered": found.answered,
        "refused in ms, half and 99 %": f"{half * 1e3:.0f}, {most * 1e3:.0f}",
    }  # fmt: skip


def hostile(folder: Path, seconds: float = 12.0) -> Lines:
    """Run each hostile client beside others."""
    bundle, files = family(folder)
    with wire.served(bundle, folder) as server:
        beside(server, files, 2.0)
        base = server.resident
        for name in wire_hostile.HOSTILE:
            with wire_hostile.apart(name, server, 1.0) as found:
                told = beside(server, files, seconds)
                after = server.resident
            wrong = told.faults + ([found["error"]] if "error" in found else [])
            if after > base + GROWTH:
                wrong.append(f"memory grew from {base:.0f} to {after:.0f} MiB")
            if told.quantile(0.99) > SLOWEST:
                wrong.append(f"p99 of others was {told.quantile(0.99):.2f} s")
            yield name, wrong, {
                "others": len(told.seconds), "p50, p99 in ms": _milliseconds(told), "MiB": round(after),
                **found,
            }  # fmt: skip


def beside(server: wire.Server, files: list[str], seconds: float) -> wire_mixed.Told:
    """Return what four clients saw that send right requests."""
    load, told = Mixed([files], poisoned=0.0), wire_mixed.Told()
    over = time.monotonic() + seconds
    wire_mixed.run_clients(server, load, told, 4, lambda: time.monotonic() > over)
    told.faults += load.faults
    return told


def _milliseconds(told: wire_mixed.Told) -> str:
    return ", ".join(f"{told.quantile(part) * 1e3:.1f}" for part in (0.5, 0.99))


def gone(folder: Path, count: int = 20_000) -> Lines:
    """Let clients go away in the middle of requests, and look for what stays."""
    slow = wire_open.family(folder / "slow")
    with wire.served(slow.bundle, folder) as server:
        for way in (wire_goodbye.disconnects, wire_goodbye.deadlines):
            found = way(server, slow, 200)
            yield way.__name__, found.faults, {"sent": found.sent, "cancelled": found.cancelled}
    bundle, files = family(folder)
    with wire.served(bundle, folder) as server:
        held = wire_goodbye.steady(server, Mixed([files], poisoned=0.2), count, warm=4000)
        facts = {"MiB, files, threads before": held.before, "after": held.after}
        yield f"{count} requests", held.faults, facts


TRIALS: Mapping[str, Callable[[Path], Lines]] = {
    "mixed": mixed_load, "reload": reload, "end": end, "overload": overload, "hostile": hostile, "gone": gone,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=[*TRIALS])
    wrong = 0
    for trial in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            for name, faults, facts in TRIALS[trial](Path(folder)):
                told = ", ".join(f"{key}: {value}" for key, value in facts.items())
                print(f"{'FAULT' if faults else 'ok':5} {name}: {told} {faults[:3] or ''}", flush=True)
                wrong += len(faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
