"""Estimates what merged models take on a GPU, on a machine without one: the table "CUDA on paper".

    bench/launches/build.sh                      # once: ONNX Runtime's CUDA provider over stub libraries
    make paper                                   # all rows
    python bench/paper.py --only bert --models 8 --batches 1 --targets cuda
    python bench/paper.py --table                # only write the table again

For each family of bench/paper_models.py, number of models and batch it traces one source, and the merged
files of each target with separate and with stacked inputs and outputs. Rows that the results hold are
skipped, so a run that was cut short goes on where it stopped; --again makes the chosen rows anew.

Only shapes are traced. So merged files have holes where large weights go, and 32 models of BERT take a few MB
of disk. Values can't be proven on such files; the tests prove them on whole ones.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import paper_table
from bench.launches import trace
from bench.paper_models import BY_NAME
from netfuse_onnx import sources
from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe

COPIED_BELOW = 1 << 16
"""Bytes of a weight that is written in full: small ones may steer shapes."""
SOURCE = "source"
SLOWEST = 8
"""So many kinds of kernels are kept for each row: those that take most of the estimate."""


@dataclass(frozen=True)
class Case:
    """The file that one row of the table is about. A source is one model, which has no target or io."""

    family: str
    batch: int
    models: int = 1
    target: str = SOURCE
    io: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Case:
        return cls(*(row[key] for key in ("family", "batch", "models", "target", "io")))

    def __str__(self) -> str:
        return f"{self.family}, batch {self.batch}, {self.models} {self.target} {self.io}".rstrip()


class Results:
    """The rows that were traced, in a JSON file that is written after each."""

    def __init__(self, path: Path, env: Path) -> None:
        self._path, self._env = path, env
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        self._rows: dict[Case, dict[str, Any]] = {Case.of(row): row for row in rows}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self._rows[case] for case in sorted(self._rows, key=_rank)]

    def missing(self, cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if case not in self._rows]

    def forget(self, case: Case) -> None:
        self._rows.pop(case, None)

    def add(self, case: Case, figures: dict[str, Any]) -> None:
        self._rows[case] = asdict(case) | figures
        text = json.dumps({"onnxruntime-gpu": _version(self._env), "rows": self.rows}, indent=1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(text + "\n")
        part.rename(self._path)


def main() -> int:
    given = _arguments()
    results = Results(given.out, given.env)
    wanted = list(cases(given))
    for case in wanted if given.again else ():
        results.forget(case)
    jobs = [] if given.table else _jobs(results.missing(wanted), given)
    with ProcessPoolExecutor(given.jobs) as pool:
        for done in as_completed([pool.submit(run, job) for job in jobs]):
            for case, columns in done.result():
                results.add(case, columns)
                shown = columns.get("error") or f"{columns['launches']} launches, {columns['ms']} ms"
                print(f"{case}: {shown}", flush=True)
    paper_table.write(given.docs, results.rows)
    return 0


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Yields all rows that are asked for, the source of a family first."""
    merges = [(n, target, io) for n in given.models for target in given.targets for io in given.io]
    for name in given.only:
        yield from (Case(name, batch) for batch in given.batches)
        for files in merges:
            yield from (Case(name, batch, *files) for batch in given.batches)


@dataclass(frozen=True)
class Job:
    """Rows about one file, which is merged and traced in a process of its own."""

    cases: tuple[Case, ...]
    sources: tuple[Path, Path]
    work: Path
    env: Path


def _jobs(wanted: Sequence[Case], given: argparse.Namespace) -> list[Job]:
    """Returns the jobs for these rows. Families that do not exist yet are exported here, one by one."""
    jobs = []
    for _, same in itertools.groupby(wanted, lambda case: (case.family, case.models, case.target, case.io)):
        rows = tuple(same)
        paths = BY_NAME[rows[0].family].files(given.work / "models")
        jobs.append(Job(rows, paths, given.work, given.env))
    return jobs


