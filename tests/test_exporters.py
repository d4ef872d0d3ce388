"""One network with different weights, written in two ways: the files merge with all proofs, and the report says
what was brought together."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

import netfuse_onnx
from netfuse_onnx import api
from netfuse_onnx.errors import NotEquivalent, UsageFault
from netfuse_onnx.load import folded, simplified
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.spelled import one_size
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove.loaded import movable

torch = pytest.importorskip("torch")

from sample_models.exported import NETWORKS  # noqa: E402  needs torch
from sample_models.written import Way, write  # noqa: E402

DYNAMO, SCRIPT = Way("dynamo", 18), Way("torchscript", 17)
KEPT, FUSED = Way("torchscript", 17, "kept"), Way("torchscript", 17, "fused")
CASES: list[Any] = [
    ("vit", DYNAMO, Way("torchscript", 13)), ("mobilenet_v3", DYNAMO, Way("torchscript", 11)),
    ("resnet50", KEPT, FUSED),
]  # fmt: skip
SLOW = [("bert", DYNAMO, SCRIPT), ("llama", DYNAMO, SCRIPT), ("resnet50", DYNAMO, KEPT)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


def written(name: str, way: Way, path: Path, seed: int) -> Path:
    network = NETWORKS[name]
    with contextlib.redirect_stdout(io.StringIO()):
        return write(network.build(True), network.family, network.inputs(True), way, path, seed)


@pytest.mark.parametrize(("name", "one", "other"), CASES, ids=str)
def test_files_of_two_exporters_merge(name: str, one: Way, other: Way, tmp_path: Path) -> None:
    paths = [str(written(name, way, tmp_path / f"{k}.onnx", k)) for k, way in enumerate((one, other))]
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), names=["a", "b"])
    assert report.ok
    assert report.proof is not None and report.proof.graph.made
    assert report.spelling is not None
    assert [row.opset for row in report.spelling.models] == [one.opset, other.opset]
    again = netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths)
    assert again.ok
    assert netfuse_onnx.inspect(str(tmp_path / "m.onnx")).spelling == report.spelling


# --------------------------------------------------------------------------- sizes

HEAD = '<ir_version: 10, opset_import: ["" : 17]> g (float[b, s, 8] x, float[b, s, 8] other) => (float y)'
W = "float[8, 8] w"
BY_SHAPES = """
    n = Shape(x)  zero = Constant<value_int=0>()  one = Constant<value_int=1>()
    b = Gather(n, zero)  s = Gather(n, one)
    at = Constant<value_ints=[0]>()  b1 = Unsqueeze(b, at)  s1 = Unsqueeze(s, at)
    rest = Constant<value_ints=[2, 4]>()  target = Concat<axis=0>(b1, s1, rest)
    h = MatMul(x, w)  r = Reshape(h, target)  y = Add(r, r)
"""
BY_NUMBERS = """
    h = MatMul(x, w)  target = Constant<value_ints=[0, 0, 2, 4]>()  r = Reshape(h, target)  y = Add(r, r)
