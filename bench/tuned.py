"""Measures what `merge --tune` chose, against the plans of other targets and every way that needs no merge.

    python bench/tuned.py FOLDER...                        # each with two or more models of one family
    python bench/tuned.py --count 8 --io separate --tune 60 --seconds 40 --dim batch=1 FOLDER...

Further models are made of the first two, as those of the benchmarks are. A comparison of its own, after the
merge, runs the tuned file, that of `--target cpu` and that of `generic` in turns with all other ways. A line
shows the speed of the tuned file relative to the best alternative, and to the better of the two other files.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import models
from netfuse_onnx import opened, sources
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run import runtime
from netfuse_onnx.write import metadata

LEAST, MOST_LOST = 0.95, 1.03
"""The tuned file must have 0.95 times the speed of the best alternative, and take no more than 1.03 times as
long as the better of the two other files."""


def main() -> int:
    given = _arguments()
    dims = {name: int(size) for name, size in (item.split("=") for item in given.dim)}
    rows = []
    for folder in given.folders:
        with tempfile.TemporaryDirectory(prefix="netfuse-tuned-", dir=given.scratch) as scratch:
            rows.append(row(folder, Path(scratch), given, dims))
        print(line(rows[-1]), flush=True)
    ratios = [one["speed"] for one in rows]
    print(
        f"geometric mean {statistics.geometric_mean(ratios):.2f} of {len(rows)}, least {min(ratios):.2f}; "
        f"under {LEAST}: {sum(ratio < LEAST for ratio in ratios)}; more than 3 % slower than another plan: "
        f"{sum(one['lost'] > MOST_LOST for one in rows)}"
    )
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def row(folder: Path, scratch: Path, given: argparse.Namespace, dims: Mapping[str, int]) -> dict[str, Any]:
    """The figures of one family, times in seconds."""
    paths = family(folder, scratch, given.count)
    options: dict[str, Any] = {"io": given.io, "verify": False, "dims": dims, "provider": "cpu"}
    files, tunings, seconds = list[MergedFile](), [], dict[str, float]()
    for name, more in (("tuned", {"tune": given.tune}), ("cpu", {"target": "cpu"}), ("generic", {})):
        out = str(scratch / f"{name}.onnx")
        begin = time.monotonic()
        report = netfuse_onnx.merge(paths, out, **options, **more)
        seconds[name] = time.monotonic() - begin
        files.append(MergedFile(name, out, given.io, size=report.size))
        tunings += [report.tuning] if report.tuning else []
    report, (tuning,) = compared(paths, files, given), tunings
    times = {
        file.label: min((r.median for r in report.rows if r.label == file.label and r.ran), default=math.inf)
        for file in files
    }
    best = min((r for r in report.rows if r.ran and not r.merged), key=lambda r: r.median)
    return {
        "family": folder.name, "case": report.case, "chosen": tuning.chosen, "best": best.label,
        "speed": best.median / times["tuned"], "lost": times["tuned"] / min(times["cpu"], times["generic"]),
        "times": {**times, best.label: best.median}, "merge": seconds, "spent": tuning.spent,
        "predicted": tuning.predicted, "measured": tuning.measured, "cached": tuning.cached,
        "said": [case.ratio for case in tuning.cases],
    }  # fmt: skip


def family(folder: Path, scratch: Path, count: int) -> list[str]:
    """Copies of the models of a folder; those that lack are made of the first two."""
    found = sorted(folder.glob("*.onnx"))[:count]
    paths = [scratch / f"m{i}.onnx" for i in range(count)]
    for path, source in zip(paths, found, strict=False):
        shutil.copy(source, path)
    if len(found) < count:
        for path in paths[2 : len(found)]:
            path.unlink()
        models.multiply(paths)
    return [str(path) for path in paths]


def compared(paths: Sequence[str], files: Sequence[MergedFile], given: argparse.Namespace) -> BenchReport:
    """Run the files against all other ways, at the sizes at which the plan was chosen."""
    matched = opened.matched(sources.read(paths), [Path(path).stem for path in paths], partial=False)
    about = metadata.read(files[0].path)
    options = Options(runtime.choose("cpu")).remembering(about.measured[0] if about.measured else {}, matched)
    work = Workload(matched, options, lambda *_: None, rough=True)
    clock = Clock(given.seconds, fewest=5, some=False, trials=0.45, trial=0.4)
    return contest(work, files, clock=clock, folder=given.scratch)


def line(one: Mapping[str, Any]) -> str:
    predicted = one["predicted"] / one["measured"] if one["predicted"] and one["measured"] else 0.0
    return (
        f"{one['family']:20} {one['case']:24} {one['chosen']:15} {one['speed']:5.2f} x {one['best']}, "
        f"{one['lost']:.2f} of the better other plan, predicted over measured {predicted:.2f}; "
        f"merge {one['merge']['tuned']:.0f} s ({one['merge']['cpu']:.0f} s without --tune)"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--io", choices=("separate", "stacked"), default="stacked")
    parser.add_argument("--tune", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
