"""Files that share, choose, route or combine, on the GPU: values, then times. Started by run.py.

While values are compared (shared_values.py, then the tests of these features by values.py), sources and
merged files for the times are written beside it, which takes no GPU. Times are measured alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARES = {"values": 0.24, "tests": 0.26}
"""The parts of the time of two steps. The times take what is left."""
FORMER_FILES = "with a cache"
"""A part of the names of the files that failed on a GPU before."""
ENDING = 4.0
PATIENCE = 15.0
"""After so many seconds times are measured beside the writing of the last files."""


def main() -> int:
    given = _arguments()
    start, end = time.time(), given.until
    given.work.mkdir(parents=True, exist_ok=True)
    if given.former:
        return _former(given)
    words = ["--out", given.out, "--work", given.work, "--graphs", given.graphs, "--provider", given.provider]
    switches = [word for word in ("--tiny", "--unchecked") if getattr(given, word[2:])]
    times = [HERE / "shared_times.py", *words, *switches, *(["--only", *given.only] if given.only else [])]
    writer = _started([*times, "--prepare"])
    seconds = {step: part * (end - start) for step, part in SHARES.items()}
    codes = []
    if not given.unchecked and not given.no_values:
        values = [HERE / "shared_values.py", "--out", given.out, "--provider", given.provider]
        values += ["--most", "12"] if given.tiny else []
        codes.append(_ended(_started([*values, "--seconds", seconds["values"]]), seconds["values"] + ENDING))
        tests = [HERE / "values.py", "--out", given.out, "--graphs", given.graphs, "--repo", given.repo]
        tests += ["--provider", given.provider, "--shared", "--seconds", seconds["tests"]]
        codes.append(_ended(_started(tests), seconds["tests"] + ENDING))
    print(f"{time.time() - start:.0f} s until the times", flush=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        writer.wait(PATIENCE)
    print(f"{time.time() - start:.0f} s until the files, or most of them, are there", flush=True)
    codes.append(_ended(_started([*times, "--until", end - ENDING]), end - time.time()))
    codes.append(_ended(writer, 1.0))
    return max(codes)


def _former(given: argparse.Namespace) -> int:
    """Run only the files and tests that failed on a GPU before."""
    left = given.until - time.time() - 2 * ENDING
    common = ["--out", given.out, "--provider", given.provider]
    values = [HERE / "shared_values.py", *common, "--match", FORMER_FILES, "--seconds", 0.3 * left]
    tests = [
        HERE / "values.py",
        *common,
        "--graphs",
        given.graphs,
        "--repo",
        given.repo,
        "--shared",
        "--former",
    ]
    code = _ended(_started(values), 0.3 * left + ENDING)
    return max(code, _ended(_started([*tests, "--seconds", 0.7 * left]), 0.7 * left + ENDING))


def _started(words: list[object]) -> subprocess.Popen[bytes]:
    variables = {"OMP_NUM_THREADS": "2", **os.environ}  # of numpy: many processes run at once
    return subprocess.Popen([sys.executable, *map(str, words)], start_new_session=True, env=variables)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for a process. One whose time is up is stopped with all that it started in its session."""
    try:
        return process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        return process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--repo", type=Path, default=Path())
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--until", type=float, required=True, help="by time.time()")
    parser.add_argument("--only", nargs="+", metavar="CASE")
    parser.add_argument("--no-values", action="store_true", help="times alone")
    parser.add_argument("--former", action="store_true", help="only what failed before")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--unchecked", action="store_true", help="over stub libraries: values mean nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
