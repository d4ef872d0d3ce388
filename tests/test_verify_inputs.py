"""verify: the inputs that it makes up or is given, and outputs that are no plain floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import WIDE, WIDE_WEIGHTS, family, merged, model, save, tampered
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import FileFault, NotProven, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove.noise import measure
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.run import runtime


def prove(folder: Path, text: str, **options: object) -> VerifyReport:
    weights = {"table": (5, 4)} if "table" in text else {}
    paths = family(folder, text, weights)
    report: VerifyReport = netfuse_onnx.verify(merged(folder, paths), paths, **options)  # type: ignore[arg-type]
    return report


def test_indices_stay_within_their_table(tmp_path: Path) -> None:
    text = """g (int32[n, s] ids) => (float[n, s, 4] y) {
        wide = Cast <to = 7> (ids)
        y = Gather(table, wide)
    }"""
    report = prove(tmp_path, text)
    assert report.ok
    assert not report.values.skipped


def test_a_refused_batch_is_reported_and_the_others_count(tmp_path: Path) -> None:
    text = """g (float[n, 8] x) => (float[2, 4] y) <int64[2] to = {2, 4}> { y = Reshape(x, to) }"""
    report = prove(tmp_path, text)
    assert report.ok
    assert report.values.cases == ("n=1",)
    assert report.values.skipped[0].startswith("n=2: ")


def test_nothing_runs(tmp_path: Path) -> None:
    text = "g (float[n, 8] x) => (float[2, 11] y) <int64[2] to = {7, 11}> { y = Reshape(x, to) }"
    with pytest.raises(NotProven, match="No inputs were found"):
        prove(tmp_path, text)


def test_dims_are_bound(tmp_path: Path) -> None:
    text = "g (float[n, s] x) => (float[n, s] y) { y = Softmax(x) }"
    assert prove(tmp_path, text, dims={"n": 4}).values.cases == ("n=4, s=8",)
    assert prove(tmp_path, text, dims={"s": 3}).values.cases == ("n=1, s=3", "n=2, s=3")
    with pytest.raises(UsageFault, match="no symbolic dimension 'm'"):
        prove(tmp_path, text, dims={"m": 4})


def test_sums_of_dims_are_computed(tmp_path: Path) -> None:
    text = """g (float[n, p] past, float[n, s] x, float[n, q] all) => (float[n, q] y) {
        both = Concat <axis = 1> (past, x)
        y = Add(both, all)
    }"""
    proto = model(text)
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "p + s"
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    assert report.ok
    assert report.values.cases[0] == "n=1, p=8, s=9"


@pytest.mark.parametrize("key", ["own", "same", "stacked"])
def test_given_inputs(tmp_path: Path, key: str) -> None:
    paths = family(tmp_path)
    out = merged(tmp_path, paths)
    x = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    held = {"own": {"a/x": x[0], "b/x": x[1]}, "same": {"x": x[0]}, "stacked": {"x": x}}[key]
    np.savez(tmp_path / "in.npz", **held)
    report = netfuse_onnx.verify(out, paths, inputs=str(tmp_path / "in.npz"))
    assert report.ok
    assert report.values.cases == ("given inputs",)


def test_given_inputs_that_lack_one(tmp_path: Path) -> None:
    paths = family(tmp_path)
    out = merged(tmp_path, paths)
    np.savez(tmp_path / "in.npz", z=np.zeros(3))
    with pytest.raises(UsageFault, match="neither 'a/x' nor 'x'"):
        netfuse_onnx.verify(out, paths, inputs=str(tmp_path / "in.npz"))
    (tmp_path / "in.npz").write_bytes(b"PK nonsense")
    with pytest.raises(FileFault, match="read as an"):
        netfuse_onnx.verify(out, paths, inputs=str(tmp_path / "in.npz"))


def test_other_element_types_and_values(tmp_path: Path) -> None:
    text = """g (bfloat16[n, 3] b, float16[n, 3] h, bool[n] c, int8[n, 3] i, double d)
        => (bfloat16[n, 3] b2, float16[n, 3] h2, bool[n] c2, int8[n, 3] i2, double d2) {
        b2 = Identity(b)
        h2 = Add(h, h)
        c2 = Not(c)
        i2 = Identity(i)
        d2 = Mul(d, d)
    }"""
    report = prove(tmp_path, text)
    assert report.ok
    precisions = {row.output: row.precision for row in report.values.outputs}
    assert precisions["b2"] == "bfloat16"
    assert precisions["h2"] == "float16"
    assert precisions["d2"] == "float64"
    assert precisions["i2"] == precisions["c2"] == "exact"


def test_strings(tmp_path: Path) -> None:
    text = "g (string[n] s, string[n] t) => (bool[n] y, string[n] u) { y = Equal(s, t) u = Identity(s) }"
    paths = family(tmp_path, text, opset=19)
    assert netfuse_onnx.verify(merged(tmp_path, paths), paths).ok


def test_random_outputs_are_compared_by_shape_and_said(tmp_path: Path) -> None:
    text = """g (float[n, 3] x) => (float[n, 3] y, float[n, 3] z) {
        r = RandomNormalLike(x)
        y = Add(r, x)
        z = Neg(x)
    }"""
    report = prove(tmp_path, text)
    assert report.ok
    assert any("y: random" in warning for warning in report.warnings)


def test_sequences(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (seq(float[n, 2]) y) <int64[2] half = {2, 2}> {
        y = SplitToSequence <axis = 1> (x, half)
    }"""
    assert prove(tmp_path, text).ok


