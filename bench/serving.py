"""Measures merged models against every other way to run N models, and writes one JSON file per case.

    make bench
    make bench PROVIDER=cuda BUDGET=540        # what fits into nine minutes
    python bench/serving.py --only policy tabular --counts 2 8 --batches 1
    python bench/serving.py --provider cuda --budget 540 --graphs build/bench/graphs

A case is a network, a number of models, a batch and a type. Each runs in a process of its own, the headline
(the paper's four, 32 and 8 models, batch 1) first. Cases whose file is there are skipped, so a run that was
cut short goes on where it stopped. The comparison itself is netfuse_onnx/measure, as in `netfuse-onnx bench`.

On CUDA the results are written after each way, so that a case that is cut short counts as far as it got. With
--graphs, models are drawn from graphs without weights (graphs.py), which takes seconds and no torch.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import drawn, models, vmap
from bench.merging import Plan, merged
from bench.zoo import PAPER, ROWS, ZOO, Measured
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.rounds import Effort
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.run import runtime
from netfuse_onnx.run.observe import observed

HEADLINE = (32, 8)
COUNTS = (1, 2, 4, 8, 16, 32)
STACKED_UP_TO = 4e9
"""Bytes of weights: with more, copying inputs and outputs is nothing beside them, and disks are small. On
CUDA, ways that write files or start processes are left out with more."""
EXIT = {0: "done", 1: "outputs differ, or the merged model does not run"}
ON_CUDA = (
    ("resnet50", 8, "fp32"), ("resnet50", 32, "fp32"), ("bert", 8, "fp32"), ("bert", 32, "fp32"),
    ("resnext50", 32, "fp32"), ("xlnet", 32, "fp32"), ("bert", 32, "fp16"), ("resnet50", 32, "fp16"),
    ("tabular", 32, "fp32"), ("mobilenet-96", 32, "fp32"), ("vit", 32, "fp32"),
)  # fmt: skip
"""The cases that come first on CUDA, at batch 1: network, models, type."""
EXACT_UP_TO = 8
"""On CUDA, cases with up to so many models are measured with TF32 off as well, and compared strictly."""
LIMIT = 90.0
"""No way starts after so many seconds of a case on CUDA."""
GRACE = 30.0
"""A case on CUDA is ended when it has taken so many seconds more than LIMIT. Its results so far stay."""
LEAST_LEFT, RESERVE = 20.0, 4.0
"""On CUDA no case starts with fewer seconds left, and the last ones of them are for ending."""
TINY_COUNT, TINY_WORDS = 3, 16
"""The models of a trial, and the largest size of its symbolic dims."""
PROCESSES = 4
"""Merges that run at once on CUDA."""


@dataclass(frozen=True)
class Case:
    """The case of one file of results."""

    name: str
    count: int
    batch: int
    dtype: str

    @property
    def stem(self) -> str:
        return f"{self.name}-n{self.count}-b{self.batch}-{self.dtype}"


def main() -> int:
    given = _arguments()
    if given.one:
        return measure(Case(**json.loads(given.one)), given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the case that runs ends, too
    given.out.mkdir(parents=True, exist_ok=True)
    start, failed = time.monotonic(), 0
    todo = [case for case in cases(given) if not _done(given.out / f"{case.stem}.json")]
    for number, case in enumerate(todo):
        left = given.budget - (time.monotonic() - start)
        if left <= (0 if given.provider == "cpu" or given.tiny else LEAST_LEFT):
            print("The time is up; run again to go on.")
            break
        print(f"{case.stem}: ", end="", flush=True)
        said = _apart(case, given, left)
        print(said, flush=True)
        failed += said != EXIT[0]
        if not any(_graph(case, given) == _graph(later, given) for later in todo[number + 1 :]):
            shutil.rmtree(_models(case, given), ignore_errors=True)
    return 1 if failed else 0


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """The headline, then the small and the usual ones at its sizes, then the rest. On CUDA those of ON_CUDA
    come first. With graphs, there are only cases that have one."""
    rows = [row for row in ROWS if not given.only or row.name in given.only]
    found = [
        (row, n, b, d) for d in given.dtypes for b in given.batches for n in given.counts for row in rows
    ]
    first = ON_CUDA if given.provider == "cuda" else ()

    def rank(item: tuple[Measured, int, int, str]) -> tuple[object, ...]:
        row, count, batch, dtype = item
        key = (row.name, count, dtype)
        early = first.index(key) if batch == 1 and key in first else len(first)
        other = count not in HEADLINE or batch != 1 or dtype != "fp32"
        return early, other, row.group != PAPER, dtype != "fp32", batch, -count

    for row, count, batch, dtype in sorted(found, key=rank):
        case = Case(row.name, count, batch, dtype)
        graph = _graph(case, given)
        if graph is None or graph.exists():
            yield case


def _graph(case: Case, given: argparse.Namespace) -> Path | None:
    """The graph from which the models of a case are drawn; None where they are exported."""
    if given.graphs is None:
        return None
    stem = case.name + ("-tiny" if given.tiny else "") + ("-fp16" if case.dtype == "fp16" else "")
    return Path(given.graphs) / f"{stem}.onnx"


def _models(case: Case, given: argparse.Namespace) -> Path:
    """The folder of drawn models. Exported ones stay: making them again takes minutes."""
    graph = _graph(case, given)
    return Path(given.work / "drawn" / graph.stem) if graph else Path(given.work / "none")


def _done(path: Path) -> bool:
    return path.exists() and not json.loads(path.read_text()).get("cut")


def _apart(case: Case, given: argparse.Namespace, left: float) -> str:
    """One case in a process of its own, so that it starts with clean memory and may be killed."""
    limit = LIMIT if given.provider == "cuda" else math.inf
    until = time.time() + min(left, limit) - RESERVE
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case)), *_words(given)]
    command += ["--until", str(until if given.provider == "cuda" else math.inf)]
    start = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        said, wrong = process.communicate(timeout=min(left, limit + GRACE, 1e6))
    except subprocess.TimeoutExpired:
        return "cut short"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.communicate()
        shutil.rmtree(given.work / "scratch", ignore_errors=True)
    if process.returncode not in EXIT:
        return f"FAILED ({process.returncode}): {(wrong.strip().splitlines() or [''])[-1]}"
    if process.returncode == 0 or given.provider == "cuda":
        print(f"{said.strip()}; {time.monotonic() - start:.0f} s; ", end="")
    return EXIT[process.returncode]


def _words(given: argparse.Namespace) -> list[str]:
    """The options as words, for the process of a case."""
    keys = ("out", "work", "provider", "seconds", "rounds", "exporter", "graphs", "lines")
    words = [w for key in keys if getattr(given, key) for w in (f"--{key}", str(getattr(given, key)))]
    switches = ("no_torch", "no_compile", "no_stacked", "tiny", "unchecked")
    words += [f"--{key.replace('_', '-')}" for key in switches if getattr(given, key)]
    return [*words, "--targets", *given.targets]


def measure(case: Case, given: argparse.Namespace) -> int:
    """Build, merge for each target, compare, write."""
    row, cuda = ZOO[case.name], given.provider == "cuda"
    paths = _files(case, row, given)
    scratch = given.work / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    sources = [load(str(path)) for path in paths]
    names = [f"m{i}" for i in range(case.count)]
    complete = functools.partial(observed, libraries=())
    family = fold(match(sources, names, partial=False, complete=complete))
    most = TINY_WORDS if given.tiny else math.inf
    sizes = {name: int(min(size, most)) for name, size in row.sizes.items()}
    options = Options(runtime.choose(given.provider), dims={"batch": case.batch, **sizes})
    work = Workload(family, options, lambda *_: None, exact=cuda and case.count <= EXACT_UP_TO)
    plans, inputs = _plans(paths, given), list(map(str, paths))
    files, notes = merged(plans, inputs, names, scratch, options.dims, PROCESSES if cuda else 1)
    quick = not cuda or sum(work.sizes) < STACKED_UP_TO
    if not quick:
        notes.append(
            "side by side, processes, vmap: left out, as loading so many weights takes them too long"
        )
    effort = Effort(rounds=given.rounds, seconds=given.seconds)
    until = time.monotonic() + given.until - time.time()

    def keep(report: BenchReport) -> None:
        report = replace(report, cut=True, warnings=(*notes, *report.warnings))
        _write(case, row, given, report)

    report = contest(
        work, files, effort=effort, more=_torch(case, row, work, given), with_profile=not cuda,
        folder=str(scratch), only=lambda entry: quick or not entry.late, until=until,
        checked=not given.unchecked, keep=keep,
    )  # fmt: skip
    report = replace(report, warnings=(*notes, *report.warnings))
    _write(case, row, given, report)
    print("; ".join(f"{s.merged} {s.times.median:.2f} x {s.best}" for s in report.speedups))
    return report.exit_code if not given.unchecked else 0


def _files(case: Case, row: Measured, given: argparse.Namespace) -> list[Path]:
    graph = _graph(case, given)
    if graph:
        return drawn.files(graph, _models(case, given), case.count)
    folder = given.work / "models" / given.exporter / row.family.name
    return models.files(row.family, folder, case.count, exporter=given.exporter, dtype=case.dtype)


def _plans(paths: list[Path], given: argparse.Namespace) -> list[Plan]:
    """The merged files. On the CPU those with separate inputs and outputs for each target, and stacked ones
    where copies count; on CUDA stacked ones for each target, then separate ones."""
    stacked = [Plan(target, "stacked") for target in given.targets]
    separate = [Plan(target, "separate") for target in given.targets]
    if given.provider == "cuda":
        return [*([] if given.no_stacked else stacked), separate[0]]
    small = sum(path.stat().st_size for path in paths) < STACKED_UP_TO
    return [*separate, *(stacked[-1:] if small and not given.no_stacked else [])]


def _torch(case: Case, row: Measured, work: Workload, given: argparse.Namespace) -> list[Entry]:
    """torch.func.vmap, last on CUDA: it makes its own models, which takes time."""
    found = [] if given.no_torch else vmap.entries(work, row.family, case.dtype)
    kept = [entry for entry in found if not (given.no_compile and entry.kind == vmap.VmapCompiled.kind)]
    return [replace(entry, late=True) for entry in kept]


def _write(case: Case, row: Measured, given: argparse.Namespace, report: BenchReport) -> None:
    """Write the results of a case as a file of its own, or as its line of a file for all."""
    about = {"group": row.group, "sizes": dict(row.sizes), "exporter": given.exporter}
    document: Mapping[str, object] = {**asdict(case), **about, **report.to_json()}
    path, text = given.out / f"{case.stem}.json", json.dumps(document, indent=1)
    if given.lines:
        path, text = given.lines, "\n".join([*_other_lines(given.lines, case), json.dumps(document)])
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).rename(path)


def _other_lines(path: Path, case: Case) -> list[str]:
    """The lines of other cases: each case has one, that of all ways so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    own = asdict(case)
    return [line for line in lines if any(json.loads(line).get(key) != value for key, value in own.items())]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(ZOO), metavar="NAME", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), metavar="N")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="B")
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "fp16"), help="default: fp32, on cuda both")
    parser.add_argument("--targets", nargs="+", help="default: generic and that of the provider")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="for all")
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds, for each case; default: 20")
    parser.add_argument("--rounds", type=int, default=25, help="default: 25")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument("--no-torch", action="store_true", help="leave torch.func.vmap out")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out: it takes a minute"
    )
    parser.add_argument("--no-stacked", action="store_true", help="leave stacked inputs and outputs out")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="default: build/bench")
    parser.add_argument("--out", type=Path, help="default: bench/results/PROVIDER")
    parser.add_argument("--graphs", type=Path, help="draw models from the graphs in this folder")
    parser.add_argument(
        "--lines", type=Path, metavar="FILE", help="write results into this file, a line per case"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a trial: three models of small networks of --graphs"
    )
    parser.add_argument(
        "--unchecked", action="store_true", help="do not compare outputs: over stub libraries"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=math.inf, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.counts = [TINY_COUNT] if given.tiny else given.counts
    given.out = given.out or Path("bench/results") / given.provider
    given.dtypes = given.dtypes or (["fp32", "fp16"] if given.provider == "cuda" else ["fp32"])
    given.targets = given.targets or ["generic", given.provider]
    return given


if __name__ == "__main__":
    sys.exit(main())
