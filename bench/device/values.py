"""Compares values on the GPU: `values.py --out OUT --graphs DIR --seconds 150`.

It runs in the project's root, started by run.py. Three things share the time: the tests of all rules and of
CUDA's own forms, with all sessions on CUDA (NETFUSE_TEST_PROVIDER); random graphs (tests/fuzz.py); and the
small networks of graphs.py, merged for each target and proven on CUDA. OUT/values.txt has what
they print, and OUT/failures.txt the tests that fail.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bench import drawn

TESTS = (
    "rules", "test_attention.py", "test_cuda.py", "test_dynamic.py", "test_fusible.py", "test_gaps.py",
    "test_qdq.py", "test_refusals.py",
)  # fmt: skip
"""Tests whose sessions are the oracle's, or on CUDA anyway."""
SHARES = (0.4, 0.25, 0.15, 0.2)
"""The parts of the time that the steps of `main` get."""
MODELS = 3


@dataclass(frozen=True)
class Job:
    """A command, and the name under which its output is kept."""

    name: str
    words: Sequence[str]


def main() -> int:
    given = _arguments()
    processes = given.processes or max(1, (os.cpu_count() or 1) - 2)
    log = given.out / "values.txt"
    tests = [str(given.repo / "tests" / name) for name in TESTS]
    options = ["-q", "--tb=short", "-p", "at_once", "-p", "no:cacheprovider", "-n", str(processes)]
    fuzz = [str(given.repo / "tests" / "fuzz.py"), "--count", "100000", "--seed", "131", "--no-minimise"]
    seconds = [share * given.seconds for share in SHARES]
    variables = _variables(given)
    once, own = ["-m", "pytest", *options, "-m", "quick", *tests], ["-m", "pytest", *options, *tests[1:]]
    codes = [
        _kept(Job("each rule once", once), seconds[0], variables, log),
        _networks(given, seconds[1], variables, log),
        _kept(Job("CUDA's own forms", own), seconds[2], variables, log),
        _kept(Job("random graphs", [*fuzz, "--jobs", str(processes)]), seconds[3], variables, log),
    ]
    return max(codes)


def _variables(given: argparse.Namespace) -> dict[str, str]:
    root = given.repo.absolute()
    path = [root, root / "tests", Path(__file__).resolve().parent, os.environ.get("PYTHONPATH", "")]
    own = {
        "NETFUSE_TEST_PROVIDER": given.provider,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "FAILURES": str(given.out.absolute() / "failures.txt"),
    }
    return dict(os.environ) | own


def _kept(job: Job, seconds: float, variables: dict[str, str], log: Path) -> int:
    """Run a command, keep its output, and print the end of it. A command whose time is up counts as right as
    far as it got."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, *job.words],
            stdout=out,
            stderr=out,
            text=True,
            env=variables,
            start_new_session=True,
        )
        try:
            code = process.wait(max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = 0
        out.seek(0)
        text = out.read()
    with log.open("a") as file:
        file.write(f"=== {job.name}: exit code {code}, {time.monotonic() - start:.0f} s\n{text}\n")
    end = "\n".join(text.strip().splitlines()[-3:])
    print(f"{job.name}: exit code {code}, {time.monotonic() - start:.0f} s\n{end[-600:]}", flush=True)
    return code


def _networks(given: argparse.Namespace, seconds: float, variables: dict[str, str], log: Path) -> int:
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.merges) as pool:
        graphs = sorted(given.graphs.glob("*-tiny*.onnx"))
        drawn_models = {graph: drawn.files(graph, Path(folder) / graph.stem, MODELS) for graph in graphs}
        jobs = [*_merges(drawn_models, given, Path(folder))]
        lines = [*pool.map(lambda job: _merged(job, end, variables), jobs)]
    with log.open("a") as file:
        file.write("=== networks\n" + "\n".join(lines) + "\n")
    wrong = [line for line in lines if not line.startswith(("ok", "left out"))]
    print(f"networks: {len(lines)} merges, {len(wrong)} wrong", *wrong, sep="\n", flush=True)
    return int(bool(wrong))


def _merges(models: dict[Path, list[Path]], given: argparse.Namespace, folder: Path) -> Iterator[Job]:
    for graph, target, io in product(models, ("cuda", "generic"), ("stacked", "separate")):
        name = f"{graph.stem}-{target}-{io}"
        paths = map(str, models[graph])
        words = [
            "-m",
            "netfuse_onnx",
            "merge",
            *paths,
            "-o",
            str(folder / f"{name}.onnx"),
            "--target",
            target,
        ]
        yield Job(name, [*words, "--io", io, "--provider", given.provider, "--json"])


def _merged(job: Job, end: float, variables: dict[str, str]) -> str:
    left = end - time.monotonic()
    if left < 1:
        return f"left out {job.name}"
    try:
        done = subprocess.run(
            [sys.executable, *job.words],
            env=variables,
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return f"left out {job.name}"
    except ValueError:
        return f"BROKEN {job.name}: {done.stderr[-500:]}"
    if done.returncode:
        return f"WRONG {job.name}: {report['error']['message']}"
    values = report["proof"]["values"]
    about = {key: values[key] for key in ("provider", "placed", "worst", "tf32") if key in values}
    return f"ok {job.name}: {json.dumps(about)} {report['warnings']}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--repo", type=Path, default=Path())
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--processes", type=int, help="default: all cores but two")
    parser.add_argument("--merges", type=int, default=8, help="that run at once; default: 8")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