def run(job: Job) -> list[tuple[Case, dict[str, Any]]]:
    """Returns the columns of each row. What can't be merged has its reason as `error`."""
    first = job.cases[0]
    if first.target == SOURCE:
        return _traced(job, job.sources[0])
    with tempfile.TemporaryDirectory(dir=job.work) as folder:
        out = Path(folder) / "merged.onnx"
        try:
            merge_without_weights(job.sources, out, first.models, target=first.target, io=first.io)
        except NetfuseError as error:
            return [(case, {"error": str(error), "cpu": 0, "memcpys": 0, "graph": ""}) for case in job.cases]
        return _traced(job, out)


def _traced(job: Job, path: Path) -> list[tuple[Case, dict[str, Any]]]:
    rows = []
    for case in job.cases:
        dims = {"batch": case.batch, **BY_NAME[case.family].sizes}
        report = trace.trace(path, trace.Settings(dims=dims, graph=True), job.env)
        rows.append((case, figures(report)))
    return rows


def merge_without_weights(paths: Sequence[Path], out: Path, count: int, *, target: str, io: str) -> None:
    """Merges `count` models, for which the paths are named in turn, into a file for the tracer alone: where
    large weights go, it has holes."""
    names = [f"m{model}" for model in range(count)]
    chosen = [str(paths[model % len(paths)]) for model in range(count)]
    loaded_once = mock.patch.object(sources, "load", functools.cache(sources.load))
    with _holes(), loaded_once:
        netfuse_onnx.merge(chosen, str(out), names=names, io=io, target=target, verify=False)


@contextmanager
def _holes() -> Iterator[None]:
    whole = weights.copy

    def copy(recipe: Recipe, fd: int, offset: int, progress: Callable[[int], None] | None = None) -> None:
        size = weights.recipe_nbytes(recipe)
        if size < COPIED_BELOW:
            whole(recipe, fd, offset, progress)
        else:
            os.ftruncate(fd, max(os.fstat(fd).st_size, offset + size))

    with mock.patch.object(weights, "copy", copy):
        yield


def figures(report: trace.Report) -> dict[str, Any]:
    """Returns the columns of a row from what the tracer found."""
    kept = {"cpu": len(report["on_cpu"]), "memcpys": len(report["memcpys"]), "graph": report.get("graph", "")}
    if "error" in report:
        return kept | {"error": report["error"]}
    gemms = dict.fromkeys(("strided", "plain", "pointers"), 0)
    for gemm in report["gemms"]:
        kind = "pointers" if gemm["pointers"] else "strided" if gemm["batch"] > 1 else "plain"
        gemms[kind] += gemm["count"]
    launches = report["launches"]
    times = {key: round(report["estimate"][key], 4) for key in ("ms", "graph_ms")}
    copies = sum(launches.get(f"copy {way}", 0) for way in ("H2D", "D2H"))
    slowest = ["{count} x {op}: {kernel}, {us:.0f} us".format(**one) for one in report["kernels"][:SLOWEST]]
    columns = {"launches": launches["all"], "gemms": gemms, "copies": copies, **times, "slowest": slowest}
    return kept | columns


def _rank(case: Case) -> tuple[object, ...]:
    order = list(BY_NAME)
    place = order.index(case.family) if case.family in order else len(order)
    return place, case.batch, case.target != SOURCE, -case.models, case.target != "generic", case.io


def _version(env: Path) -> str:
    """Returns the version of ONNX Runtime in the tracer's environment."""
    folders = [str(path) for path in env.glob("venv/lib/python*/site-packages")]
    found = importlib.metadata.distributions(name="onnxruntime-gpu", path=folders)
    return next((one.version for one in found), "unknown")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="NAME")
    parser.add_argument("--models", nargs="+", type=int, default=[32, 8], metavar="N")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="B")
    parser.add_argument("--targets", nargs="+", default=["generic", "cuda"], metavar="TARGET")
    parser.add_argument("--io", nargs="+", choices=("separate", "stacked"), default=["separate", "stacked"])
    parser.add_argument("--again", action="store_true", help="trace rows anew that the results hold")
    parser.add_argument("--table", action="store_true", help="trace nothing, write the table")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once; default: 2")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="default: build/bench")
    parser.add_argument("--out", type=Path, default=Path("bench/results/paper.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs/performance.md"), help="gets the table")
    parser.add_argument("--env", type=Path, default=trace.environment(), help="the tracer's environment")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    return given


if __name__ == "__main__":
    sys.exit(main())
