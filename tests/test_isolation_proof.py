"""The proof of isolation: it sees one model's data in another model's outputs, and unequal sizes that pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import MLP, MLP_TEXT, family, merged, model, save, tampered
from onnx import helper, numpy_helper
from test_tell import values

import netfuse_onnx
from netfuse_onnx.proofs import Isolation
from netfuse_onnx.prove.isolation import POISONS


def isolation(out: str, paths: list[str], **options: object) -> Isolation:
    found = netfuse_onnx.verify(out, paths, **options).values.isolation  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_every_merge_is_tried_with_odd_values(tmp_path: Path, io: str) -> None:
    paths = family(tmp_path, count=4)
    out = merged(tmp_path, paths, io=io)
    few, all_of_them = isolation(out, paths), isolation(out, paths, isolation=True)
    assert few.ok and all_of_them.ok
    assert (few.models, all_of_them.models) == (2, 4)
    assert all_of_them.calls >= 4 * (len(POISONS) + 1)
    assert (few.refused, all_of_them.refused) == ((1, 4) if io == "separate" else (0, 0))


def leak(proto: onnx.ModelProto) -> None:
    """b gets a little of a, too little for any tolerance; NaN goes through all the same."""
    for node in proto.graph.node:
        node.output[:] = ["b/alone" if o == "b/y" else o for o in node.output]
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1e-12), "little"))
    proto.graph.node.extend(
        [
            helper.make_node("Mul", ["a/y", "little"], ["leak"]),
            helper.make_node("Add", ["b/alone", "leak"], ["b/y"]),
        ]
    )


def test_a_leak_below_all_tolerances_is_seen(tmp_path: Path) -> None:
    paths = family(tmp_path)
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), leak), paths)
    assert all(row.ok for row in report.values.outputs)
    assert report.values.isolation is not None
    (problem, *_) = report.values.isolation.problems
    assert problem == (
        "Output y of model b changes when model a is fed NaN, infinities and the largest numbers."
    )
    assert (report.values.ok, report.exit_code) == (False, 1)


def test_a_failed_isolation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netfuse_onnx.prove import values

    monkeypatch.setattr(
        values, "isolate", lambda *_, **__: Isolation(2, 4, 0, ("Output y of model b changes.",))
    )
    with pytest.raises(netfuse_onnx.ValuesDiffer, match="Output y of model b changes"):
        netfuse_onnx.merge(family(tmp_path), str(tmp_path / "m.onnx"))
    assert not (tmp_path / "m.onnx").exists()


def test_unequal_sizes_that_pass_are_seen(tmp_path: Path) -> None:
    """A join along the batch takes any sizes, and cuts at the wrong place."""
    paths = family(tmp_path, "g (float[n, 4] x) => (float[n, 4] y) { y = Mul(x, w) }", {"w": (4,)})
    out = merged(tmp_path, paths)
    proto = onnx.load(out)
    weights = [numpy_helper.to_array(onnx.load(path).graph.initializer[0]) for path in paths]
    made = helper.make_graph(
        [
            helper.make_node("Concat", ["a/x", "b/x"], ["both"], axis=0),
            helper.make_node("Split", ["both"], ["one", "two"], axis=0),
            helper.make_node("Mul", ["one", "wa"], ["a/y"]),
            helper.make_node("Mul", ["two", "wb"], ["b/y"]),
        ],
        "g",
        list(proto.graph.input),
        list(proto.graph.output),
        [numpy_helper.from_array(w, n) for w, n in zip(weights, ("wa", "wb"), strict=True)],
    )
    proto.graph.CopyFrom(made)
    found = values(paths, save(tmp_path / "joined.onnx", proto)).isolation
    assert found is not None
    assert found.refused == 0
    assert any("is wrong, without an error, when model b is fed other sizes" in p for p in found.problems)


def test_as_many_elements_in_another_shape_are_seen(tmp_path: Path) -> None:
    """A join behind a Reshape takes 32x64 for 64x32."""
    paths = family(tmp_path, "g (float[h, v] x) => (float[h, v] y) { y = Mul(x, w) }", {"w": ()})
    out = merged(tmp_path, paths)
    proto = onnx.load(out)
    text = """<ir_version: 9, opset_import: ["" : 17]>
        g (float[h, v] x, float[h, v] z) => (float[h, v] p, float[h, v] q) {
        s = Shape(x) t = Reshape(z, s) p = Mul(x, wa) q = Mul(t, wb)
    }"""
    made = onnx.parser.parse_model(text).graph
    names = {"x": "a/x", "z": "b/x", "p": "a/y", "q": "b/y"}
    for node in made.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        node.output[:] = [names.get(o, o) for o in node.output]
    for info in (*made.input, *made.output):
        info.name = names[info.name]
    for path, name in zip(paths, ("wa", "wb"), strict=True):
        tensor = onnx.load(path).graph.initializer[0]
        made.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), name))
    proto.graph.CopyFrom(made)
    found = values(paths, save(tmp_path / "reshaped.onnx", proto)).isolation
    assert found is not None
    assert any("is wrong, without an error" in p for p in found.problems), found


def test_an_infinite_size_is_not_asked_for(tmp_path: Path) -> None:
    """Floats that steer a Range: only other values of the usual kind are fed."""
    text = """g (float[n, 4] x, float limit) => (float[n, 4] y, float[r] z) {
        y = Mul(x, w) a = Abs(limit) z = Range(zero, a, one)
    }"""
    paths = []
    for k in range(2):
        proto = model(text, {"w": (4,)}, seed=k)
        for name, value in {"zero": 0, "one": 1}.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        paths.append(save(tmp_path / f"{'ab'[k]}.onnx", proto))
    found = isolation(merged(tmp_path, paths), paths)
    assert found.ok
    assert found.calls == 3  # other values for both models, other sizes for one


def test_one_model_reaches_nobody(tmp_path: Path) -> None:
    paths = family(tmp_path, MLP_TEXT, MLP, count=1)
    assert netfuse_onnx.verify(merged(tmp_path, paths), paths).values.isolation is None
