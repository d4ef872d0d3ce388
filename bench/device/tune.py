"""Merges by measured plans on the GPU: `tune.py --out OUT --graphs DIR --until TIME`.

Each case draws its models, and `merge --tune` measures lowerings, then whole plans against all other ways.
OUT/tune.jsonl has a report per case, and OUT/times.json all times of lowerings and conversions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import drawn

CASES = (("resnet50", 32, 100.0), ("bert", 32, 70.0), ("mobilenet-96", 32, 40.0), ("xlnet", 32, 60.0))
"""The network, the models and the seconds for measuring."""
MERGING = 25.0
"""Seconds that drawing and merging take beside the measuring."""


def main() -> int:
    given = _arguments()
    code = 0
    for network, models, seconds in CASES:
        name = f"{network}-tiny" if given.tiny else network
        left = given.until - time.time() - (5.0 if given.tiny else MERGING)
        if left < 10.0 or (given.only and network not in given.only):
            print(f"{name}: left out", flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            code |= _tuned(name, 3 if given.tiny else models, min(left, seconds), Path(folder), given)
    return code


def _tuned(name: str, models: int, seconds: float, folder: Path, given: argparse.Namespace) -> int:
    """Merge one case, keep its report and the times, and print its plans."""
    start = time.monotonic()
    paths = drawn.files(given.graphs / f"{name}.onnx", folder / "sources", models)
    words = ["merge", *map(str, paths), "-o", str(folder / "merged.onnx"), "--io", "stacked", "--no-verify"]
    words += ["--tune", f"{seconds:.0f}", "--provider", given.provider, "--dim", "batch=1", "--json"]
    cache = given.work / "cache"
    variables = dict(os.environ) | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "netfuse_onnx", *words]
    try:
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=seconds + 2 * MERGING
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {time.monotonic() - start:.0f} s", flush=True)
        return 1
    report = json.loads(done.stdout) if done.stdout.strip() else {}
    with (given.out / "tune.jsonl").open("a") as file:
        row = {"case": f"{name} n{models}", "stderr": done.stderr[-2000:], "report": report}
        file.write(json.dumps(row) + "\n")
    for times in cache.glob("netfuse-onnx/times/*.json"):
        shutil.copy(times, given.out / "times.json")
    print(f"{name} n{models}: exit code {done.returncode}, {time.monotonic() - start:.0f} s", flush=True)
    _print(report)
    return done.returncode


def _print(report: Mapping[str, Any]) -> None:
    for row in (report.get("tuning") or {}).get("rows", ()):
        shown = f"{row['seconds'] * 1e3:.3f} ms" if row["seconds"] else row["problem"][:60]
        print(f"  {row['way']:26} {row['settings']:30} {shown}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--until", type=float, required=True, help="by time.time()")
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
