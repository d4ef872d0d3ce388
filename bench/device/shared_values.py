"""Compares values of files that choose, route, share, hold factors or combine: `shared_values.py --out OUT`.

Each merged file is compared with the sources' own sessions on the same provider: TF32 off and on,
optimisations on and off, with inputs and outputs at fixed places, and as a CUDA graph, where one can be
captured. Ids that are no model and other numbers of rows than ids must fail, and the call after such a
failure must be right. The merge itself is proven on the provider. OUT/shared.jsonl gets a line per file and
way of running at once; a line whose `wrong` is not empty is a finding. The tests' folder has to be on the
path.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from shared_families import Call, Calls, Feeds, Form, error, family, forms, merged, processes

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.measure.sessions import Settings, session
from netfuse_onnx.run.bound import Bound
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session

ALLOWED = {False: 2e-4, True: 2e-2}
"""The largest difference of an output beside its largest value, without and with TF32."""
LOST = ("CUDA failure 7", "fell back to the CPU")
"""In an error after which a process can't use the GPU any more."""


class Checked:
    """One file gave this in one way of running."""

    def __init__(self, form: Form, **about: Any) -> None:
        self.row: dict[str, Any] = {"part": "values", "file": str(form), **about}
        self.worst, self.calls, self.refused = 0.0, 0, 0
        self.wrong: list[str] = []

    def line(self) -> dict[str, Any]:
        counts = {"calls": self.calls, "worst": self.worst, "refused": self.refused}
        return {**self.row, **counts, "wrong": self.wrong[:5], "ok": not self.wrong}

    def compare(self, what: str, got: Feeds, call: Call, allowed: float) -> None:
        self.calls += 1
        gaps = {n: error(np.asarray(got[n]), want) for n, want in call.wants.items()}
        self.worst = max(self.worst, *gaps.values())
        self.wrong += [f"{what}: {n} differs by {gap:.2g}" for n, gap in gaps.items() if gap > allowed]


def check(form: Form, provider: str, proven: bool) -> Iterator[dict[str, Any]]:
    """Make a file and yield a line for each way of running it."""
    with tempfile.TemporaryDirectory(prefix="netfuse-shared-") as place:
        folder, runtime = Path(place), Runtime(provider)
        own = family(form.family, folder)
        try:
            path = merged(form, own, folder, provider, proven=proven)
        except NetfuseError as reason:
            refused = type(reason).__name__ in ("NotRoutable", "NotStackable", "NotCombinable")
            about = Checked(form, way="merge", said=str(reason)[:300])
            about.wrong += [] if refused else [str(reason)[:300]]
            yield about.line()
            return
        for tf32 in (False, True) if provider == "cuda" else (False,):
            sources = [Session(one, runtime, tf32=tf32) for one in own.paths]
            calls = Calls(form, own, lambda m, feeds, s=sources: s[m].run(feeds))  # type: ignore[misc]
            allowed, distinct = ALLOWED[tf32], calls.distinct()
            good = [*calls.good()]
            for optimise in (True, False):
                about = Checked(form, tf32=tf32, optimise=optimise, distinct=distinct, proven=proven)
                runner = Session(path, runtime, tf32=tf32, optimise=optimise)
                about.row |= {"way": "arrays", "placed": runner.placed}
                if distinct < 3 * allowed:
                    about.wrong.append("it can't tell two models apart")
                _arrays(about, runner, calls, good, allowed)
                yield about.line()
            if provider == "cuda" and not tf32:
                yield from _fixed(form, path, runtime, calls, distinct)


def _arrays(about: Checked, runner: Session, calls: Calls, good: Sequence[Call], allowed: float) -> None:
    """Right calls, then each wrong one with a right one after it."""
    for call in good:
        _right(about, f"ids {call.feeds.get(calls.ids)}", runner, call, allowed)
    for turn, (what, feeds) in enumerate(calls.wrong()):
        try:
            runner.run(feeds)
            about.wrong.append(f"gives an answer: {what}")
        except RunFailed as failed:
            about.refused += 1
            about.row.setdefault("said", str(failed)[:160])
        _right(about, f"after {what}", runner, good[turn % len(good)], allowed)


