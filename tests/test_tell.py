"""verify: it names what the values could not have shown, and looks for inputs that show it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save, tampered
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import NotProven
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.proofs import BytesProof, Telling, ValuesProof
from netfuse_onnx.prove.prover import blind_spots
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.prove.values import prove_values
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.run.runtime import Runtime

Weights = Mapping[str, Sequence[int] | np.ndarray]


def files(folder: Path, text: str, weights: Weights, count: int = 3, opset: int = 17) -> list[str]:
    """A family whose weights are random where a shape is given, and equal where an array is."""
    random = {name: value for name, value in weights.items() if not isinstance(value, np.ndarray)}
    paths = []
    for k in range(count):
        proto = model(text, random, seed=k, opset=opset)
        for name, value in weights.items():
            if isinstance(value, np.ndarray):
                proto.graph.initializer.append(numpy_helper.from_array(value, name))
        paths.append(save(folder / f"m{k}.onnx", proto))
    return paths


def values(paths: list[str], out: str, io: str = "separate", **options: object) -> ValuesProof:
    """The proof of the values alone."""
    names = tuple(Path(path).stem for path in paths)
    given = match([load(path) for path in paths], names)
    return prove_values(out, given, Options(Runtime("cpu"), io=io, **options))  # type: ignore[arg-type]


def number(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def turn(name: str) -> object:
    """A change that gives every model's share of an output to the next model."""

    def change(proto: onnx.ModelProto) -> None:
        models = sorted({o.name.split("/")[0] for o in proto.graph.output})
        others = dict(zip(models, models[1:] + models[:1], strict=True))
        for node in proto.graph.node:
            for i, out in enumerate(node.output):
                if out.endswith(f"/{name}"):
                    node.output[i] = f"{others[out.split('/')[0]]}/{name}"

    return change


# --------------------------------------------------------------------------- parts of an output

SHAPES = {
    "[n, fields]": ("n, 16", "n, 12", "1", "n, 4", "n, 8"),
    "[n, places, fields]": ("n, 5, 16", "n, 5, 12", "2", "n, 5, 4", "n, 5, 8"),
}
DETECTOR = """g (float[{0}] x) => (float[{1}] y) {{
    h1 = MatMul(x, w1)
    s1 = Sigmoid(h1)
    box = Mul(s1, size)
    h2 = MatMul(x, w2)
    h3 = Add(h2, shift)
    cls = Sigmoid(h3)
    y = Concat <axis = {2}> (box, cls)
}}"""
PARTS: Weights = {"w1": (16, 4), "w2": (16, 8), "size": number(640), "shift": number(-11)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_scores_beside_boxes_have_a_scale_of_their_own(tmp_path: Path, shape: str, io: str) -> None:
    """A file that gives every model's scores to another model is refused by the values alone."""
    paths = files(tmp_path, DETECTOR.format(*SHAPES[shape]), PARTS)
    out = merged(tmp_path, paths, io=io)
    assert values(paths, out, io).ok

    def exchange(proto: onnx.ModelProto) -> None:
        (node,) = (n for n in proto.graph.node if any(t.startswith("w2") for t in n.input))
        (name,) = (t for t in node.input if t.startswith("w2"))
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 0]), "order"))
        turned = onnx.helper.make_node("Gather", [name, "order"], ["turned"], axis=0)
        node.input[list(node.input).index(name)] = "turned"
        proto.graph.node.insert(0, turned)

    assert not values(paths, tampered(out, exchange), io).ok


def test_fields_before_places_have_scales_too(tmp_path: Path) -> None:
    text = """g (float[n, 6, 9] x) => (float[n, 4, 9] y) {
        a = Conv(x, w1)  box = Mul(a, size)
        b = Conv(x, w2)  c = Mul(b, tiny)
        y = Concat <axis = 1> (box, c)
    }"""
    weights: Weights = {
        "w1": (2, 6, 1), "w2": (2, 6, 1), "size": number(500), "tiny": number(1e-4),
    }  # fmt: skip
    paths = files(tmp_path, text, weights)
    out = merged(tmp_path, paths)
    assert values(paths, out).ok

    def drop(proto: onnx.ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if t.name == "tiny")
        tensor.CopyFrom(numpy_helper.from_array(number(1.01e-4), "tiny"))

    assert not values(paths, tampered(out, drop)).ok


