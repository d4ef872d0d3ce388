"""CUDA without a GPU: repeated runs in the proof, missing libraries, a plain checkout. What needs ONNX Runtime's
CUDA build runs over stub libraries, where they are there."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from families import family, merged
from pretended import CHOSEN, pretend
from stubs import ROOT, python

from netfuse_onnx import opened, sources
from netfuse_onnx.proofs import Replays
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.replay import Replayer
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.run import cuda
from netfuse_onnx.run.bound import Bound, fixed_dims
from netfuse_onnx.run.runtime import RunFailed, Session, Value, choose

CONVOLUTION = "g (float[n, 3, 8, 8] x) => (float[n, 4, 6, 6] y) { c = Conv(x, w)  y = Relu(c) }"
RANDOM = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, w)  r = RandomNormalLike(x)  y = Add(a, r) }"
SEQUENCE = "g (float[n, 4] x) => (seq(float[n, 4]) y) { a = Mul(x, w)  y = SequenceConstruct(a) }"


# --------------------------------------------------------------------------- the proof: again, and as a graph


class Stale:
    """A session that gives what it gave first, whatever it is fed later."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._first: dict[str, Value] = {}
        self.shapes = session.shapes

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        self._first = self._first or self._session.run(feeds)
        return self._first


def proof(tmp_path: Path, io: str = "separate", text: str = "", stale: object = None) -> Replays:
    """The repeated runs of a proof, on the CPU. The session of `stale` (a model, or 'merged') keeps its values
    once it has run on other inputs."""
    paths = family(tmp_path, text, {"w": (4,)}) if text else family(tmp_path)
    matched = opened.matched(sources.read(paths), ["a", "b"], False)
    trial = Trial(matched, Options(choose("cpu"), io=io))
    judge = Judge(trial, lambda *_: None)
    replays = Replayer(trial, judge)

    def source(session: Session, model: int) -> None:
        replays.source(Stale(session) if stale == model else session, model)  # type: ignore[arg-type]

    trial.run_sources(lambda *_: None, source)
    path = merged(tmp_path, paths, io)
    session = Session(path, trial.options.runtime)
    result = session.run(trial.merged_feeds(trial.cases[0]))
    replays.merged(Stale(session) if stale == "merged" else session, result)(path)  # type: ignore[arg-type]
    return replays.answer()


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("text", ["", RANDOM])
def test_files_that_keep_nothing_pass(tmp_path: Path, io: str, text: str) -> None:
    assert proof(tmp_path, io, text) == Replays(again=3, graphs=3)


@pytest.mark.parametrize(("stale", "what"), [(1, "Model b"), ("merged", "The merged model")])
def test_values_of_a_former_run_are_a_problem(tmp_path: Path, stale: object, what: str) -> None:
    (problem,) = proof(tmp_path, stale=stale).problems
    assert problem.startswith(f"{what} gives other values when it runs again, after other inputs: output y")


def test_values_of_the_capture_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bound, "put", lambda self, feeds: None)  # the replay reads what the capture read
    answer = proof(tmp_path)
    assert [p.partition(":")[0] for p in answer.problems] == [
        f"{what} gives other values as a CUDA graph" for what in ("Model a", "Model b", "The merged model")
    ]


def test_a_graph_that_is_refused_is_no_problem(tmp_path: Path) -> None:
    answer = proof(tmp_path, text=SEQUENCE)
    assert (answer.ok, answer.again, answer.graphs) == (True, 3, 0)
    assert answer.refused["model a"] == "'y' is no tensor, so it has no fixed place"
    assert answer.refused.keys() == {"model a", "model b", "the merged model"}


def test_a_second_run_that_fails_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Stale, feeds: Mapping[str, Value]) -> dict[str, Value]:
        raise RunFailed("an illegal memory access")

    monkeypatch.setattr(Stale, "run", fails)
    (problem,) = proof(tmp_path, stale=0).problems
    assert problem == "Model a ran once and failed when it ran again: an illegal memory access."


def test_the_proof_on_cuda_has_the_repeated_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    pretend(monkeypatch)
    paths, captured = family(tmp_path), list[str]()

    def refused(self: Replayer, path: str, *_: object) -> Bound:
        captured.append(path)
        raise RunFailed("not all nodes are on CUDA")

    monkeypatch.setattr(Replayer, "_captured", refused)
    code, out, err = run("merge", *paths, "-o", tmp_path / "m.onnx", "--json", "--provider", "cuda")
    found = json.loads(out)["proof"]["values"]
    assert code == 0, err
    assert captured[:2] == paths and len(captured) == 3
    assert found["tf32"] == 0.0
    assert (found["replays"]["again"], found["replays"]["graphs"]) == (3, 0)
    code, out, err = run("verify", tmp_path / "m.onnx", *paths, "--provider", "cuda")
    said = err + out
    assert "3 files gave the same when they ran again after other inputs, 0 of them as CUDA graphs" in said
    assert "No CUDA graph of model a: not all nodes are on CUDA." in said


def test_stale_values_fail_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(Bound, "put", lambda self, feeds: None)
    code, _, err = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx", "--provider", "cuda")
    assert code == 1
    assert "Model a gives other values as a CUDA graph: output y" in err
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_the_graph_of_a_proof_is_captured_with_tf32_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, io: str
) -> None:
    pretend(monkeypatch)
    paths = family(tmp_path)
    code, out, _ = run("merge", *paths, "-o", tmp_path / "m.onnx", "--io", io, "--json", "--provider", "cuda")
    assert (code, json.loads(out)["proof"]["values"]["replays"]["graphs"]) == (0, 3)
    captured = [options for options in CHOSEN if "enable_cuda_graph" in options]
    assert [options["use_tf32"] for options in captured] == ["0"] * 3
    assert [options["use_tf32"] for options in CHOSEN if options not in captured].count("1") == 1
    assert all(options["cudnn_conv_algo_search"] == "HEURISTIC" for options in CHOSEN)