def _right(about: Checked, what: str, runner: Session, call: Call, allowed: float) -> None:
    try:
        about.compare(what, runner.run(call.feeds), call, allowed)  # type: ignore[arg-type]
    except RunFailed as failed:
        about.wrong.append(f"{what}: fails: {failed}"[:300])


def _fixed(
    form: Form, path: str, runtime: Runtime, calls: Calls, distinct: float
) -> Iterator[dict[str, Any]]:
    """With inputs and outputs at fixed places, and as a CUDA graph, which replays whatever it is fed."""
    orders = [[2, 0, 1, 0], [1, 1, 0, 2]] if calls.ids else [[0, 1, 2]] * 2
    two = [calls.call(ids, seed) for ids, seed in zip(orders, (0, 2), strict=True)]
    for graph in (False, True):
        about = Checked(form, way="CUDA graph" if graph else "bound", tf32=False, distinct=distinct)
        try:
            made = session(path, runtime, Settings(graph=graph, exact=True))
            bound = Bound(made, two[0].feeds, two[0].wants, runtime)
            for call in (two[0], two[1], two[0]):
                about.compare("a call", bound.call(call.feeds), call, ALLOWED[False])  # type: ignore[arg-type]
        except RunFailed as failed:
            about.row["said"] = str(failed)[:300]
            about.wrong += [] if graph else ["it does not run at fixed places"]
            yield about.line()
            continue
        for what, feeds in calls.wrong():
            if len(feeds[calls.ids]) != 4:
                continue
            try:
                bound.call(feeds)
                about.wrong.append(f"gives an answer: {what}")
            except RunFailed:
                about.refused += 1
            try:
                about.compare(f"after {what}", bound.call(two[1].feeds), two[1], ALLOWED[False])  # type: ignore[arg-type]
            except RunFailed as failed:
                about.wrong.append(f"after {what}: fails: {failed}"[:300])
        yield about.line()


# --------------------------------------------------------------------------- many at once


def work(form: Form, provider: str, proven: bool, out: str) -> str:
    """Check one form in a process of a pool, and append its lines. A process that has lost the GPU ends."""
    start, last = time.monotonic(), ""
    try:
        for row in check(form, provider, proven):
            _append(out, row)
            last = next(filter(_lost, row["wrong"]), last or "".join(row["wrong"][:1]))
    except Exception as failed:  # a check that breaks is a finding, too
        last = f"{type(failed).__name__}: {failed}"[:300]
        _append(out, {"part": "values", "file": str(form), "wrong": [last], "ok": False})
    if _lost(last):
        os._exit(1)
    return f"{form}: {last or 'ok'}, {time.monotonic() - start:.1f} s"


def _lost(said: str) -> bool:
    return any(text in said for text in LOST)


def _append(out: str, row: object) -> None:
    with open(out, "a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> int:
    given = _arguments()
    end = time.monotonic() + given.seconds
    every = [form for form in forms() if given.match in str(form)]
    todo, out = every[: given.most], str(given.out / "shared.jsonl")
    done, wrong = 0, 0
    while todo and time.monotonic() < end:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(given.processes, context)
        jobs = {pool.submit(work, f, given.provider, not given.quick, out): f for f in todo}
        try:
            for job in as_completed(jobs, max(1.0, end - time.monotonic())):
                said, done = job.result(), done + 1
                todo.remove(jobs[job])
                wrong += not said.rpartition(", ")[0].endswith(": ok")
                print(said, flush=True)
        except BrokenProcessPool:
            lost = [form for job, form in jobs.items() if job.done() and form in todo][:1]
            print(f"lost a process; going on without {[*map(str, lost)]}", flush=True)
            todo = [form for form in todo if form not in lost]
        except TimeoutError:
            print("the time is up", flush=True)
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
    print(f"values: {done} files checked, {wrong} with findings, {len(todo)} left out", flush=True)
    sys.stdout.flush()
    os._exit(int(bool(wrong)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=processes())
    parser.add_argument("--match", default="", help="check only files with this in their names")
    parser.add_argument("--most", type=int, help="check only so many files")
    parser.add_argument("--quick", action="store_true", help="without the proofs of the merge")
    return parser.parse_args()


if __name__ == "__main__":
    main()
