"""Measures families that LoRA has changed: merged with --low-rank, merged with whole weights, and not merged.

    python bench/sharing.py                        # all cases, minutes each, up to 20 GB of disk
    python bench/sharing.py decoder encoder-16 --seconds 60
    python bench/sharing.py --ceiling              # one model with a batch of N beside N calls of it

Each case writes a base and N copies of it with differences of rank 8 added to the attention matrices (as
`python -m sample_models sharing lora` does), merges them for the CPU with stacked inputs and outputs, and
measures both files in turns with every way that needs no merge; their outputs are compared. A line has the
speed beside the best of these and the bar. The ceiling tells what no merge can exceed: a batch of N rows
through one model, which reads its weights once and has no differences at all. It counts processor time on one
thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from netfuse_onnx import opened, sources
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run import runtime
from sample_models import copies
from sample_models.networks import NETWORKS, SIZES

RESULTS = Path(__file__).parent / "results" / "sharing.json"
RANK = 8


@dataclass(frozen=True, slots=True)
class Case:
    """A family and the sizes of its call. `bar` is the speed that is wanted, 0 where none is."""

    network: str
    size: str
    count: int
    dims: dict[str, int]
    targets: str = "attention|self_attn"
    bar: float = 0.0


CASES = {
    "decoder": Case("decoder", "small", 6, {"past": 63}, "q_proj|v_proj"),
    "encoder-small": Case("encoder", "small", 8, {"sequence": 16}),
    "encoder-1": Case("encoder", "base", 8, {"sequence": 1}),
    "encoder-4": Case("encoder", "base", 8, {"sequence": 4}),
    "encoder-16": Case("encoder", "base", 8, {"sequence": 16}, bar=1.5),
    "encoder-16-n32": Case("encoder", "base", 32, {"sequence": 16}, bar=1.5),
}


def main() -> int:
    given = _arguments()
    done = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.cases or CASES:
        if given.scratch:
            os.makedirs(given.scratch, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="netfuse-sharing-", dir=given.scratch) as scratch:
            measure = ceiling if given.ceiling else row
            key = f"{name} ceiling" if given.ceiling else name
            done[key] = measure(CASES[name], Path(scratch), given.seconds)
        print(f"{key}: {done[key]['line']}", flush=True)
        given.out.write_text(json.dumps(done, indent=1) + "\n")
    return 0


def family(case: Case, folder: Path, count: int) -> list[Path]:
    """The base, and copies with differences."""
    base = folder / "base.onnx"
    base.write_bytes(NETWORKS[case.network](SIZES[case.size], 0).SerializeToString())
    changes = copies.merged_adapters(base, case.targets, RANK, 0)
    return [base, *copies.write_copies(base, folder, "m", count, changes)]


def row(case: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """The figures of one family. Times are in seconds, of one call of all models."""
    base, *models = family(case, folder, case.count)
    paths = [str(path) for path in models]
    begin = time.monotonic()
    for path in paths:
        shutil.copyfile(path, folder / "copied")
    copied = time.monotonic() - begin
    (folder / "copied").unlink()
    options: dict[str, Any] = {"io": "stacked", "target": "cpu", "dims": case.dims, "provider": "cpu"}
    files, merged = list[MergedFile](), dict[str, float]()
    for name, more in (("low rank", {"low_rank": 0.0, "base": str(base)}), ("whole weights", {})):
        out = str(folder / f"{name}.onnx")
        begin = time.monotonic()
        report = netfuse_onnx.merge(paths, out, verify=False, **options, **more)
        merged[name] = time.monotonic() - begin
        files.append(MergedFile(name, out, "stacked", size=sum(map(os.path.getsize, report.files))))
    report = compared(paths, files, case, folder, seconds)
    best = min((r for r in report.rows if r.ran and not r.merged), key=lambda r: r.median)
    times = {r.label: r.median for r in report.rows if r.ran and (r.merged or r is best)}
    speeds = {file.label: best.median / times[file.label] for file in files if file.label in times}
    sizes = {"sources": sum(map(os.path.getsize, paths)), **{file.label: file.size for file in files}}
    return {
        "models": case.count, "case": report.case, "best": best.label, "times": times, "speeds": speeds,
        "bar": case.bar, "sizes": sizes, "memory": {r.label: r.resident for r in report.rows if r.ran},
        "merge": merged, "copy": copied, "load": report.load, "machine": dict(report.machine),
        "line": _line(speeds, best.label, case, sizes, merged, copied),
    }  # fmt: skip


def compared(
    paths: Sequence[str], files: Sequence[MergedFile], case: Case, folder: Path, seconds: float
) -> BenchReport:
    """Run the files against all other ways."""
    matched = opened.matched(sources.read(paths), [Path(path).stem for path in paths], partial=False)
    options = Options(runtime.choose("cpu"), dims={"batch": 1, **case.dims})
    work = Workload(matched, options, lambda *_: None)
    clock = Clock(seconds, fewest=5, some=False, trials=0.45, trial=0.4)
    return contest(work, files, clock=clock, folder=folder)


def ceiling(case: Case, folder: Path, seconds: float) -> dict[str, Any]:
    """Processor seconds on one thread: a call of the base with one row, and with a row for each model."""
    import onnxruntime as ort

    (base,) = family(case, folder, 0)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(base, options, providers=["CPUExecutionProvider"])
    feeds = {rows: _feeds(session, {"batch": rows, **case.dims}) for rows in (1, case.count)}
    least = dict.fromkeys(feeds, float("inf"))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for rows, values in feeds.items():
            begin = time.process_time()
            session.run(None, values)
            least[rows] = min(least[rows], time.process_time() - begin)
    one, batch = least.values()
    ratio = case.count * one / batch
    return {
        "models": case.count, "one": one, "batch": batch, "ratio": ratio,
        "line": f"{case.count} calls of one row take {ratio:.2f} x the time of one call of all rows",
    }  # fmt: skip


def _feeds(session: Any, sizes: dict[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    draw, feeds = np.random.default_rng(0), {}
    for item in session.get_inputs():
        shape = [sizes.get(dim, dim) for dim in item.shape]
        if "int64" in item.type:
            feeds[item.name] = np.ones(shape, np.int64)
        else:
            feeds[item.name] = draw.standard_normal(shape, np.float32)
    return feeds


def _line(
    speeds: dict[str, float],
    best: str,
    case: Case,
    sizes: dict[str, int],
    merged: dict[str, float],
    copied: float,
) -> str:
    bar = f" (bar {case.bar})" if case.bar else ""
    low, whole = (speeds.get(name, 0.0) for name in ("low rank", "whole weights"))
    return (
        f"{case.count} models, --low-rank {low:.2f} x {best}{bar}, whole weights {whole:.2f} x; "
        f"{sizes['low rank'] / 1e6:.0f} MB for {sizes['sources'] / 1e6:.0f}; "
        f"merged in {merged['low rank']:.1f} s without proofs, copying takes {copied:.1f} s"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--ceiling", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
