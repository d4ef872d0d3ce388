"""Measures single calls of a merged session, in turns with the sessions of the sources.

    python bench/calls.py                       # all cases, about two minutes
    python bench/calls.py policy encoder --turns 5

    many    run_many of all models, one row each: N sessions one by one must take so many times as long (bar)
    rows    8 rows of one model: at most 1.1 times its own session
    row     one row of one model: at most 1.1 times its own session and 20 us more

Times are those of whole calls in Python. The sources' sessions have one thread, or share one pool of all
cores; what is faster counts. Each contender runs in a process of its own, and the last answer of each turn is
compared with those of the models' own sessions. It writes bench/results/serving_calls.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import rivals
from bench.children import Tasks, ask, child
from bench.load import machine
from bench.served import CASES, FOLDER, Served, agrees, prepared

RESULTS = Path(__file__).parent / "results" / "serving_calls.json"
BARS = {"policy-8": 2.2, "policy": 4.0, "encoder": 1.3, "mobilenet": 1.3}
"""The families that are measured, and how many times as long N sessions must take for one row of each model.
Others must only not lose."""
SHAPES = ("many", "rows", "row")
ROWS = 8
TIMES, ADDED = 1.1, 20e-6
"""The bars of a call of one model: times its own session's, and seconds more for one row."""
TURN = 0.1
"""Seconds of a turn."""


def main() -> int:
    given = _arguments()
    report: dict[str, Any] = {"machine": machine(), "turns": given.turns, "rows": []}
    for name in given.cases:
        for row in family(prepared(CASES[name], given.folder), given.turns, given.seconds):
            report["rows"].append(row)
            print(line(row), flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def family(served: Served, turns: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Measure the three shapes of calls of a family."""
    threads = list(dict.fromkeys(threads for _, threads in rivals.settings()))
    with ExitStack() as stack:
        own = stack.enter_context(child(merged, served))
        others = {f"threads {t}": stack.enter_context(child(sources, served, t)) for t in threads}
        for shape in SHAPES:
            samples: dict[str, list[float]] = {name: [] for name in ("merged", *others)}
            for turn in range(turns):
                order = list((others | {"merged": own}).items())
                for name, contender in order if turn % 2 else reversed(order):
                    samples[name].append(ask(contender, shape, seconds))
            yield figures(served, shape, samples)


def figures(served: Served, shape: str, samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the medians of the turns in microseconds; how many times as long the best sources' sessions
    take, from the medians, and its quartiles over the turns; and whether the bar holds."""
    best = min((name for name in samples if name != "merged"), key=lambda name: np.median(samples[name]))
    own, other = np.asarray(samples["merged"]), np.asarray(samples[best])
    ratio = float(np.median(other) / np.median(own))
    bar = BARS.get(served.name, 1.0) if shape == "many" else TIMES
    allowed = np.median(other) * TIMES + (ADDED if shape == "row" else 0.0)
    return {
        "family": served.name, "models": len(served.models), "call": shape, "best": best,
        "merged_us": round(1e6 * float(np.median(own)), 1),
        "sources_us": round(1e6 * float(np.median(other)), 1),
        "times": round(ratio, 3),
        "quartiles": [round(float(q), 3) for q in np.quantile(other / own, (0.25, 0.75))],
        "bar": bar,
        "holds": bool(ratio >= bar if shape == "many" else np.median(own) <= allowed),
    }  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    low, high = row["quartiles"]
    if row["call"] == "many":
        wanted = f"{row['times']:.2f} x ({low:.2f} - {high:.2f}), wanted {row['bar']}"
    else:
        more = row["merged_us"] - row["sources_us"]
        added = " + 20 us" if row["call"] == "row" else ""
        wanted = f"{1 / row['times']:.2f} of it ({more:+.1f} us), at most {row['bar']}{added}"
    told = "" if row["holds"] else "  SHORT"
    times = f"{row['merged_us']:10.1f} us, sources {row['sources_us']:10.1f} us ({row['best']})"
    return f"{row['family']:10} {row['models']:3} models, {row['call']:5}{times}: {wanted}{told}"


@contextmanager
def merged(served: Served) -> Iterator[Tasks]:
    """Open the merged session, and check its calls once."""
    from netfuse_onnx import MergedSession

    names = served.models
    with MergedSession(served.bundle) as session:
        every = [(name, served.feeds[m][0]) for m, name in enumerate(names)]
        one, joined = served.feeds[0][0], _joined(served)
        calls: dict[str, Callable[[], Any]] = {
            "many": lambda: session.run_many(every),
            "rows": lambda: session.run(names[0], joined),
            "row": lambda: session.run(names[0], one),
        }
        yield _tasks(served, calls, lambda answer: list(answer.values()))


@contextmanager
def sources(served: Served, threads: int) -> Iterator[Tasks]:
    """Open the sessions of the sources, which run one after the other."""
    runs = [session.run for session in rivals.opened(served.sources, threads)]
    pairs = [(run, served.feeds[m][0]) for m, run in enumerate(runs)]
    one, joined, first = served.feeds[0][0], _joined(served), runs[0]
    calls: dict[str, Callable[[], Any]] = {
        "many": lambda: [run(None, feeds) for run, feeds in pairs],
        "rows": lambda: first(None, joined),
        "row": lambda: first(None, one),
    }
    yield _tasks(served, calls, list)


def _joined(served: Served) -> dict[str, Any]:
    """Return a request of several rows for the first model: its drawn requests, one under the other."""
    return {
        name: np.concatenate([one[name] for one in served.feeds[0][:ROWS]]) for name in served.feeds[0][0]
    }


def _tasks(served: Served, calls: Mapping[str, Callable[[], Any]], values: Callable[[Any], Any]) -> Tasks:
    """Return the calls as tasks that are measured, and whose answers are compared with the right ones."""
    rows = [np.concatenate(found) for found in zip(*served.answers[0][:ROWS], strict=True)]
    right = {
        "many": [answers[0] for answers in served.answers],
        "rows": [rows],
        "row": [served.answers[0][0]],
    }

    def task(shape: str, seconds: float) -> float:
        taken, answer = _timed(calls[shape], seconds)
        got = [values(one) for one in (answer if shape == "many" else [answer])]
        if not all(agrees(one, want) for one, want in zip(got, right[shape], strict=True)):
            raise SystemExit(f"{served.name}, {shape}: a wrong answer")
        return taken

    return {shape: partial(task, shape) for shape in calls}


def _timed(call: Callable[[], Any], seconds: float) -> tuple[float, Any]:
    """Return the median time of a call in seconds, and its last answer."""
    clock, taken, answer = time.perf_counter, [], call()
    end = clock() + seconds
    while not taken or clock() < end:
        start = clock()
        answer = call()
        taken.append(clock() - start)
    return float(np.median(taken)), answer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("cases", nargs="*", default=list(BARS), help=", ".join(CASES))
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=TURN, help="of a contender's turn")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where families are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