"""
SAME = {
    "shapes": BY_SHAPES,
    "numbers": BY_NUMBERS,
    "another input": BY_SHAPES.replace("Shape(x)", "Shape(other)"),
    "expanded": BY_SHAPES.replace("y = Add(r, r)", "m = Shape(r)  e = Expand(r, m)  y = Add(e, e)"),
    "in two steps": BY_NUMBERS.replace(
        "r = Reshape(h, target)",
        "two = Constant<value_ints=[-1, 8]>()  f = Reshape(h, two)  n = Shape(x)  k = Constant<value_ints=[0, 1]>()"
        " front = Gather(n, k)  back = Constant<value_ints=[2, 4]>()  all = Concat<axis=0>(front, back)"
        "  r = Reshape(f, all)",
    ),
}
OTHER = {
    "axes exchanged": BY_SHAPES.replace("Concat<axis=0>(b1, s1, rest)", "Concat<axis=0>(s1, b1, rest)"),
    "other parts": BY_NUMBERS.replace("2, 4", "4, 2"),
    "flat": BY_NUMBERS.replace("[0, 0, 2, 4]", "[-1, 2, 4]"),
}


def text_model(body: str, path: Path, seed: int, head: str = HEAD) -> str:
    model = parser.parse_model(f"{head} {{ {body} }}")
    weight = np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("one", SAME)
def test_sizes_that_are_equal_match(one: str, tmp_path: Path) -> None:
    paths = [text_model(SAME[key], tmp_path / f"{k}.onnx", k) for k, key in enumerate(("numbers", one))]
    report = netfuse_onnx.merge(
        paths, str(tmp_path / "m.onnx"), names=["a", "b"], dims={"b": [1, 3], "s": [4, 5]}
    )
    assert report.ok


@pytest.mark.parametrize("one", OTHER)
def test_sizes_that_differ_are_refused(one: str, tmp_path: Path) -> None:
    paths = [
        text_model(SAME["shapes"], tmp_path / "a.onnx", 0),
        text_model(OTHER[one], tmp_path / "b.onnx", 1),
    ]
    with pytest.raises(NotEquivalent, match=r"a\.onnx"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))


def test_symbols_of_their_own_are_not_one_size(tmp_path: Path) -> None:
    """A size of another input is the same only where both declare one symbol."""
    apart = HEAD.replace("float[b, s, 8] other", "float[c, t, 8] other")
    ours = text_model(SAME["shapes"], tmp_path / "a.onnx", 0, apart)
    theirs = text_model(SAME["another input"], tmp_path / "b.onnx", 1, apart)
    with pytest.raises(NotEquivalent):
        netfuse_onnx.merge([ours, theirs], str(tmp_path / "m.onnx"))


@pytest.mark.parametrize("key", SAME)
def test_a_second_pass_changes_nothing(key: str, tmp_path: Path) -> None:
    source = load(text_model(SAME[key], tmp_path / "a.onnx", 0))
    graph, _, _ = one_size.respelled(source)
    again, count, _ = one_size.respelled(source.with_graph(nodes=graph.nodes, weights=graph.weights))
    assert count == 0
    assert again.nodes == graph.nodes


def test_positions_that_are_counted_are_no_positions(tmp_path: Path) -> None:
    """A Gather of all rows in order is the value itself, one that begins with the last row is not."""
    body = """n = Shape<start=0, end=1>(x)  at = Constant<value_ints=[0]>()  b = Squeeze(n, at)
        start = Constant<value_int=FROM>()  step = Constant<value_int=1>()
        e = Add(b, start)  rows = Range(start, e, step)  g = Gather<axis=0>(x, rows)  h = MatMul(g, w)  y = Add(h, h)"""
    whole = text_model(body.replace("FROM", "0"), tmp_path / "a.onnx", 0)
    plain = text_model("h = MatMul(x, w)  y = Add(h, h)", tmp_path / "b.onnx", 1)
    later = text_model(body.replace("FROM", "-1"), tmp_path / "c.onnx", 2)
    assert netfuse_onnx.merge([whole, plain], str(tmp_path / "m.onnx")).ok
    assert not netfuse_onnx.check([plain, later]).ok


# --------------------------------------------------------------------------- --simplify


def test_simplified_models_merge(tmp_path: Path) -> None:
    """onnxslim transposes the weight; the values are those of the files as given."""
    pytest.importorskip("onnxslim")
    body = "v = Transpose<perm=[1, 0]>(w)  h = MatMul(x, v)  i = Identity(h)  y = Add(i, h)"
    paths = [text_model(body, tmp_path / f"{name}.onnx", k) for k, name in enumerate("ab")]
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), simplify=True)
    assert report.ok and report.proof is not None and report.proof.bytes.elsewhere
    assert report.spelling is not None and report.spelling.onnxslim == simplified.version()
    assert all(row.simplified[0] > row.simplified[1] for row in report.spelling.models)
    assert netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths).ok
    feeds = {f"{n}/{key}": np.ones((2, 3, 8), np.float32) for n in "ab" for key in ("x", "other")}
    found = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, feeds)
    for path, got in zip(paths, found, strict=True):
        alone = {key: np.ones((2, 3, 8), np.float32) for key in ("x", "other")}
        np.testing.assert_allclose(got, ort.InferenceSession(path).run(None, alone)[0], rtol=1e-5)


def test_simplify_without_onnxslim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplified, "LIBRARY", "no_such_library")
    path = text_model(BY_NUMBERS, tmp_path / "a.onnx", 0)
    with pytest.raises(UsageFault, match="onnxslim") as caught:
        api.check([path, path], simplify=True)
    assert "netfuse-onnx[simplify]" in caught.value.hint


@pytest.mark.parametrize("given", [{"views": True}, {"low_rank": 0.0, "base": "x.onnx"}])
def test_simplify_goes_without_some_options(given: dict[str, object], tmp_path: Path) -> None:
    path = text_model(BY_NUMBERS, tmp_path / "a.onnx", 0)
    with pytest.raises(UsageFault, match="--simplify"):
        api.merge([path, path], str(tmp_path / "m"), simplify=True, **given)  # type: ignore[arg-type]


# --------------------------------------------------------------------------- rounding

NORMED = """<ir_version: 10, opset_import: ["" : 17]> g (float[b, 2, 4, 4] x) => (float y)
    <float[3, 2, 1, 1] w, float[3] scale, float[3] bias, float[3] mean, float[3] variance, float[3, 3, 1, 1] v>
    { h = Conv(x, w)  n = BatchNormalization(h, scale, bias, mean, variance)  r = Relu(n)  y = Conv(r, v) }"""
FOLDED = """<ir_version: 10, opset_import: ["" : 17]> g (float[b, 2, 4, 4] x) => (float y)
    <float[3, 2, 1, 1] w, float[3] bias, float[3, 3, 1, 1] v>
    { h = Conv(x, w, bias)  r = Relu(h)  y = Conv(r, v) }"""


def filled(text: str, path: Path, seed: int) -> str:
    proto, rng = parser.parse_model(text), np.random.default_rng(seed)
    for info in proto.graph.value_info:
        dims = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        values = rng.uniform(0.5, 2.0, dims).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, info.name))
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return str(path)


def test_noise_covers_the_weights_into_which_a_norm_is_folded(tmp_path: Path) -> None:
    """The product with the scale is rounded, so the weight is moved by its steps, and no other weight."""
    paths = [filled(text, tmp_path / f"{k}.onnx", k) for k, text in enumerate((NORMED, FOLDED))]
    family = match([load(path) for path in paths], ["a", "b"])
    source = movable(family, 0)
    assert source is not None and source.adapted is not None
    assert [change.weight for change in source.adapted.changes] == ["w"]
    assert movable(family, 1) is None
    given = {each.name: numpy_helper.to_array(each) for each in onnx.load(paths[0]).graph.initializer}
    with folded.opened(source, moved=1) as path:
        model = onnx.load(path)
        moved = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    apart = {name for name, values in given.items() if not np.array_equal(values, moved[name])}
    assert apart == {"w"}
    steps = np.abs(moved["w"] - given["w"]) / given["w"]
    assert 0 < steps.max() <= 2 * np.finfo(np.float32).eps


def test_noise_is_that_of_the_file_where_no_norm_is_folded(tmp_path: Path) -> None:
    paths = [filled(NORMED, tmp_path / f"{k}.onnx", k) for k in range(2)]
    assert movable(match([load(path) for path in paths], ["a", "b"]), 0) is None
