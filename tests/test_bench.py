"""The verb bench, and the harness of the repository."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import family, merged, model, save, tampered

import netfuse_onnx
from bench import models, plot, serving, vmap
from bench.zoo import PAPER, ROWS, ZOO
from netfuse_onnx import opened, sources
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run.runtime import choose

ROOT = Path(__file__).parent.parent
WAYS = {"in sequence", "concurrent", "processes", "side by side", "merged"}
SHORT = ("--rounds", "3", "--seconds", "60")
SHORT_CASE = ("--rounds", "3", "--seconds", "0")
"""The effort of the harness, whose seconds are those of the rounds of one case."""


def test_one_table_on_stdout(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    code, out, err = run("bench", merged(tmp_path, paths), *paths, *SHORT, "--profile")
    assert code == 0, err
    for words in (*WAYS, "n=1", "times as fast as the best alternative", "MatMul, Gemm", "In all kernels"):
        assert words in out


def test_bench_as_json(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, count=3)
    path = merged(tmp_path, paths, "stacked")
    code, out, err = run("bench", path, *paths, *SHORT, "--json", "--dim", "n=4", "--profile")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["ok"]
    assert report["case"] == "n=4"
    assert {row["label"] for row in report["rows"]} == WAYS
    assert all(len(row["samples"]) == 3 and row["error"] <= 1.0 for row in report["rows"])
    assert report["speedups"][0]["merged"] == "merged"
    assert report["machine"]["cores"] and report["versions"]["onnxruntime"]
    assert {row["kind"] for row in report["profile"]} >= {"MatMul, Gemm"}


def test_outputs_that_differ_are_a_no(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    path = merged(tmp_path, paths)

    def wrong(proto: onnx.ModelProto) -> None:
        (relu,) = (node for node in proto.graph.node if node.op_type == "Relu")
        relu.op_type = "Sigmoid"

    tampered(path, wrong)
    code, out, _ = run("bench", path, *paths, *SHORT, "--json")
    report = json.loads(out)
    assert code == 1
    assert not report["ok"]
    (row,) = (row for row in report["rows"] if row["merged"])
    assert row["problem"].startswith("not equal: output y of")
    assert row["samples"] == []


def test_what_makes_no_sense_is_refused(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    path = merged(tmp_path, paths)
    refused(run("bench", path), 2, "No models")
    refused(run("bench", path, paths[0]), 2, "holds 2 models")
    refused(run("bench", path, *paths, "--dim", "m=3"), 2, "no symbolic dimension")
    refused(run("bench", paths[0], *paths), 3, "not written by netfuse-onnx")
    refused(run("bench", tmp_path / "none.onnx", *paths), 3, "does not exist")


def test_bench_from_python(tmp_path: Path) -> None:
    paths = family(tmp_path)
    report = netfuse_onnx.bench(merged(tmp_path, paths), paths, rounds=3, seconds=0.0, dims={"n": 2})
    assert report.ok and report.case == "n=2"
    with pytest.raises(netfuse_onnx.UsageFault):
        netfuse_onnx.bench(merged(tmp_path, paths), paths, rounds=0)


# --------------------------------------------------------------------------- the harness


def _harness(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--exporter", "torchscript"]
    options += ["--only", "policy", "--counts", "2", "--batches", "1", *SHORT_CASE, "--no-torch"]
    command = [sys.executable, str(ROOT / "bench/serving.py"), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_case_is_a_file_and_is_not_measured_twice(tmp_path: Path) -> None:
    done = _harness(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").iterdir()
    result = json.loads(path.read_text())
    assert path.name == "policy-n2-b1-fp32.json"
    assert (result["ok"], result["count"], result["case"]) == (True, 2, "batch=1")
    labels = {row["label"] for row in result["rows"]}
    assert labels >= (WAYS - {"merged"}) | {"merged, generic"}
    assert any("stacked" in label for label in labels)
    before = path.stat().st_mtime_ns
    again = _harness(tmp_path)
    assert (again.returncode, again.stdout, path.stat().st_mtime_ns) == (0, "", before)
    assert "| policy | fp32 | 1 | 2 | generic |" in plot.table(plot.read(tmp_path / "out"))


def test_the_time_is_kept(tmp_path: Path) -> None:
    done = _harness(tmp_path, "--budget", "0")
    assert "The time is up" in done.stdout
    assert "cut short" in _harness(tmp_path, "--budget", "0.5").stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_the_headline_comes_first() -> None:
    given = argparse.Namespace(
        only=None, dtypes=["fp32", "fp16"], batches=[1, 8], counts=[1, 8, 32], provider="cpu", graphs=None
    )
    found = list(serving.cases(given))
    paper = [row.name for row in ROWS if row.group == PAPER]
    assert [case.stem for case in found[: len(paper)]] == [f"{name}-n32-b1-fp32" for name in paper]
    assert [case.stem for case in found[len(paper) :][: len(paper)]] == [f"{n}-n8-b1-fp32" for n in paper]
    assert len({case.stem for case in found}) == len(found) == 12 * len(ROWS)


def test_further_models_differ_in_what_the_first_two_differ_in(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, w)  y = Add(a, same) }"
    paths = [tmp_path / f"m-{i}.onnx" for i in range(4)]
    for i, path in enumerate(paths[:2]):
        proto = model(text, {"w": (4,)}, seed=i)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "same"))
        save(path, proto)
    models.multiply(paths)
    found = [{t.name: t.raw_data for t in onnx.load(path).graph.initializer} for path in paths]
    assert len({row["w"] for row in found}) == 4
    assert len({row["same"] for row in found}) == 1


def test_half_precision_models_merge_and_run(tmp_path: Path) -> None:
    first, second = (Path(path) for path in family(tmp_path))
    paths = [str(models._halved(path, tmp_path / "fp16" / path.name)) for path in (first, second)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), provider="cpu")
    assert report.proof is not None
    assert report.proof.values.worst is not None
    assert report.proof.values.worst.precision == "float16"


def test_vmap_is_checked_against_its_modules(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    row = ZOO["policy"]
    paths = [str(path) for path in models.files(row.family, tmp_path, 2, exporter="torchscript")]
    matched = opened.matched(sources.read(paths), ["a", "b"], False)
    work = Workload(matched, Options(choose("cpu"), dims={"batch": 3}), lambda *_: None)
    contender = vmap.Vmap(work, row.family, "fp32")
    contender.setup()
    assert contender.check()[1] == ""
    assert [value["y"].shape for value in contender.results()] == [(3, 6), (3, 6)]
    contender._modules.reverse()
    assert "output y" in contender.check()[1]
    contender.close()


def result(
    name: str, count: int, batch: int, merged_times: list[float], other: list[float]
) -> dict[str, object]:
    """A result as bench/serving.py writes it, of two ways that took turns."""

    def row(label: str, samples: list[float]) -> dict[str, object]:
        seconds = {"median": float(np.median(samples))} if samples else None
        return {"label": label, "merged": label != "in sequence", "samples": samples, "seconds": seconds}

    told = {"median": 9.0, "low": 8.0, "high": 10.0, "samples": 3}
    return {
        "group": "g", "name": name, "dtype": "fp32", "batch": batch, "count": count, "provider": "cpu",
        "rows": [row("merged, cpu", merged_times), row("in sequence", other)], "warnings": [],
        "machine": {"processor": "p", "cores": 2}, "versions": {},
        "speedups": [{"merged": "merged, cpu", "best": "in sequence", "times": told}],
    }  # fmt: skip


def test_results_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [
        result(name, count, batch, [1.0, 1.0], [1.5, 1.4])
        for name in ("one", "two") for batch in (1, 8) for count in (2, 4)
    ]  # fmt: skip
    plot.draw(results, tmp_path / "a.svg")
    plot.draw(results, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    for words in ("one, 2 models, batch 1", "two, 4 models, batch 8", "cpu", "faster", "slower"):
        assert f">{words}<" in text
    assert text.count("one, 2 models, batch 1") == 1  # a row for each case


def test_losses_have_another_colour_than_gains(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    colours = set(plot.COLOURS.values())
    cases = {
        "gain": ([1.0] * 3, [2.0] * 3),
        "loss": ([2.0] * 3, [1.0] * 3),
        "both": ([1.0] * 3, [0.5, 1.2, 9.0]),
    }
    used = {}
    for name, times in cases.items():
        plot.draw([result(name, 2, 1, *times)], tmp_path / f"{name}.svg")
        text = (tmp_path / f"{name}.svg").read_text()
        used[name] = {colour: text.count(colour) for colour in colours}
    base = {colour: min(counts[colour] for counts in used.values()) for colour in colours}
    more = {name: {c for c in colours if counts[c] > base[c]} for name, counts in used.items()}
    assert [len(one) for one in more.values()] == [1, 1, 1]
    assert len(set.union(*more.values())) == 3


def test_families_that_share_have_a_table_of_their_own() -> None:
    """A call may want some of many models; a file whose values are wrong is named."""
    case = result("tenants", 1000, 1, [1.0] * 3, [2.0] * 3)
    rows = [{**row, "settings": "1 thread", "problem": "", "gpu": 2e9} for row in case["rows"]]  # type: ignore[attr-defined]
    shared = {**case, "group": plot.SHARED, "rows": rows, "models": ["a"] * 16}
    files = [
        {"file": name, "calls": 3, "refused": 2, "worst": 1e-7, "graph": True, "wrong": wrong}
        for name, wrong in (("right", []), ("odd", ["y differs"]))
    ]
    text = plot.table([result("one", 2, 1, [1.0] * 3, [2.0] * 3), shared], files)
    first, second = text.split("## Families that share")
    assert "tenants" not in first and "| one |" in first
    assert (
        "| tenants | 1000 | 16 | merged, cpu | 1000.00 | 2.00 | in sequence | 2000.00 | 2.00 | 2.00 |"
        in second
    )
    assert "2 small files were checked, 6 calls" in second
    assert "- odd: y differs" in second and "right:" not in second


def test_the_plot_the_table_and_the_report_have_one_ratio() -> None:
    """It is that of the medians; stored results of other definitions are computed again from their samples."""
    case = result("one", 2, 1, [1.0, 1.0, 4.0], [2.0, 3.0, 3.0])
    (speedup,) = case["speedups"]  # type: ignore[misc]
    one = plot.compared(case, speedup)
    assert (one.ratio, one.low, one.high) == (3.0, 1.375, 2.5)
    assert str(one.outcome) == "better"
    assert "| cpu | in sequence | 3.00 | 1.38 - 2.50 | better |" in plot.table([case])
    apart = {**case, "provider": "cuda"}
    assert plot.compared(apart, speedup).ratio == 9.0
