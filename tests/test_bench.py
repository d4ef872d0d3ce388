"""The verb bench, and the harness of the repository."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from commands import Run, refused
from families import family, merged, tampered

import netfuse_onnx

WAYS = {"in sequence", "concurrent", "processes", "side by side", "merged"}
SHORT = ("--rounds", "3", "--seconds", "0")


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
