"""The table of estimates: its rows, its ratios, and the files without weights that it is made from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import netfuse_onnx
from bench import paper, paper_table

WIDE = 256  # weights of 256 KiB
TEXT = f"""<ir_version: 8, opset_import: ["": 17]>
g (float[n,{WIDE}] x) => (float[n,{WIDE}] y) {{ t = MatMul(x, w) y = Add(t, b) }}"""


def network(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(TEXT)
    for name, shape in (("w", (WIDE, WIDE)), ("b", (WIDE,))):
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def row(**changes: Any) -> dict[str, Any]:
    columns = {
        "launches": 10,
        "gemms": dict.fromkeys(("strided", "plain", "pointers"), 1),
        "graph": "accepted",
    }
    counts = {"copies": 0, "cpu": 0, "memcpys": 0, "ms": 2.0, "graph_ms": 1.0}
    about = {"family": "mlp", "batch": 1, "models": 1, "target": "source", "io": ""}
    return about | columns | counts | changes


def test_a_file_without_weights_is_the_merged_file_but_for_them(tmp_path: Path) -> None:
    paths = [network(tmp_path / f"{seed}.onnx", seed) for seed in range(2)]
    whole, holes = tmp_path / "whole.onnx", tmp_path / "holes.onnx"
    names = ["m0", "m1", "m2"]
    three = [str(paths[model % 2]) for model in range(3)]
    netfuse_onnx.merge(three, str(whole), names=names, io="stacked", verify=False)
    paper.merge_without_weights(paths, holes, 3, target="generic", io="stacked")
    assert holes.stat().st_size == whole.stat().st_size
    assert holes.stat().st_blocks < whole.stat().st_blocks
    first, second = onnx.load(whole), onnx.load(holes)
    for model in (first, second):
        (large,) = (t for t in model.graph.initializer if t.ByteSize() > paper.COPIED_BELOW)
        assert any(large.raw_data) == (model is first)
        large.ClearField("raw_data")
    assert first == second
    netfuse_onnx.merge(three, str(holes), names=names, io="stacked", verify=False)
    assert holes.read_bytes() == whole.read_bytes(), "merges write weights again"


def test_a_ratio_is_that_of_the_sequence() -> None:
    source, merged = row(), row(models=8, target="cuda", io="stacked", ms=4.0, graph_ms=4.0)
    assert paper_table.ratio(merged, source, graphs=False) == 8 * 2.0 / 4.0
    assert paper_table.ratio(merged, source, graphs=True) == 8 * 1.0 / 4.0


@pytest.mark.parametrize(("refused", "want"), [("merged", 8 * 1.0 / 2.0), ("source", 8 * 2.0 / 1.0)])
def test_a_file_that_is_refused_a_graph_runs_without(refused: str, want: float) -> None:
    source, merged = row(), row(models=8)
    (merged if refused == "merged" else source)["graph"] = "no: a node is on the CPU"
    assert paper_table.ratio(merged, source, graphs=True) == want


def test_the_table_stands_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "doc.md"
    path.write_text(f"before\n{paper_table.BEGIN}\nold\n{paper_table.END}\nafter\n")
    rows = [row(), row(models=8, target="cuda", io="stacked"), row(models=8, target="generic", io="stacked")]
    for _ in range(2):
        paper_table.write(path, rows)
        text = path.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("| mlp |") == 1 + 3
    path.write_text("no marks")
    with pytest.raises(SystemExit, match="lacks the marks"):
        paper_table.write(path, rows)


def test_a_row_that_could_not_be_traced_is_in_the_table() -> None:
    gone = ("launches", "gemms", "copies", "ms", "graph_ms")
    whole = row(models=8, target="cuda", io="stacked")
    broken = {key: value for key, value in whole.items() if key not in gone}
    lines = list(paper_table.lines([row(), broken | {"error": "MatMulInteger: only scalar zero points"}]))
    assert sum("not traced" in line for line in lines) == 1
    columns = {line.count("|") for line in lines if line}
    assert columns == {1 + len(paper_table.SUMMARY), 1 + len(paper_table.COLUMNS)}


def test_results_go_on_where_they_stopped(tmp_path: Path) -> None:
    path = tmp_path / "paper.json"
    cases = [paper.Case("mlp", batch) for batch in (1, 8)]
    columns = {key: value for key, value in row().items() if key not in ("family", "batch", "models")}
    results = paper.Results(path, tmp_path)
    results.add(cases[0], columns | {"target": "source"})
    again = paper.Results(path, tmp_path)
    assert again.missing(cases) == cases[1:]
    again.forget(cases[0])
    assert again.missing(cases) == cases


def test_each_family_is_traced_with_all_settings() -> None:
    given = argparse.Namespace(
        only=["mlp"], models=[32, 8], batches=[1, 8], targets=["generic", "cuda"], io=["separate", "stacked"]
    )
    cases = list(paper.cases(given))
    assert len(cases) == len(set(cases)) == 2 * (1 + 2 * 2 * 2)
