"""--select on the command line, and the proof of what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import Run
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx import verify


def sources(folder: Path, op: str = "MatMul") -> list[str]:
    paths = []
    for m in range(3):
        w = np.random.default_rng(m).random((4, 3), np.float32)
        node = helper.make_node(op, ["x", "w"], ["y"])
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 3])
        graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        paths.append(str(folder / f"m{m}.onnx"))
        onnx.save(model, paths[-1])
    return paths


def test_a_call_names_its_models(tmp_path: Path, run: Run) -> None:
    paths, out = sources(tmp_path), str(tmp_path / "some.onnx")
    code, _, said = run("merge", *paths, "-o", out, "--select")
    assert code == 0
    assert "3 calls for some models" in said
    assert "5 calls with an id of no model" in said
    session = ort.InferenceSession(out)
    x = np.random.default_rng(9).random((2, 5, 4), np.float32)
    (y,) = session.run(["y"], {"models": np.array([2, 0]), "x": x})
    for row, m in enumerate([2, 0]):
        (want,) = ort.InferenceSession(paths[m]).run(["y"], {"x": x[row]})
        np.testing.assert_allclose(y[row], want, rtol=1e-5)
    assert run("verify", out, *paths)[0] == 0
    assert "selected" in run("inspect", out)[1]


def test_it_is_for_stacked_inputs(tmp_path: Path, run: Run) -> None:
    paths, out = sources(tmp_path), str(tmp_path / "some.onnx")
    code, _, said = run("merge", *paths, "-o", out, "--select", "--io", "separate")
    assert code == 2
    assert "--select is for stacked inputs and outputs" in said
    assert run("merge", *paths, "-o", out, "--select", "--io", "stacked", "--no-verify")[0] == 0


@pytest.mark.parametrize("check", ["Or", "Sub"])
def test_a_file_that_takes_any_id_is_not_proven(check: str, tmp_path: Path, run: Run) -> None:
    """The graph of the file is not trusted alone: calls that must fail are made."""
    paths, out = sources(tmp_path), str(tmp_path / "some.onnx")
    assert run("merge", *paths, "-o", out, "--select")[0] == 0
    model = onnx.load(out)
    for node in model.graph.node:
        if node.op_type == check:  # the ids in range; as many rows as ids
            node.op_type = {"Or": "And", "Sub": "Mul"}[check]
            if check == "Sub":
                zero = numpy_helper.from_array(np.array([0], np.int64), "zero")
                model.graph.initializer.append(zero)
                node.input[1] = "zero"
    onnx.save(model, out)
    report = verify(out, paths)
    assert report.values.selection is not None
    assert any("must not" in problem for problem in report.values.selection.problems)
    assert not report.ok
