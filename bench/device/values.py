"""Compares values on the GPU: `values.py --out OUT --graphs DIR --seconds 150`.

It runs in the project's root, started by run.py. These share the time: what failed on a GPU before; the tests
of all rules and of CUDA's own forms, with all sessions on CUDA (NETFUSE_TEST_PROVIDER); random graphs
(tests/fuzz.py); and the small networks of graphs.py, merged for each target and proven on CUDA.
OUT/values.txt has what they print, and OUT/failures.txt the tests that fail.
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
SHARED_TESTS = (
    "test_routed.py", "test_chosen.py", "test_routed_rules.py", "test_combine.py", "test_low_rank.py",
    "test_adapters.py", "test_chosen_proof.py", "test_routed_noise.py",
)  # fmt: skip
"""Tests of files that route rows, choose or combine models, or hold factors. Their sessions are the oracle's,
or on the provider that a merge takes by itself."""
FORMER_SHARED_TESTS = (
    "test_routed.py::test_the_proofs_hold_and_are_told", "test_routed.py::test_rows_that_disagree_fail",
    "test_combine.py::test_other_ways_combine_in_numpy", "test_combine.py::test_near_scores_are_ties",
    "test_gaps.py::test_the_gap_is_still_there",
)  # fmt: skip
"""Those that failed on a GPU before, and the gaps of its kernels."""
CRASHES = ("rules/test_linear.py::test_numbers_of_models_and_rows",)
"""Tests that can end the process (gaps.EMPTY_MOVED): they come last."""
FORMER_TESTS = (
    "rules/test_contrib_attention.py::test_attention", "rules/test_contrib.py::test_fused_conv_with_a_sum",
    "rules/test_contrib_attention.py::test_attention_with_a_cache",
    "rules/test_contrib_attention.py::test_grouped_queries_with_a_cache",
    "rules/test_contrib_quant.py::test_to_floats", "rules/test_contrib_quant.py::test_dynamic",
    "rules/test_index.py::test_gather_of_bytes", "rules/test_exported.py::test_reshape",
    "rules/test_norm.py::test_batch_norm_in_training", "rules/test_quantize.py::test_linear_in_blocks",
    "rules/test_norm.py::test_layer_norm_whose_scale_depends_on_the_axes_before",
    "rules/test_elementwise.py::test_any_number_of_inputs", "test_gaps.py",
    "rules/test_matmul.py::test_one_side_alone_is_broadcast",
    "rules/test_conv.py::test_a_bias_of_open_size_is_as_long_as_there_are_filters",
    "rules/test_recurrent.py::test_states_of_another_batch_fail",
    "test_dynamic.py::test_a_product_that_becomes_floats",
    "test_attention.py::test_biases_of_keys_go_and_those_of_values_move",
)  # fmt: skip
FORMER_GRAPHS = (81, 106, 110, 148, 150, 168, 189, 190, 252, 325)
"""The tests and random graphs (of seed 131) that failed on a GPU before."""
SHARES = {"former": 0.2, "once": 0.2, "networks": 0.13, "every": 0.27, "random": 0.2}
"""The parts of the time that the steps of `main` get. What one leaves is the next one's, too."""
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
    fuzz, variables = str(given.repo / "tests" / "fuzz.py"), _variables(given)
    again = [str(given.repo / "tests" / name) for name in FORMER_TESTS]
    many = [fuzz, "--count", "100000", "--seed", "131", "--no-minimise", "--jobs", str(processes)]
    end, left = time.monotonic() + given.seconds, 1.0

    def seconds(step: str) -> float:
        """The step's part of the time that is left."""
        nonlocal left
        part, left = SHARES[step] / left, left - SHARES[step]
        return part * (end - time.monotonic())

    def kept(name: str, step: str, words: Sequence[str]) -> int:
        return _kept(Job(name, words), seconds(step), variables, log)

    if given.shared:
        names = FORMER_SHARED_TESTS if given.former else SHARED_TESTS
        tests = [str(given.repo / "tests" / name) for name in names]
        last = [str(given.repo / "tests" / name) for name in CRASHES]
        code = _kept(
            Job("tests of what is shared", ["-m", "pytest", *options, *tests]),
            given.seconds - 10.0,
            variables,
            log,
        )
        return max(code, _kept(Job("what crashed", ["-m", "pytest", *options, *last]), 10.0, variables, log))
    codes = [
        kept("what failed before", "former", ["-m", "pytest", *options, *again]),
        _former_graphs(fuzz, variables, log),
        kept("each rule once", "once", ["-m", "pytest", *options, "-m", "quick", *tests]),
        _networks(given, seconds("networks"), variables, log),
        kept("every test", "every", ["-m", "pytest", *options, *tests]),
        kept("random graphs", "random", many),
    ]
    return max(codes)


def _former_graphs(fuzz: str, variables: dict[str, str], log: Path) -> int:
    """The random graphs that failed before, each in a process of its own."""
    jobs = [
        Job(f"graph {number}", [fuzz, "--one", str(131_000_000 + number), "--no-minimise"])
        for number in FORMER_GRAPHS
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        return max(pool.map(lambda job: _kept(job, 30.0, variables, log), jobs))


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
    parser.add_argument("--shared", action="store_true", help="only the tests of files that share or choose")
    parser.add_argument("--former", action="store_true", help="of these, only those that failed before")
    parser.add_argument("--merges", type=int, default=8, help="that run at once; default: 8")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
