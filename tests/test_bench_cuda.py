"""The harness on CUDA: models that are drawn from graphs without weights, the order of the cases, results after each
way, and the commands for a machine without network."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import MLP, MLP_TEXT, model, save
from onnx import numpy_helper
from stubs import ROOT, python

from bench import drawn, graphs, plot, serving, table
from bench.device import prune
from bench.merging import Plan, merged
from bench.zoo import ZOO
from netfuse_onnx.measure.report import BenchReport, Row
from netfuse_onnx.measure.rounds import Quartiles

TIMES = Quartiles(2e-3, 1e-3, 3e-3, 5)


def graph(folder: Path, name: str = "tabular-tiny") -> Path:
    """A graph without weights on disk."""
    proto = model(MLP_TEXT.replace("[n,", "[batch,"), MLP)
    graphs.strip(proto)
    folder.mkdir(exist_ok=True)
    return Path(save(folder / f"{name}.onnx", proto))


def given(tmp_path: Path, **options: object) -> argparse.Namespace:
    usual = {
        "only": None, "dtypes": ["fp32", "fp16"], "batches": [1], "counts": [1, 8, 32], "provider": "cuda",
        "graphs": None, "tiny": False, "lines": None, "out": tmp_path, "work": tmp_path, "exporter": "dynamo",
    }  # fmt: skip
    return argparse.Namespace(**(usual | options))


# --------------------------------------------------------------------------- models from graphs


def test_a_graph_without_weights_gives_models_with_weights(tmp_path: Path) -> None:
    path = graph(tmp_path)
    assert path.stat().st_size < 1000
    first, second, again = (tmp_path / f"{i}.onnx" for i in range(3))
    for seed, out in ((0, first), (1, second), (0, again)):
        drawn.write(path, seed, out)
    found = [
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer} for p in (first, second)
    ]
    assert {name: array.shape for name, array in found[0].items()} == {**MLP, "b1": (16,)}
    assert not np.array_equal(found[0]["w1"], found[1]["w1"])
    assert first.with_suffix(".data").read_bytes() == again.with_suffix(".data").read_bytes()
    assert not np.array_equal(found[0]["w1"].ravel()[:16], found[0]["w2"].ravel()[:16])


def test_models_are_drawn_once(tmp_path: Path) -> None:
    path = graph(tmp_path)
    paths = drawn.files(path, tmp_path / "models", 3)
    times = [p.stat().st_mtime_ns for p in paths]
    assert drawn.files(path, tmp_path / "models", 3) == paths
    assert [p.stat().st_mtime_ns for p in paths] == times
    onnx.checker.check_model(str(paths[2]))


def test_a_recipe_gives_numbers_like_those_it_was_made_from() -> None:
    rng = np.random.default_rng(0)
    spread, scale = rng.normal(1.0, 3.0, (40, 50)), rng.uniform(0.5, 2.0, 100)
    for array in (spread, scale):
        tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=array.shape)
        tensor.doc_string = graphs.recipe(array)
        numbers = drawn.draw(tensor, 0)
        assert abs(numbers.mean() - array.mean()) < 0.3
        assert abs(numbers.std() - array.std()) < 0.3
    assert (drawn.draw(tensor, 1) > 0).all()


def test_vectors_are_weights_by_their_names_and_matrices_always() -> None:
    def tensor(name: str, *dims: int, kind: int = onnx.TensorProto.FLOAT) -> onnx.TensorProto:
        return onnx.TensorProto(name=name, data_type=kind, dims=dims)

    assert graphs.is_weight(tensor("layers.0.bias", 4)) and graphs.is_weight(tensor("val_5", 4, 4))
    assert not graphs.is_weight(tensor("val_5", 4))
    assert not graphs.is_weight(tensor("ids", 4, 4, kind=onnx.TensorProto.INT64))


# --------------------------------------------------------------------------- cases and results


def test_on_cuda_the_listed_cases_come_first(tmp_path: Path) -> None:
    stems = [case.stem for case in serving.cases(given(tmp_path))]
    first = [f"{name}-n{count}-b1-{dtype}" for name, count, dtype in serving.ON_CUDA]
    assert stems[: len(first)] == first
    assert len(set(stems)) == len(stems)


def test_with_graphs_there_are_cases_that_have_one(tmp_path: Path) -> None:
    graph(tmp_path / "graphs")
    graph(tmp_path / "graphs", "bert-tiny-fp16")
    some = given(tmp_path, graphs=tmp_path / "graphs", tiny=True, counts=[3])
    assert {case.stem for case in serving.cases(some)} == {"tabular-n3-b1-fp32", "bert-n3-b1-fp16"}


def test_stacked_files_are_always_measured_on_cuda(tmp_path: Path) -> None:
    options = {"targets": ["generic", "cuda"], "no_stacked": False}
    plans = serving._plans([], given(tmp_path, **options))
    assert [plan.label for plan in plans] == [
        "merged, generic, stacked", "merged, cuda, stacked", "merged, generic"
    ]  # fmt: skip
    plans = serving._plans([], given(tmp_path, provider="cpu", **options))
    assert [plan.label for plan in plans] == ["merged, generic", "merged, cuda", "merged, cuda, stacked"]


def _report(count: int, cut: bool) -> BenchReport:
    rows = [Row("sequence", "in sequence", seconds=TIMES, samples=(2e-3,)) for _ in range(count)]
    fast = replace(TIMES, median=1e-3)
    rows.append(
        Row("merged", "merged, cuda", True, "1 thread, CUDA graph", seconds=fast, device=fast, error=0.5)
    )
    machine: Mapping[str, str | int] = {"processor": "none", "cores": 1}
    return BenchReport(("a",), "batch=1", "cuda", tuple(rows), cut=cut, machine=machine)


def test_results_count_as_far_as_they_got(tmp_path: Path) -> None:
    case, row = serving.Case("bert", 8, 1, "fp32"), ZOO["bert"]
    path = tmp_path / f"{case.stem}.json"
    serving._write(case, row, given(tmp_path), _report(1, cut=True))
    assert not serving._done(path)
    assert len(plot.read(tmp_path)) == 1
    serving._write(case, row, given(tmp_path), _report(2, cut=False))
    assert serving._done(path)
    (result,) = plot.read(tmp_path)
    assert len(result["rows"]) == 3


def test_a_file_of_lines_has_one_for_each_case(tmp_path: Path) -> None:
    lines = tmp_path / "results.jsonl"
    options = given(tmp_path, lines=lines)
    for case in (serving.Case("bert", 8, 1, "fp32"), serving.Case("bert", 32, 1, "fp32")):
        for count in (1, 2):
            serving._write(case, ZOO["bert"], options, _report(count, cut=count == 1))
    assert len(lines.read_text().splitlines()) == 2
    with lines.open("a") as file:
        file.write(json.dumps({"shape": "MatMul", "form": "rows", "us": 3.14}) + "\n")
    assert [len(result["rows"]) for result in plot.read(tmp_path)] == [3, 3]
    assert [*table.single_operators(tmp_path)] == ["us: MatMul: rows 3.1"]
    text = "\n".join(table.case(plot.read(tmp_path)[0]))
    assert "merged, cuda, CUDA graph" in text and " 2.00 " in text


def test_what_has_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    paths = [*map(str, drawn.files(graph(tmp_path), tmp_path / "models", 2))]
    usage = shutil.disk_usage(tmp_path)
    needed = sum(p.stat().st_size for p in (tmp_path / "models").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(1.5 * needed)))
    plans = [Plan("generic", "stacked"), Plan("generic", "separate")]
    files, notes = merged(plans, paths, ["a", "b"], tmp_path, {}, 1)
    assert [file.label for file in files] == ["merged, generic, stacked"]
    assert notes == ["merged, generic: there is no room for the file"]


def test_plans_that_come_out_the_same_are_measured_once(tmp_path: Path) -> None:
    paths = [*map(str, drawn.files(graph(tmp_path), tmp_path / "models", 2))]
    plans = [Plan("generic", "stacked"), Plan("cuda", "stacked"), Plan("no-such-target", "stacked")]
    files, notes = merged(plans, paths, ["a", "b"], tmp_path, {"batch": 1}, 2)
    same = [note for note in notes if "is the same as merged, generic, stacked" in note]
    assert len(files) + len(same) == 2
    assert any(note.startswith("merged, no-such-target, stacked: ") for note in notes)


# --------------------------------------------------------------------------- a machine without network


def test_code_of_other_cards_is_zeroed() -> None:
    def entry(kind: int, arch: int, code: bytes) -> bytes:
        head = (
            kind.to_bytes(2, "little")
            + bytes(2)
            + (64).to_bytes(4, "little")
            + len(code).to_bytes(8, "little")
        )
        return head.ljust(28, b"\0") + arch.to_bytes(4, "little") + bytes(32) + code

    body = entry(2, 80, b"a" * 64) + entry(2, 90, b"b" * 64) + entry(1, 90, b"c" * 64)
    data = bytearray(b"x" * 8 + prune.MAGIC + b"\1\0\x10\0" + len(body).to_bytes(8, "little") + body)
    before = len(data)
    assert prune.prune(data, 90) == (1, 128)
    assert len(data) == before
    assert b"a" not in data and data.count(b"b") == 64 and b"c" not in data


def test_the_command_for_the_device_measures_and_checks(tmp_path: Path) -> None:
    graph(tmp_path / "graphs")
    words = [
        "--provider",
        "cpu",
        "--tiny",
        "--no-unpack",
        "--only",
        "tabular",
        "--rounds",
        "3",
        "--steps",
        "cases",
    ]
    words += ["--graphs", str(tmp_path / "graphs"), "--repo", str(ROOT), "--work", str(tmp_path)]
    command = [sys.executable, str(ROOT / "bench/device/run.py"), "--out", str(tmp_path / "out"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = plot.read(tmp_path / "out")
    assert (result["ok"], result["count"], result["cut"]) == (True, 3, False)
    assert "tabular n3 b1 fp32" in (tmp_path / "out/table.txt").read_text()
    assert "CPUExecutionProvider works" in (tmp_path / "out/machine.txt").read_text()


def test_all_ways_of_calling_run_over_the_stubs(tmp_path: Path) -> None:
    graph(tmp_path / "graphs")
    words = [
        "--provider",
        "cuda",
        "--tiny",
        "--no-unpack",
        "--unchecked",
        "--rounds",
        "3",
        "--only",
        "tabular",
    ]
    words += ["--graphs", str(tmp_path / "graphs"), "--repo", str(ROOT), "--work", str(tmp_path)]
    done = python(tmp_path, str(ROOT / "bench/device/run.py"), "--out", str(tmp_path / "out"), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = plot.read(tmp_path / "out")
    assert {row["label"] for row in result["rows"]} >= {
        "in sequence", "sequence, waiting once", "concurrent", "merged, generic, stacked", "merged, generic"
    }  # fmt: skip
    assert [row["problem"] for row in result["rows"] if row["problem"]] == []
    assert [*table.single_operators(tmp_path / "out")]
