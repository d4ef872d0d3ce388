"""How fast merged models are against every other way to run N models: one JSON file per case.

    make bench
    make bench PROVIDER=cuda
    python bench/serving.py --only policy tabular --counts 2 8 --batches 1
    python bench/serving.py --provider cuda --budget 540      # what fits into nine minutes

A case is a network, a number of models, a batch and a type. Each runs in a process of its own, the headline
(the paper's four, 32 and 8 models, batch 1) first. Cases whose file is there are skipped, so a run that was
cut short goes on where it stopped. The comparison itself is netfuse_onnx/measure, as in `netfuse-onnx bench`.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import models, vmap
from bench.zoo import PAPER, ROWS, ZOO, Measured
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
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
"""Bytes of weights: with more, copying inputs and outputs is nothing beside them, and disks are small."""
EXIT = {0: "done", 1: "outputs differ, or the merged model does not run"}


@dataclass(frozen=True)
class Case:
    """What one file of results is about."""

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
    given.out = given.out or Path("bench/results") / given.provider
    given.out.mkdir(parents=True, exist_ok=True)
    start, failed = time.monotonic(), 0
    for case in cases(given):
        left = given.budget - (time.monotonic() - start)
        if left <= 0:
            print("The time is up; run again to go on.")
            break
        if not (given.out / f"{case.stem}.json").exists():
            print(f"{case.stem}: ", end="", flush=True)
            said = _apart(case, given, left)
            print(said, flush=True)
            failed += said != EXIT[0]
    return 1 if failed else 0


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """The headline, then the small and the usual ones at its sizes, then the rest."""
    rows = [row for row in ROWS if not given.only or row.name in given.only]
    found = [
        (row, n, b, d) for d in given.dtypes for b in given.batches for n in given.counts for row in rows
    ]

    def rank(item: tuple[Measured, int, int, str]) -> tuple[object, ...]:
        row, count, batch, dtype = item
        other = count not in HEADLINE or batch != 1 or dtype != "fp32"
        return other, row.group != PAPER, dtype != "fp32", batch, -count

    for row, count, batch, dtype in sorted(found, key=rank):
        yield Case(row.name, count, batch, dtype)


def _apart(case: Case, given: argparse.Namespace, left: float) -> str:
    """One case in a process of its own, so that it starts with clean memory and may be killed."""
    words = ("out", "work", "provider", "seconds", "rounds", "exporter")
    options = [word for key in words for word in (f"--{key}", str(getattr(given, key)))]
    switches = ("no_torch", "no_compile", "no_stacked")
    options += [f"--{key.replace('_', '-')}" for key in switches if getattr(given, key)]
    options += ["--targets", *given.targets]
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case)), *options]
    scratch = given.work / "scratch"
    start = time.monotonic()
    try:
        done = subprocess.run(command, timeout=min(left, 1e6), capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return "cut short"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if done.returncode not in EXIT:
        return f"FAILED ({done.returncode}): {(done.stderr.strip().splitlines() or [''])[-1]}"
    if done.returncode == 0:
        print(f"{done.stdout.strip()}; {time.monotonic() - start:.0f} s; ", end="")
    return EXIT[done.returncode]


def measure(case: Case, given: argparse.Namespace) -> int:
    """Build, merge for each target, compare, write."""
    row = ZOO[case.name]
    folder = given.work / "models" / given.exporter / row.family.name
    paths = models.files(row.family, folder, case.count, exporter=given.exporter, dtype=case.dtype)
    scratch = given.work / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    sources = [load(str(path)) for path in paths]
    names = [f"m{i}" for i in range(case.count)]
    complete = functools.partial(observed, libraries=())
    family = fold(match(sources, names, partial=False, complete=complete))
    options = Options(runtime.choose(given.provider), dims={"batch": case.batch, **row.sizes})
    work = Workload(family, options, lambda *_: None)
    merged = list(_merged(list(map(str, paths)), names, scratch, given, dict(options.dims)))
    more = [] if given.no_torch else vmap.entries(work, row.family, case.dtype)
    more = [entry for entry in more if not (given.no_compile and entry.kind == vmap.VmapCompiled.kind)]
    effort = Effort(rounds=given.rounds, seconds=given.seconds)
    report = contest(work, merged, effort=effort, more=more, with_profile=True, folder=str(scratch))
    _write(given.out / f"{case.stem}.json", case, row, given, report)
    print("; ".join(f"{s.merged} {s.times.median:.2f} x {s.best}" for s in report.speedups))
    return report.exit_code


def _merged(
    paths: Sequence[str], names: Sequence[str], folder: Path, given: argparse.Namespace, dims: dict[str, int]
) -> Iterator[MergedFile]:
    """The merged files. Targets that give the same file are one; the last is there with stacked I/O, too."""
    found: dict[bytes, list[str]] = {}
    plans = [(target, "separate") for target in given.targets]
    small = sum(Path(path).stat().st_size for path in paths) < STACKED_UP_TO
    plans += [(given.targets[-1], "stacked")] if small and not given.no_stacked else []
    for target, io in plans:
        out = folder / f"{target}-{io}.onnx"
        report = netfuse_onnx.merge(
            paths, str(out), names=names, io=io, target=target, verify=False, dims=dims
        )
        label = target if io == "separate" else f"{target}, stacked"
        plan = repr((io, report.lowered)).encode()
        if plan in found:
            found[plan].append(target)
            for file in report.files:
                Path(file).unlink()
            continue
        found[plan] = [label]
        yield MergedFile(f"merged, {label}", str(out), io, (), report.size)


def _write(path: Path, case: Case, row: Measured, given: argparse.Namespace, report: BenchReport) -> None:
    about = {"group": row.group, "sizes": dict(row.sizes), "exporter": given.exporter}
    text = json.dumps({**asdict(case), **about, **report.to_json()}, indent=1)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).rename(path)


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
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.dtypes = given.dtypes or (["fp32", "fp16"] if given.provider == "cuda" else ["fp32"])
    given.targets = given.targets or ["generic", given.provider]
    return given


if __name__ == "__main__":
    sys.exit(main())