def test_a_vector_of_fixed_size_has_channels(tmp_path: Path) -> None:
    text = "g (float[8] x) => (float[6] y) { h = MatMul(x, w) y = Mul(h, s) }"
    sizes = np.array([500, 500, 500, 1e-3, 1e-3, 1e-3], np.float32)
    paths = files(tmp_path, text, {"w": (8, 6), "s": sizes})
    out = merged(tmp_path, paths)
    assert values(paths, out).ok

    def more(proto: onnx.ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if t.name.startswith("s"))
        tensor.CopyFrom(numpy_helper.from_array(sizes * np.float32([1, 1, 1, 1, 1.01, 1]), tensor.name))

    assert not values(paths, tampered(out, more)).ok


# --------------------------------------------------------------------------- outputs that say nothing

TWO = """g (float[n, 4] x) => (float[n, 4] y1, float[n, 4] y2) {{
    y1 = MatMul(x, w1)
    h = MatMul(x, w2)
    {0}
}}"""
SILENT = {
    "dead": ("g = Add(h, c) y2 = Relu(g)", -1e9, "0.0 everywhere"),
    "constant": ("g = Mul(h, c) y2 = Cos(g)", 0.0, "1.0 everywhere"),
    "nan": ("g = Abs(h) k = Sub(c, g) y2 = Sqrt(k)", -1.0, "empty, NaN or infinite"),
    "equal": ("g = Mul(h, c) y2 = Add(g, x)", 0.0, "the same in all models"),
}


@pytest.mark.parametrize("kind", SILENT)
def test_an_output_that_says_nothing_is_named(tmp_path: Path, kind: str) -> None:
    body, constant, reason = SILENT[kind]
    paths = files(tmp_path, TWO.format(body), {"w1": (4, 4), "w2": (4, 4), "c": number(constant)})
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    assert report.ok
    row = next(row for row in report.values.telling if row.output == "y2")
    assert row.reason == reason
    assert row.alike == (("m0", "m1"), ("m0", "m2"), ("m1", "m2"))
    (said,) = (warning for warning in report.warnings if "Output y2" in warning)
    assert "m0 and m1, m0 and m2, m1 and m2" in said
    assert reason in said
    assert not any("Output y1" in warning or "one model" in warning for warning in report.warnings)
    strict = netfuse_onnx.verify(merged(tmp_path, paths), paths, strict=True)
    assert (report.exit_code, strict.exit_code, strict.ok) == (0, 5, False)
    assert strict.failure == said


def test_a_pair_that_is_too_alike_is_named(tmp_path: Path) -> None:
    """m2 is nearly m1 in one output; the other tells them apart."""
    paths = files(tmp_path, TWO.format("y2 = Relu(h)"), {"w1": (4, 4), "w2": (4, 4)})
    near, last = onnx.load(paths[1]), onnx.load(paths[2])
    w2 = next(numpy_helper.to_array(t) for t in near.graph.initializer if t.name == "w2")
    for tensor in last.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(w2 * np.float32(1 + 1e-4), "w2"))
    save(Path(paths[2]), last)
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    rows = {row.output: row for row in report.values.telling}
    assert rows["y1"].reason == ""
    assert (rows["y2"].reason, rows["y2"].alike) == ("too alike", (("m1", "m2"),))
    assert [w for w in report.warnings if "Output y2 can't tell m1 and m2 apart" in w]


