"""Measures `netfuse-onnx update` of one model against copying the merged file.

    python -m sample_models bert --count 9 --exporter torchscript --out build/bert
    python bench/update.py build/bert

All models of FOLDER but the last are merged. Then, in turn first: `cp` of the merged file with its data, and
`sync` of the copies; and one update of the model in the middle by the last one, a process of its own with
--no-verify, to another file in the same folder. All files are read before each of the two, and what was
written is removed and flushed after each. With --proofs the update with all proofs is measured as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from compile_time import Run, Spread, _machine, _read, _run, _scratch

TIMES_CP = 1.5
PEAK_MB = 300
"""The bars: an update against a copy, and resident memory."""


@dataclass(frozen=True)
class Row:
    """One way to change the file: seconds, the ratio of the medians, the median of the ratios of each round,
    processor seconds of the fastest round, peak resident memory in MB."""

    what: str
    seconds: Spread
    times_cp: float
    by_round: float
    cpu: float
    peak_mb: float


def main() -> int:
    given = _arguments()
    models = sorted(given.folder.glob("*.onnx"))
    if len(models) < 3:
        raise SystemExit("3 models or more are needed.")
    with _scratch(given.work) as home:
        merged = home / "merged.onnx"
        _run([*_cli("merge"), *map(str, models[:-1]), "-o", str(merged), "--no-verify"])
        rows = measure(merged, models, given.rounds, given.proofs)
        megabytes = sum(file.stat().st_size for file in home.glob("merged*")) / 1e6
    if given.json:
        print(json.dumps({"machine": _machine(), "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{given.folder.name}: {len(models) - 1} models, {megabytes:,.0f} MB merged")
        for row in rows:
            print(
                f"{row.what:18} {row.seconds!s:22} x cp {row.times_cp:5.2f} (by round {row.by_round:.2f})   "
                f"cpu {row.cpu:5.1f}   peak {row.peak_mb:5.0f} MB"
            )
    first = rows[1]
    return 0 if min(first.times_cp, first.by_round) <= TIMES_CP and first.peak_mb <= PEAK_MB else 1


def measure(merged: Path, models: Sequence[Path], rounds: int, proofs: bool) -> list[Row]:
    """Return a row for the copy, and one for each kind of update."""
    name, new = models[(len(models) - 1) // 2].stem, models[-1]
    update = [*_cli("update"), str(merged), "--model", name, str(new), "-o", str(merged.parent / "next.onnx")]
    ways = {"cp + sync": _copy(merged), "update --no-verify": [*update, "--no-verify"]}
    if proofs:
        ways["update"] = [*update, "--max-memory", "20GB"]
    runs: dict[str, list[Run]] = {what: [] for what in ways}
    for turn in range(rounds):
        for what in ways if turn % 2 == 0 else reversed(ways):
            for file in (*merged.parent.glob("merged*"), new):
                _read(file)
            runs[what].append(_run(ways[what]))
            _clean(merged)
    copied = [run.seconds for run in runs["cp + sync"]]
    return [_row(what, found, copied) for what, found in runs.items()]


def _row(what: str, found: Sequence[Run], copied: Sequence[float]) -> Row:
    seconds = Spread.of([run.seconds for run in found])
    ratios = [run.seconds / cp for run, cp in zip(found, copied, strict=True)]
    return Row(
        what,
        seconds,
        seconds.median / Spread.of(copied).median,
        Spread.of(ratios).median,
        min(run.cpu for run in found),
        max(run.peak_mb for run in found),
    )


def _clean(merged: Path) -> None:
    """Remove what a way has written, and leave the disk with nothing to write."""
    import os
    import shutil

    shutil.rmtree(merged.parent / "copy", ignore_errors=True)
    for file in merged.parent.glob("next*"):
        file.unlink()
    os.sync()


def _cli(command: str) -> list[str]:
    return [sys.executable, "-m", "netfuse_onnx", command]


def _copy(merged: Path) -> list[str]:
    """A real copy, also where the file system could share blocks."""
    script = 'mkdir "$1"/copy; cp --reflink=never "$1"/merged* "$1"/copy/ && sync "$1"/copy/*'
    return ["sh", "-c", script, "sh", str(merged.parent)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the models of one family")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--proofs", action="store_true", help="measure the update with all proofs, too")
    parser.add_argument("--work", type=Path, default=Path("build"), help="where to write; default: build")
    parser.add_argument("--json", action="store_true", help="the figures as JSON instead of a table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