def test_a_tie_is_reported_and_a_wrong_index_is_not_one(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (int64[n] y) {
        z = Mul(x, zero)
        y = ArgMax <axis = 1, keepdims = 0> (z)
    }"""
    proto = model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]

    def last(to: onnx.ModelProto) -> None:
        for node in to.graph.node:
            if node.op_type == "ArgMax":
                node.attribute.append(onnx.helper.make_attribute("select_last_index", 1))

    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), last), paths)
    assert report.values.ok
    assert not report.graph.ok
    assert sum(row.ties for row in report.values.outputs) > 0
    assert any("scores are equal" in warning for warning in report.warnings)

    def least(to: onnx.ModelProto) -> None:
        for node in to.graph.node:
            node.op_type = {"ArgMax": "ArgMin"}.get(node.op_type, node.op_type)

    plain = [save(tmp_path / f"{n}.onnx", model(text.replace("Mul(x, zero)", "Neg(x)"))) for n in "cd"]
    assert not netfuse_onnx.verify(tampered(merged(tmp_path, plain), least), plain).values.ok


def test_where_nothing_is_compared_nothing_is_proved(tmp_path: Path) -> None:
    with pytest.raises(NotProven, match=r"Nothing could be compared .* all outputs are empty or NaN"):
        prove(tmp_path, "g (float[n, 3] x) => (float[n, 3] y) { z = Sub(x, x) y = Div(z, z) }")
    paths = family(tmp_path)
    with pytest.raises(NotProven, match="n=0: all outputs are empty"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), dims={"n": 0})


def test_given_inputs_that_do_not_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 7), np.float32))
    with pytest.raises(NotProven) as caught:
        netfuse_onnx.merge(family(tmp_path), str(tmp_path / "m.onnx"), inputs=str(tmp_path / "bad.npz"))
    assert caught.value.hint == f"Check names, shapes and types in {tmp_path / 'bad.npz'}."


def test_noise_is_measured_on_the_source(tmp_path: Path) -> None:
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS)
    trial = Trial(match([load(path) for path in paths], ["a", "b"]), Options(runtime.Runtime("cpu")))
    trial.run_sources(lambda *_: None)
    found = measure(trial, 1, {0, 1})
    assert all(0 <= found.changes[case]["y"].max() < 1e-3 for case in (0, 1))
    noisy = [out | {"y": out["y"] + 0.25} for out in trial.outputs[1]]  # as if the runs had differed
    trial.outputs[1] = noisy
    assert measure(trial, 1, {0}).changes[0]["y"] == pytest.approx(0.25, abs=1e-3)
