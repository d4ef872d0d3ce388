"""Fuzzes the compiler: random families are merged, by the cheapest plan and a random one, and compared.

    python tests/fuzz.py --count 5000 --seed 1 [--jobs 2]
    python tests/fuzz.py --one 1000042

Every graph has a seed of its own, printed where it fails, with the smallest graph that still fails.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import oracle
from fuzzing.case import Case, draw
from fuzzing.shrink import shrink
from fuzzing.trial import Discard, Failure, examine

SPAN = 1_000_000
"""Graph k of seed s has the seed s * SPAN + k."""

Verdict = tuple[int, str, str, dict[str, int]]
"""The graph's seed; ok, discard or failure; what was found; counts."""


def one(seed: int, *, minimise: bool = True, plans: int = 1) -> Verdict:
    """Draw, merge and compare the graph of a seed."""
    with tempfile.TemporaryDirectory() as folder:
        return judge(draw(seed), Path(folder), minimise=minimise, plans=plans)


def judge(case: Case, folder: Path, *, minimise: bool = True, plans: int = 1) -> Verdict:
    """Merge and compare; files go into `folder`, over those of the case before."""
    (folder / "again").mkdir(exist_ok=True)
    seed = case.seed
    if not case.model.graph.output or not case.values:
        return seed, "discard", "no node worked out, or nothing differs", {}
    try:
        return seed, "ok", "", examine(case, folder, plans=plans)
    except Discard as reason:
        return seed, "discard", str(reason), {}
    except Failure as failure:
        found = failure
    if minimise:
        case, found = shrink(case, found, folder)
    chosen = [] if found.plan is None else [
        f"  {low.became} {low.rule} {[str(t) for t in low.takes]} -> {[str(g) for g in low.gives]}"
        for low in found.plan.lowerings
    ]  # fmt: skip
    return seed, "failure", "\n".join([str(found), str(case), *chosen]), {}


@dataclass(frozen=True)
class Options:
    folder: Path
    minimise: bool = True
    plans: int = 1


def _work(seeds: Connection, verdicts: Connection, options: Options) -> None:
    while True:
        case = draw(seeds.recv())
        _checked_alone(case, options.folder)
        verdicts.send(None)  # whatever happens now is no fault of a single operator
        verdict = judge(case, options.folder, minimise=options.minimise, plans=options.plans)
        verdicts.send(verdict)
        if "CUDA failure" in verdict[2] or "CUDA is lost" in verdict[2]:
            return  # to this process all that follows would be wrong


def _checked_alone(case: Case, folder: Path) -> None:
    """onnx's checker (1.23) ends the process on some graphs, which no merge can help."""
    with contextlib.suppress(Exception):  # what it only refuses is told later
        oracle.passes_checker(str(oracle.as_models(case.model, case.values, case.role, folder)[0]))


class _Worker:
    """A process of its own, since ONNX Runtime aborts on some graphs."""

    def __init__(self, options: Options) -> None:
        options.folder.mkdir(exist_ok=True)
        self.options = options
        context = multiprocessing.get_context("spawn")
        theirs, self.seeds = context.Pipe(duplex=False)
        self.verdicts, there = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, there, options), daemon=True)
        self.process.start()
        theirs.close()
        there.close()
        self.seed = 0
        self.drawn = self.dead = False

    def give(self, seed: int) -> None:
        self.seed, self.drawn = seed, False
        with contextlib.suppress(BrokenPipeError):  # `verdict` tells that it died
            self.seeds.send(seed)

    def verdict(self) -> Verdict | None:
        """What it sent; a process that died drawing a graph died of an operator that runs alone."""
        try:
            found: Verdict | None = self.verdicts.recv()
        except EOFError:
            self.dead = True
            kind = "failure" if self.drawn else "discard"
            return self.seed, kind, "the process died", {}
        self.drawn = found is None
        return found


def fuzz(seed: int, count: int, *, jobs: int = 1, minimise: bool = True, plans: int = 1) -> Iterator[Verdict]:
    """Verdicts until `count` graphs were compared or failed."""
    queue = iter(range(seed * SPAN, (seed + 1) * SPAN))
    with tempfile.TemporaryDirectory() as name:
        workers = [_Worker(Options(Path(name) / str(k), minimise, plans)) for k in range(jobs)]
        yield from _verdicts(workers, queue, count)
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _verdicts(workers: list[_Worker], queue: Iterator[int], count: int) -> Iterator[Verdict]:
    for worker in workers:
        worker.give(next(queue))
    done = 0
    while done < count:
        ready = wait([worker.verdicts for worker in workers])
        for k, worker in enumerate(workers):
            if worker.verdicts not in ready or (verdict := worker.verdict()) is None:
                continue
            if worker.dead:
                worker = workers[k] = _Worker(worker.options)
            done += verdict[1] != "discard"
            yield verdict
            worker.give(next(queue))


def summary(verdicts: Iterator[Verdict], *, say: bool = True) -> tuple[Counter[str], list[Verdict]]:
    """Counts, and the failures; each is printed as it is found."""
    counts: Counter[str] = Counter()
    failures = []
    for verdict in verdicts:
        counts[verdict[1]] += 1
        counts.update(verdict[3])
        if verdict[1] == "discard":
            counts[f"discarded: {verdict[2][:60]}"] += 1
        if verdict[1] == "failure":
            failures.append(verdict)
            if say:
                _print(f"\nFAILURE --one {verdict[0]}\n{verdict[2]}")
    return counts, failures


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="graphs that are compared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plans", type=int, default=1, help="random plans for each graph")
    parser.add_argument("--one", type=int, help="the graph of this seed alone")
    parser.add_argument("--no-minimise", action="store_true")
    options = parser.parse_args()
    if options.one is not None:
        _print(str(draw(options.one)))
        verdict = one(options.one, minimise=not options.no_minimise, plans=options.plans)
        _print(f"{verdict[1]} {verdict[2]} {verdict[3]}")
        return int(verdict[1] == "failure")
    start = time.perf_counter()
    found = fuzz(options.seed, options.count, jobs=options.jobs, minimise=not options.no_minimise,
                 plans=options.plans)  # fmt: skip
    counts, failures = summary(found)
    seconds = time.perf_counter() - start
    compared = counts["ok"] + counts["failure"]
    tried = compared + counts["discard"]
    _print(f"seed {options.seed}: {compared} graphs compared in {seconds:.0f} s ({compared / seconds:.0f}/s), "
           f"{counts['discard'] / tried:.0%} discarded, {len(failures)} failed")  # fmt: skip
    for name, count in counts.most_common():
        if name not in ("ok", "failure", "discard"):
            _print(f"  {count:6} {name}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