def test_random_outputs_are_no_equal_models(tmp_path: Path) -> None:
    text = """g (float[b, 6] x) => (float[b, 4] y) {
        h = MatMul(x, w) n = RandomNormalLike(h) y = Add(h, n)
    }"""
    paths = files(tmp_path, text, {"w": (6, 4)}, count=2)
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    assert report.warnings == ("y: random, so only type and shape were compared.",)
    assert netfuse_onnx.verify(merged(tmp_path, paths), paths, strict=True).exit_code == 5


def test_strict_merge_writes_nothing_where_an_output_says_nothing(tmp_path: Path) -> None:
    text = TWO.format("g = Add(h, c) y2 = Relu(g)")
    paths = files(tmp_path, text, {"w1": (4, 4), "w2": (4, 4), "c": number(-1e9)})
    with pytest.raises(NotProven, match="Output y2 says nothing") as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), strict=True)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "out.onnx").exists()


def test_an_output_without_weights_of_one_model_tells_by_its_inputs(tmp_path: Path) -> None:
    """All models are one function there; what is fed to each shows an exchange."""
    paths = files(tmp_path, TWO.format("k = Mul(x, x) y2 = Neg(k)"), {"w1": (4, 4), "w2": (4, 4)})
    out = merged(tmp_path, paths)
    report = netfuse_onnx.verify(out, paths)
    assert report.warnings == ()
    assert not values(paths, tampered(out, turn("y2"))).ok  # type: ignore[arg-type]


def test_quiet_channels_are_counted(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 8] y) {
        h = MatMul(x, w) k = MatMul(x, v) d = Mul(k, zero) y = Concat <axis = 1> (h, d)
    }"""
    paths = files(tmp_path, text, {"w": (4, 4), "v": (4, 4), "zero": number(0)})
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    (row,) = report.values.telling
    assert (row.reason, row.axis, row.channels, row.quiet) == ("", 1, 8, 4)
    assert "4 of 8 channels on axis 1 that do not tell all models apart" in report.warnings[0]


def test_what_is_quiet_is_said_from_one_in_ten_on() -> None:
    few = Telling("y", 99.0, ("a", "b"), axis=1, channels=100, quiet=10)
    many = Telling("y", 99.0, ("a", "b"), axis=1, channels=100, quiet=11)
    assert not list(blind_spots(ValuesProof("cpu", ("n=1",), telling=(few,))))
    assert list(blind_spots(ValuesProof("cpu", ("n=1",), telling=(many,))))


# --------------------------------------------------------------------------- other inputs are searched


def _without(op: str) -> object:
    def change(proto: onnx.ModelProto) -> None:
        for node in [n for n in proto.graph.node if n.op_type == op]:
            node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]]))

    return change


@pytest.mark.parametrize("bound", [8.0, 100.0, 2000.0])
def test_a_clip_is_reached(tmp_path: Path, bound: float) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { c = Clip(x, low, high) y = MatMul(c, w) }"
    weights: Weights = {"low": number(-bound), "high": number(bound), "w": (4, 4)}
    paths = files(tmp_path, text, weights)
    out = merged(tmp_path, paths)
    assert values(paths, out).unreached == ()
    assert not values(paths, tampered(out, _without("Clip"))).ok  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [-100, 100])
def test_a_dead_relu_comes_alive(tmp_path: Path, shift: int) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { h = MatMul(x, w) g = Add(h, c) y = Relu(g) }"
    paths = files(tmp_path, text, {"w": (4, 4), "c": number(shift)})
    out = merged(tmp_path, paths)
    found = values(paths, out)
    assert found.ok
    assert found.unreached == ()
    assert all(row.reason == "" for row in found.telling)
    assert not values(paths, tampered(out, _without("Relu"))).ok  # type: ignore[arg-type]


def test_what_is_not_reached_is_named(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { c = Clip(x, low) y = MatMul(c, w) }"
    paths = files(tmp_path, text, {"low": number(-1e20), "w": (4, 4)})
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    assert [side for side in report.values.unreached if side.startswith("Clip") and "below -1e+20" in side]


def test_given_inputs_are_not_added_to(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { c = Clip(x, low, high) y = MatMul(c, w) }"
    paths = files(tmp_path, text, {"low": number(-8), "high": number(8), "w": (4, 4)})
    np.savez(tmp_path / "in.npz", x=np.ones((1, 4), np.float32))
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths, inputs=str(tmp_path / "in.npz"))
    assert report.values.cases == ("given inputs",)
    assert len(report.values.unreached) == 2


# --------------------------------------------------------------------------- noise

ROUGH = """g (float[n, 8] x) => (float[n, 8] y) {
    a = Mul(x, huge)
    b = Sin(a)
    y = Mul(b, w)
}"""
"""Moving the input by one rounding step moves the output by as much as it is large."""


def test_noise_above_the_values_is_no_proof(tmp_path: Path) -> None:
    paths = files(tmp_path, ROUGH, {"huge": number(1e8), "w": (8,)}, count=2)
    out = merged(tmp_path, paths)

    def off(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.output[:] = [f"{o}/before" if o.endswith("/y") else o for o in node.output]
        proto.graph.initializer.append(numpy_helper.from_array(number(1.3), "factor"))
        for info in proto.graph.output:
            proto.graph.node.append(
                onnx.helper.make_node("Mul", [f"{info.name}/before", "factor"], [info.name])
            )

    found = values(paths, tampered(out, off))
    assert not found.ok
    assert found.unproven
    assert "can't be proved" in VerifyReport("m", ("m0", "m1"), BytesProof(), found).failure


def test_a_little_noise_excuses_a_little(tmp_path: Path) -> None:
    """The source's own noise is allowed a few times, in the channel that has it."""
    huge = np.geomspace(1, 1e3, 8).astype(np.float32)
    paths = files(tmp_path, ROUGH, {"huge": huge, "w": (8,)}, count=2)
    out = merged(tmp_path, paths)
    assert values(paths, out).ok

    def off(proto: onnx.ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if t.name.startswith("w"))
        factor = np.ones(8, np.float32)
        factor[0] = 1.001  # the channel without noise
        array = numpy_helper.to_array(tensor)
        wrong = (array.reshape(2, 8) * factor).reshape(array.shape)
        tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))

    assert not values(paths, tampered(out, off)).ok


