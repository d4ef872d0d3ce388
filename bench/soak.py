"""Serves mixed load for minutes: requests of all kinds, 5 % of them poisoned, and swaps.

    python bench/soak.py                    # 5 minutes
    python bench/soak.py --minutes 30

It samples memory, threads and open files after each round, prints their growth, and fails (exit code 1) where
one is not flat or a request had a wrong outcome. The first fifth of the rounds is left out: allocators and
ONNX Runtime's arenas reach their size there. Memory that malloc keeps although it is free is given back
before a sample. ONNX Runtime itself keeps about a kilobyte of each session that was closed, so files are
swapped once in twenty rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import mixed
from netfuse_onnx import MergedSession

MODELS, ROUND, SWAP = 4, 2_000, 20
"""The models of the family, the requests of a round, and the rounds from one swap to the next."""
CLIENTS = ("run", "submit", "asyncio", "run_many")
WARM = 0.2
"""The part of the rounds in which memory may still grow."""
GROWTH, LEAST = 0.03, 3.0
"""Memory is flat when it grows by less than this part from the first to the last third of the other rounds,
or by less than so many MiB."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds after a round. Sizes are in MiB."""

    seconds: float
    requests: int
    rss: float
    anonymous: float
    threads: int
    files: int


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="netfuse-soak-") as folder:
        samples, faults = soak(Path(folder), 60.0 * given.minutes)
    grown = growth(samples)
    print("\n".join([*told(samples), *grown, *faults[:20]]))
    print("NOT FLAT" if grown else f"{len(faults)} wrong outcomes" if faults else "flat, all outcomes right")
    return 1 if grown or faults else 0


def soak(folder: Path, seconds: float, clients: Sequence[str] = CLIENTS) -> tuple[list[Sample], list[str]]:
    """Serve for so many seconds. Returns a sample per round, and what went wrong."""
    sources = [mixed.family(folder / f"g{g}", MODELS, g) for g in (0, 1)]
    bundles = [str(folder / f"bundle-{g}") for g in (0, 1)]
    for paths, bundle in zip(sources, bundles, strict=True):
        netfuse_onnx.merge(paths, bundle, io="stacked", views=True, verify=False)
    load = mixed.Mixed(sources)
    samples: list[Sample] = []
    start = time.monotonic()
    with MergedSession(bundles[0]) as session:
        while time.monotonic() < start + seconds and not load.faults:
            sender = threading.Thread(target=mixed.send, args=(session, load, clients, ROUND, len(samples)))
            sender.start()
            if len(samples) % SWAP == SWAP // 2:
                session.swap(bundles[(len(samples) // SWAP + 1) % 2])
            sender.join()
            samples.append(sample(time.monotonic() - start, load.outcomes.total()))
    return samples, load.faults


def sample(seconds: float, requests: int) -> Sample:
    """Return what the process holds now. Sizes are those of /proc, and 0 where there is none. Files that are
    mapped count in RSS alone; PSS would depend on the other processes that map them."""
    gc.collect()
    _trim()
    rss, anonymous = _memory("/proc/self/status", "VmRSS:"), _memory("/proc/self/status", "RssAnon:")
    return Sample(
        seconds, requests, rss, anonymous, threading.active_count(), len(os.listdir("/proc/self/fd"))
    )


def _trim() -> None:
    """Have malloc give back what is free, where it can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _memory(path: str, name: str) -> float:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the rounds after the warm ones."""
    return samples[int(WARM * len(samples)) :]


def growth(samples: Sequence[Sample]) -> list[str]:
    """Say what is not flat."""
    kept = settled(samples)
    if len(kept) < 6:
        return [f"{len(samples)} rounds are too few to tell: serve for longer"]
    third = len(kept) // 3
    found = []
    for name in ("rss", "anonymous", "threads", "files"):
        first = float(np.median([getattr(one, name) for one in kept[:third]]))
        last = float(np.median([getattr(one, name) for one in kept[-third:]]))
        allowed = max(GROWTH * first, LEAST) if name in ("rss", "anonymous") else 1.0
        if last - first > allowed:
            found.append(f"{name} grows: {first:.1f} in the first third, {last:.1f} in the last")
    return found


def told(samples: Sequence[Sample]) -> list[str]:
    """Return the lines of a report, with the slope of memory over the requests."""
    kept = settled(samples)
    last = kept[-1]
    lines = [f"{len(samples)} rounds, {last.requests:,} requests in {last.seconds / 60:.1f} minutes"]
    for name in ("rss", "anonymous"):
        values = [getattr(one, name) for one in kept]
        slope = np.polyfit([one.requests for one in kept], values, 1)[0] if len(kept) > 1 else 0.0
        told_slope = f"slope {slope * 1e3 * 1024:+.2f} KiB per 1,000 requests"
        lines.append(f"{name}: {min(values):.1f} - {max(values):.1f} MiB, {told_slope}")
    return [*lines, f"threads: {last.threads}, open files: {last.files}"]


if __name__ == "__main__":
    sys.exit(main())
