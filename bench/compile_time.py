"""Measures the time and memory of `netfuse-onnx merge --no-verify` against copying the same bytes.

    python -m sample_models bert --count 8 --exporter torchscript --out build/bert
    python bench/compile_time.py build/bert

Each FOLDER holds the models of one family; the first 2, 4 and 8 are merged. A round is `cp` of the files
(with their external data) and `sync` of the copies, and one merge, each a process of its own, in turn first.
All files are read before each of the two. What was written is removed and flushed after each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TIMES_CP = 2.5
PEAK_MB = 300
TIMED_MB = 3000
"""The bars: merging against copying, where there are this many megabytes to copy (below, the second that
Python and the plan take counts too much), and resident memory, whatever the number of models."""

HEADER = (
    f"{'family':12} models      MB   {'cp + sync, s':22} {'merge, s':22}  x cp   {'cpu s: cp, merge':12} "
    "peak MB  load"
)


@dataclass(frozen=True)
class Spread:
    """Seconds: the median of all rounds, the fastest, the slowest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def __str__(self) -> str:
        return f"{self.median:6.2f} ({self.least:.2f}-{self.most:.2f})"


@dataclass(frozen=True)
class Run:
    """One process: wall-clock seconds, seconds of processor time, peak resident memory in MB."""

    seconds: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True)
class Row:
    """One family with one number of models. Processor seconds are medians too: a busy machine spoils them
    least."""

    folder: str
    models: int
    megabytes: float
    cp_sync: Spread
    merge: Spread
    times_cp: float
    cp_cpu: float
    merge_cpu: float
    peak_mb: float
    load: float

    @property
    def holds(self) -> bool:
        return (self.times_cp <= TIMES_CP or self.megabytes < TIMED_MB) and self.peak_mb <= PEAK_MB


def main() -> int:
    given = _arguments()
    if not given.json:
        print(HEADER)
    rows = []
    for folder in given.folders:
        models = sorted(folder.glob("*.onnx"))
        for count in (n for n in given.counts if n <= len(models)):
            rows.append(measure(folder, models[:count], given.work, given.rounds))
            if not given.json:
                print(_line(rows[-1]), flush=True)
    if given.json:
        print(json.dumps({"machine": _machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    return 0 if all(row.holds for row in rows) else 1


def measure(folder: Path, models: Sequence[Path], work: Path, rounds: int) -> Row:
    files = [file for model in models for file in (model, *sorted(folder.glob(f"{model.name}.data*")))]
    load = os.getloadavg()[0]
    runs: dict[str, list[Run]] = {"cp": [], "merge": []}
    for turn in range(rounds):
        for what in ("cp", "merge") if turn % 2 == 0 else ("merge", "cp"):
            with _scratch(work) as out:
                for file in files:  # every time: some kernels reclaim cached pages within seconds
                    _read(file)
                runs[what].append(_run(_copy(files, out) if what == "cp" else _merge(models, out)))
    cp, merge = (Spread.of([run.seconds for run in some]) for some in runs.values())
    cp_cpu, merge_cpu = (statistics.median(run.cpu for run in some) for some in runs.values())
    return Row(
        folder=folder.name,
        models=len(models),
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        cp_sync=cp,
        merge=merge,
        times_cp=merge.median / cp.median,
        cp_cpu=cp_cpu,
        merge_cpu=merge_cpu,
        peak_mb=max(run.peak_mb for run in runs["merge"]),
        load=load,
    )


def _copy(files: Sequence[Path], out: Path) -> list[str]:
    """A real copy, also where the file system could share blocks."""
    script = 'out=$1; shift; cp --reflink=never "$@" "$out"/ && sync "$out"/*'
    return ["sh", "-c", script, "sh", str(out), *map(str, files)]


def _merge(models: Sequence[Path], out: Path) -> list[str]:
    command = [sys.executable, "-m", "netfuse_onnx", "merge", *map(str, models)]
    return [*command, "-o", str(out / "merged.onnx"), "--no-verify"]


def _run(command: Sequence[str]) -> Run:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... failed:\n{said}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)


class _scratch:
    """An empty folder; at the end it is removed, and the disk is left with nothing to write."""

    def __init__(self, work: Path) -> None:
        self.path = work / f"compile_time-{os.getpid()}"

    def __enter__(self) -> Path:
        self.path.mkdir(parents=True)
        os.sync()
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)
        os.sync()


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def _line(row: Row) -> str:
    verdict = "" if row.holds else f"  over the bar of {TIMES_CP} x and {PEAK_MB} MB"
    times = (
        f"{row.cp_sync!s:22} {row.merge!s:22} {row.times_cp:5.2f}   {row.cp_cpu:5.1f} {row.merge_cpu:5.1f}"
    )
    head = f"{row.folder:12} {row.models:6} {row.megabytes:7.0f}"
    return f"{head}   {times}   {row.peak_mb:8.0f} {row.load:5.1f}{verdict}"


def _machine() -> dict[str, object]:
    import netfuse_onnx

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "netfuse_onnx": netfuse_onnx.__version__,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the models of one family")
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[2, 4, 8], metavar="N", help="default: 2 4 8"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--work", type=Path, default=Path("build"), help="where to write; default: build")
    parser.add_argument("--json", action="store_true", help="the figures as JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