def test_optimisations_that_change_a_source_are_no_excuse(tmp_path: Path) -> None:
    """ONNX Runtime's optimised run of these sources is another than the plain one. The merged model is the
    plain one's equal or nothing."""
    text = """g (int8[n, 2, 4] x) => (float[n, 8, 3] y) <int64[3] t = {0, 8, 1}> {
        f = DequantizeLinear(x, s) r = Reshape(f, t) y = MatMul(r, w)
    }"""
    paths = []
    for k in range(2):
        proto = model(text, opset=13)
        for name, value in {"s": number(0.1), "w": np.full((1, 3), 1 + 0.5 * k, np.float32)}.items():
            proto.graph.initializer.append(numpy_helper.from_array(value, name))
        paths.append(save(tmp_path / f"q{k}.onnx", proto))
    out = merged(tmp_path, paths, io="stacked")
    report = netfuse_onnx.verify(out, paths)
    assert report.ok
    if any(row.plain for row in report.values.outputs):
        assert any("optimisations change what a source gives" in w for w in report.warnings)

    def off(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.output[:] = ["before" if o == "y" else o for o in node.output]
        proto.graph.initializer.append(numpy_helper.from_array(number(1.5), "factor"))
        proto.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], ["y"]))

    assert not values(paths, tampered(out, off), "stacked").ok


def test_one_model_that_is_fed_twice_is_still_one(tmp_path: Path) -> None:
    paths = family(tmp_path, count=1)
    assert netfuse_onnx.verify(merged(tmp_path, paths), paths).values.telling == ()