def test_on_the_cpu_there_are_none(tmp_path: Path) -> None:
    import netfuse_onnx

    report = netfuse_onnx.merge(family(tmp_path), str(tmp_path / "m.onnx"), provider="cpu")
    assert report.proof and report.proof.values.replays is None


def test_places_are_apart_from_the_arrays_of_the_caller(tmp_path: Path) -> None:
    session = Session(family(tmp_path)[0], choose("cpu"))
    ones, twos = np.ones((2, 8), np.float32), np.full((2, 8), 2, np.float32)
    bound = Bound(session._session, {"x": ones}, {"y": np.empty((2, 4), np.float32)}, choose("cpu"))
    first = bound.call({"x": ones})["y"]
    before = np.array(first)
    second = bound.call({"x": twos})["y"]
    assert (ones == 1).all()
    assert np.array_equal(first, before) and not np.array_equal(first, second)  # type: ignore[arg-type]


def test_dims_are_fixed_where_they_have_one_size(tmp_path: Path) -> None:
    text = (
        "g (float[n, k] x, float[n, k] z) => (float y) { a = ReduceSum(x)  b = ReduceSum(z)  y = Add(a, b) }"
    )
    session = Session(family(tmp_path, text, {})[0], choose("cpu"))
    ones = np.ones((2, 3), np.float32)
    assert fixed_dims(session.shapes, {"x": ones, "z": np.ones((2, 4), np.float32)}) == {"n": 2}
    assert fixed_dims(session.shapes, {"x": ones, "z": ones}) == {"n": 2, "k": 3}


# --------------------------------------------------------------------------- libraries


def test_libraries_have_the_names_of_their_version() -> None:
    assert cuda.names("13.0")[1:] == (
        "libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcufft.so.12", cuda.CUDNN
    )  # fmt: skip
    assert "libcufft.so.11" in cuda.names("12.8")


def test_missing_libraries_have_a_remedy() -> None:
    assert cuda.remedy(()) == ""
    assert cuda.remedy(("libcublas.so.13",)) == cuda.FROM_PIP
    assert "driver" in cuda.remedy((cuda.DRIVER,)) and "pip" not in cuda.remedy((cuda.DRIVER,))
    assert cuda.remedy((cuda.DRIVER, cuda.CUDNN)) == f"{cuda.FROM_NVIDIA} {cuda.FROM_PIP}"


@pytest.mark.parametrize("name", ["libcublas.so.13", "libcurand.so.10", cuda.DRIVER])
def test_a_missing_library_is_named(tmp_path: Path, name: str) -> None:
    paths = family(tmp_path)
    words = ("-m", "netfuse_onnx", "merge", *paths, "-o", str(tmp_path / "m.onnx"), "--provider", "cuda")
    done = python(tmp_path, *words, without=[name])
    assert done.returncode == 2, done.stderr
    assert f"fell back to the CPU ({name} can't be loaded)" in done.stderr
    assert cuda.remedy((name,)) in " ".join(done.stderr.split())
    auto = python(tmp_path, *words[:-2], without=[name])
    assert auto.returncode == 0, auto.stderr
    assert f"Proved on the CPU: ONNX Runtime fell back to the CPU ({name} can't" in " ".join(
        auto.stderr.split()
    )


def test_missing_cudnn_is_named_where_an_operator_needs_it(tmp_path: Path) -> None:
    paths = family(tmp_path, CONVOLUTION, {"w": (4, 3, 3, 3)})
    words = ("-m", "netfuse_onnx", "merge", *paths, "-o", str(tmp_path / "m.onnx"), "--provider", "cuda")
    done = python(tmp_path, *words, without=[cuda.CUDNN])
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert f"The models need {cuda.CUDNN}, which can't be loaded. {cuda.FROM_PIP}" in said
    auto = python(tmp_path, *words[:-2], without=[cuda.CUDNN])
    assert auto.returncode == 0, auto.stderr
    assert f"Proved on the CPU: {cuda.CUDNN} can't be loaded" in auto.stderr


# --------------------------------------------------------------------------- over the stubs


def test_the_proof_replays_cuda_graphs(tmp_path: Path) -> None:
    """Nothing is computed there, so that all outputs are 0 in each run: what counts is that graphs are accepted."""
    paths = family(tmp_path)
    path = merged(tmp_path, paths, "stacked")
    done = python(tmp_path, "-m", "netfuse_onnx", "verify", path, *paths, "--provider", "cuda", "--json")
    found = json.loads(done.stdout)["proof" if "proof" in done.stdout[:20] else "values"]
    assert found["provider"] == "cuda"
    assert found["replays"]["graphs"] == 3, found["replays"]
    assert found["tf32"] is not None


# --------------------------------------------------------------------------- a plain checkout


def test_a_plain_checkout_has_the_command_line(tmp_path: Path) -> None:
    """The finder of an installation in development mode is taken away."""
    code = (
        "import runpy, sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '') + repr(f)]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "sys.argv = ['netfuse-onnx', '--version']\n"
        "runpy.run_module('netfuse_onnx', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "netfuse-onnx,"), done.stderr


def test_an_installed_command_line_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from netfuse_onnx import cli

    runpy.run_module("netfuse_onnx", run_name="imported")["from_checkout"]()
    assert sys.modules["netfuse_onnx.cli"] is cli


def test_the_extra_for_gpus_brings_all_libraries() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["gpu"] == ["onnxruntime-gpu[cuda,cudnn]>=1.21"]
