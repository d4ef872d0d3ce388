"""Measures all ways to run N LSTM layers with weights of their own in ONNX Runtime, by shape.

    python bench/recurrent.py                    # all shapes, about six minutes, and the table
    python bench/recurrent.py --only 8,1,1,40,64,1 8,100,1,40,64,1 --rounds 9

A shape is models, steps, batch, inputs, width of the state, directions. The forms in one graph (cells.py) and
the ways without one (sessions in sequence, a pool of single-threaded sessions) take turns, and their outputs
are checked equal before. A figure is a median over the rounds, of the shortest call in each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.cells import FORMS, Array, Sizes, single
from netfuse_onnx.run.runtime import onnxruntime

ort = onnxruntime()

CORES = 2
CLOSE = 1e-4
"""The largest difference from the outputs of the N sessions, whose values are below 1."""
WIDEST = 512
"""The widest state of a block diagonal form: beyond it the zeros cost many times the rest."""
LONGEST = 32
"""The most steps that are written out: with more, loading takes longer than all rounds."""

SHAPES = (
    (8, 1, 1, 40, 32), (8, 1, 1, 40, 64), (8, 1, 1, 64, 128), (8, 1, 8, 40, 64), (2, 1, 1, 40, 64),
    (32, 1, 1, 40, 64), (8, 2, 1, 40, 64), (8, 4, 1, 40, 64), (8, 10, 1, 40, 64), (8, 20, 1, 40, 32),
    (8, 20, 1, 40, 64), (8, 20, 8, 40, 64), (8, 20, 1, 200, 100, 2), (8, 50, 1, 200, 100, 2),
    (8, 100, 1, 40, 64), (8, 100, 1, 128, 128), (8, 20, 1, 16, 8), (32, 20, 1, 16, 8), (32, 20, 1, 40, 32),
)  # fmt: skip
"""Streaming detectors make one step a call; spotters and seizure detectors read 20 to 100."""

Run = Callable[[], Array]


def session(model: bytes, threads: int, branches: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads > 1)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if branches > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = branches
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def alternatives(sizes: Sizes, drawn: Mapping[str, Array]) -> dict[str, Run]:
    """The ways to run the models that merge nothing."""
    models = [single(sizes, drawn, m) for m in range(sizes.models)]
    fed = [{name: drawn[name][m] for name in "xhc"} for m in range(sizes.models)]
    alone, threaded = ([session(model, n) for model in models] for n in (1, CORES))
    pool = ThreadPoolExecutor(CORES)

    def some(sessions: Sequence[ort.InferenceSession], which: Sequence[int]) -> list[Array]:
        return [sessions[m].run(None, fed[m])[0] for m in which]

    def pooled() -> Array:
        shares = [range(k, sizes.models, CORES) for k in range(CORES)]
        parts = list(pool.map(lambda share: some(alone, share), shares))
        return np.stack([parts[m % CORES][m // CORES] for m in range(sizes.models)])

    every = range(sizes.models)
    apart = FORMS["once per model"](sizes, drawn)
    return {
        "in sequence": lambda: np.stack(some(alone, every)),
        "in sequence, threads": lambda: np.stack(some(threaded, every)),
        "concurrent": pooled,
        "side by side, branches": _one(session(apart, 1, CORES + 1), drawn),
    }


def forms(sizes: Sizes, drawn: Mapping[str, Array]) -> dict[str, Run]:
    """The forms in one graph, each with one thread and with all."""
    runs = {}
    for name, write in FORMS.items():
        wide = name == "block diagonal" and sizes.models * sizes.hidden > WIDEST
        if wide or (name in ("products", "convolutions") and sizes.steps > LONGEST):
            continue
        model = write(sizes, drawn)
        for threads in (1, CORES):
            runs[f"{name} {threads}"] = _one(session(model, threads), drawn)
    return runs


def _one(loaded: ort.InferenceSession, drawn: Mapping[str, Array]) -> Run:
    fed = {name: drawn[name] for name in "xhc"}
    return lambda: loaded.run(None, fed)[0]


# --------------------------------------------------------------------------- turns


def measured(sizes: Sizes, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds of each way in each round: the shortest call of those that fit into `seconds`."""
    drawn = sizes.drawn()
    ways = alternatives(sizes, drawn) | forms(sizes, drawn)
    expected = ways["in sequence"]()
    for name, run in ways.items():
        difference = float(np.abs(run() - expected).max())
        if not difference < CLOSE:
            raise SystemExit(f"{name} differs by {difference:.2g} for {sizes}.")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(_shortest(run, seconds))
    return times


def _shortest(run: Run, seconds: float) -> float:
    shortest, end = float("inf"), time.perf_counter() + seconds
    run()
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        shortest = min(shortest, now - start)
        if now > end:
            return shortest * 1e6


def row(sizes: Sizes, times: Mapping[str, Sequence[float]]) -> str:
    """One line of the table. N nodes in one graph are the other side of the comparison, as side by side."""
    best: dict[str, list[float]] = {}
    for name, some in times.items():
        form = name.rpartition(" ")[0] if name[-1].isdigit() else "apart"
        own = best.setdefault("apart" if form == "once per model" else form, list(some))
        own[:] = map(min, own, some)
    apart = best.pop("apart")
    ratios = {
        name: statistics.median(a / b for a, b in zip(apart, some, strict=True))
        for name, some in best.items()
    }
    cells = [f"{ratios[name]:.2f}" if name in ratios else "" for name in FORMS if name != "once per model"]
    shape = (sizes.models, sizes.steps, sizes.batch, sizes.inputs, sizes.hidden, sizes.directions)
    return f"| {' | '.join(map(str, shape))} | {statistics.median(apart):.0f} | {' | '.join(cells)} |"


COLUMNS = ("models", "steps", "batch", "inputs", "state", "directions", "best apart, us", *list(FORMS)[1:])
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---:|' * len(COLUMNS)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", help="shapes, such as 8,1,1,40,64,1")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.05, help="of each way in each round")
    args = parser.parse_args()
    shapes = [tuple(map(int, text.split(","))) for text in args.only] if args.only else SHAPES
    print(HEAD)
    for shape in shapes:
        sizes = Sizes(*shape)
        print(row(sizes, measured(sizes, args.rounds, args.seconds)), flush=True)


if __name__ == "__main__":
    main()
