"""--partial: models that differ in the sizes of their tables, or in attributes. What is fed fits all of them, and
what has one shape in all models is batched again behind what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import samples
from families import model as build
from families import save
from onnx import numpy_helper, parser

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.run.domains import Accepts, Domains

Shapes = Mapping[str, tuple[int, ...]]
HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def files(
    folder: Path, text: str, held: list[Shapes], constants: list[Mapping[str, Any]] | None = None
) -> list[str]:
    """One file for each set of weights; `constants` are integers of each."""
    paths = []
    for k, (name, shapes) in enumerate(zip("abcd", held, strict=False)):
        proto, rng = parser.parse_model(HEAD + text), np.random.default_rng(k)
        for weight, shape in shapes.items():
            array = rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, weight))
        for constant, value in (constants[k] if constants else {}).items():
            proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), constant))
        paths.append(save(folder / f"{name}.onnx", proto))
    return paths


def merged(folder: Path, paths: list[str], **options: Any) -> netfuse_onnx.MergeReport:
    report = netfuse_onnx.merge(paths, str(folder / "m.onnx"), partial=True, **options)
    assert report.proof is not None and report.proof.ok
    assert netfuse_onnx.verify(str(folder / "m.onnx"), paths).ok
    return report


# --------------------------------------------------------------------------- indices

OUT = "=> (float[p, q] y)"
TABLES: Mapping[str, tuple[str, Shapes, Shapes, int]] = {
    # graph, weights of the model with the small table, of that with the large one, first index that is too large
    "Gather": (f"g (int64[b] x) {OUT} {{ y = Gather(t, x) }}", {"t": (30, 4)}, {"t": (900, 4)}, 30),
    "along another axis": (
        f"g (int64[b] x) {OUT} {{ y = Gather<axis = -1>(t, x) }}", {"t": (4, 30)}, {"t": (4, 900)}, 30,
    ),
    "a table that is computed": (
        f"g (int64[b] x) {OUT} {{ u = Mul(t, s) v = Tanh(u) y = Gather(v, x) }}",
        {"t": (30, 4), "s": (30, 1)}, {"t": (900, 4), "s": (900, 1)}, 30,
    ),
    "GatherElements": (
        f"g (int64[b, 4] x) {OUT} {{ y = GatherElements(t, x) }}", {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "GatherND": (
        f"g (int64[b, 1] x) {OUT} {{ y = GatherND(t, x) }}", {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "GatherND of two axes": (
        "g (int64[b, 2] x) => (float[p] y) { y = GatherND(t, x) }", {"t": (900, 20)}, {"t": (40, 30)}, 20,
    ),
    "ScatterElements": (
        f"g (int64[2, 4] x, float[2, 4] u) {OUT} {{ h = ScatterElements(t, x, u) y = MatMul(v, h) }}",
        {"t": (30, 4), "v": (4, 30)}, {"t": (900, 4), "v": (4, 900)}, 30,
    ),
    "ScatterND": (
        f"g (int64[2, 1] x, float[2, 4] u) {OUT} {{ h = ScatterND(t, x, u) y = MatMul(v, h) }}",
        {"t": (30, 4), "v": (4, 30)}, {"t": (900, 4), "v": (4, 900)}, 30,
    ),
    "through a cast and a shape": (
        f"g (int32[b, 1] x) {OUT} <int64[1] to = {{-1}}> {{ a = Reshape(x, to) c = Cast<to = 7>(a) y = Gather(t, c) }}",
        {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "shifted by a constant": (
        f"g (int64[b] x) {OUT} <int64 two = {{2}}> {{ c = Add(x, two) y = Gather(t, c) }}",
        {"t": (30, 4)}, {"t": (900, 4)}, 28,
    ),
    "shifted back": (
        f"g (int64[b] x) {OUT} <int64 two = {{2}}> {{ c = Sub(x, two) y = Gather(t, c) }}",
        {"t": (30, 4)}, {"t": (900, 4)}, 32,
    ),
    "counted from the end": (
        f"g (int64[b] x) {OUT} <int64 last = {{29}}> {{ c = Sub(last, x) y = Gather(t, c) }}",
        {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "scaled": (
        f"g (int64[b] x) {OUT} <int64 three = {{3}}> {{ c = Mul(x, three) y = Gather(t, c) }}",
        {"t": (30, 4)}, {"t": (900, 4)}, 10,
    ),
    "where nothing is missing": (
        f"""g (int64[b] x) {OUT} <int64 none = {{-1}}, int64 zero = {{0}}> {{
            m = Equal(x, none) c = Where(m, zero, x) y = Gather(t, c) }}""",
        {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "in a body": (
        """g (int64[b] x, bool c) => (float[b, 4] y) { y = If(c) <
            then_branch = p () => (float[b, 4] o) { o = Gather(t, x) },
            else_branch = q () => (float[b, 4] o) { o = Gather(t, x) }> }""",
        {"t": (30, 4)}, {"t": (900, 4)}, 30,
    ),
    "an embedding of ONNX Runtime": (
        """g (int32[b, s] x, int32[b, s] kind) => (float[b, s, 8] y, int32[b] m) {
            y, m = com.microsoft.EmbedLayerNormalization(x, kind, t, p, k, g0, b0) }""",
        {"t": (30, 8), "p": (16, 8), "k": (2, 8), "g0": (8,), "b0": (8,)},
        {"t": (900, 8), "p": (16, 8), "k": (2, 8), "g0": (8,), "b0": (8,)}, 30,
    ),
    "positions of a rotation": (
        """g (float[1, 2, 3, 8] h, int64[1, 3] x) => (float[1, 2, 3, 8] y) {
            y = com.microsoft.RotaryEmbedding(h, x, t, u) }""",
        {"t": (30, 4), "u": (30, 4)}, {"t": (900, 4), "u": (900, 4)}, 30,
    ),
}  # fmt: skip


@pytest.mark.parametrize("first", ["the small one first", "the large one first"])
@pytest.mark.parametrize("what", TABLES)
def test_indices_fit_the_smallest_table(tmp_path: Path, what: str, first: str) -> None:
    text, small, large, end = TABLES[what]
    held = [small, large] if first.startswith("the small") else [large, small]
    paths = files(tmp_path, text, [held[0], held[1], held[0]])
    family = match([load(path) for path in paths], "abc", partial=True)
    assert Domains(family).of("x").high == end
    merged(tmp_path, paths)


def test_the_depth_of_a_one_hot_is_the_smallest(tmp_path: Path) -> None:
    text = "g (int64[b] x) => (float[b, d] y) <float[2] v = {0., 1.}> { y = OneHot(x, depth, v) }"
    paths = files(tmp_path, text, [{}, {}], [{"depth": 5}, {"depth": 60}])
    assert Domains(match([load(path) for path in paths], "ab", partial=True)).of("x") == Accepts(high=5)
    merged(tmp_path, paths)


def test_offsets_that_differ_between_the_models(tmp_path: Path) -> None:
    text = f"g (int64[b] x) {OUT} {{ c = Add(x, shift) y = Gather(t, c) }}"
    paths = files(tmp_path, text, [{"t": (30, 4)}, {"t": (30, 4)}], [{"shift": 2}, {"shift": 20}])
    assert Domains(match([load(path) for path in paths], "ab")).of("x") == Accepts(high=10)
    netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))


def test_axes_that_differ_between_the_models(tmp_path: Path) -> None:
    text = "g (int64[b, 4] x) => (float[b, 4] y) {{ y = GatherElements<axis = {0}>(t, x) }}"
    shapes = [(60, 40), (60, 40)]
    paths = [
        save(
            tmp_path / f"{'ab'[axis]}.onnx",
            build(text.format(axis), {"t": shapes[axis]}, seed=axis, opset=17),
        )
        for axis in (0, 1)
    ]
    family = match([load(path) for path in paths], "ab", partial=True)
    assert Domains(family).of("x") == Accepts(high=40)


def test_a_constant_behind_a_shift(tmp_path: Path) -> None:
    text = "g (int64[b] x) => (bool[b] y) <int64 two = {2}, int64 five = {5}> { c = Add(x, two) y = Equal(c, five) }"
    paths = files(tmp_path, text, [{}, {}])
    assert Domains(match([load(path) for path in paths], "ab")).of("x") == Accepts(values=(3, 4))


# --------------------------------------------------------------------------- shapes behind what differs

DIFFERING: Mapping[str, tuple[str, str, str, Shapes]] = {
    "LeakyRelu": ("LeakyRelu<alpha = {}>(h)", "0.1", "0.2", {}),
    "Elu": ("Elu<alpha = {}>(h)", "0.5", "1.5", {}),
    "Selu": ("Selu<gamma = {}>(h)", "1.0", "2.0", {}),
    "HardSigmoid": ("HardSigmoid<beta = {}>(h)", "0.4", "0.6", {}),
    "ThresholdedRelu": ("ThresholdedRelu<alpha = {}>(h)", "0.4", "0.6", {}),
    "Shrink": ("Shrink<lambd = {}>(h)", "0.4", "0.6", {}),
    "Celu": ("Celu<alpha = {}>(h)", "0.4", "0.6", {}),
    "Softmax": ("Softmax<axis = {}>(h)", "1", "2", {}),
    "LRN": ("LRN<size = {}>(h)", "3", "5", {}),
    "InstanceNormalization": ("InstanceNormalization<epsilon = {}>(h, s, s)", "0.001", "0.5", {"s": (4,)}),
    "BatchNormalization": ("BatchNormalization<epsilon = {}>(h, s, s, s, v)", "0.001", "0.5", {"s": (4,), "v": (4,)}),
    "LpNormalization": ("LpNormalization<p = {}>(h)", "1", "2", {}),
    "Pad, by its mode": ("Pad<mode = \"{}\">(h, pads)", "edge", "reflect", {}),
    "AveragePool, by what it counts": (
        "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = {}>(h)", "0", "1", {},
    ),
    "MaxPool, by a kernel with its pads": (
        "MaxPool<{}>(h)", "kernel_shape = [3, 3], pads = [1, 1, 1, 1]", "kernel_shape = [5, 5], pads = [2, 2, 2, 2]", {},
    ),
    "MaxPool, by where the pads are": (
        "MaxPool<kernel_shape = [2, 2], pads = {}>(h)", "[0, 0, 1, 1]", "[1, 1, 0, 0]", {},
    ),
    "Conv, by its dilation": (
        "Conv<{}>(h, k)", "pads = [1, 1, 1, 1]", "pads = [2, 2, 2, 2], dilations = [2, 2]", {"k": (4, 4, 3, 3)},
    ),
    "Resize, by its mode": (
        "Resize<mode = \"{}\">(h, , scales)", "nearest", "linear", {},
    ),
    "CumSum": ("CumSum<exclusive = {}>(h, zero)", "0", "1", {}),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERING)
def test_what_comes_behind_is_batched(tmp_path: Path, what: str) -> None:
    """The heights and widths in front are unknown to onnx's inference: a convolution has left them open."""
    node, one, two, weights = DIFFERING[what]
    text = """g (float[n, 4, h0, w0] x) => (float[n, 4, p, q] y) <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}},
        float[4] scales = {{1., 1., 2., 2.}}, int64 zero = {{0}}> {{
        h = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) d = {node} e = Conv(d, w2) y = Tanh(e) }}"""
    paths = []
    for k, attribute in enumerate((one, two, one)):
        proto = parser.parse_model(HEAD + text.format(node=node.format(attribute)))
        rng = np.random.default_rng(k)
        for name, shape in {"w": (4, 4, 3, 3), "w2": (4, 4, 1, 1), **weights}.items():
            array = rng.standard_normal(shape).astype(np.float32) / 3
            proto.graph.initializer.append(
                numpy_helper.from_array(abs(array) if name == "v" else array, name)
            )
        paths.append(save(tmp_path / f"{'abc'[k]}.onnx", proto))
    if what != "BatchNormalization":  # what differs there becomes a weight
        with pytest.raises(NotEquivalent):
            match([load(path) for path in paths], "abc")
    report = merged(tmp_path, paths)
    became = {row.op: row.became for row in report.lowered.nodes}
    assert became["Tanh"] == "batched"
    assert [row.became for row in report.lowered.nodes if row.op == "Conv"].count("grouped") == 2
    x = np.random.default_rng(9).standard_normal((3, 2, 4, 9, 12)).astype(np.float32)
    samples.agree(str(tmp_path / "m.onnx"), paths, [{"x": x}])


APART: Mapping[str, tuple[str, str, str]] = {
    "pads": ("MaxPool<kernel_shape = [2, 2], pads = {}>(h)", "[0, 0, 0, 0]", "[1, 1, 1, 1]"),
    "strides": ("MaxPool<kernel_shape = [2, 2], strides = {}>(h)", "[1, 1]", "[2, 2]"),
    "rounding up": ("MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = {}>(h)", "0", "1"),
    "where a window that is rounded up begins": (
        "MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, pads = {}>(h)", "[0, 0, 1, 1]", "[1, 1, 0, 0]",
    ),
    "an axis that is reduced": ("ReduceMean<axes = [{}]>(h)", "2", "3"),
    "the order of axes": ("Transpose<perm = {}>(h)", "[0, 1, 2, 3]", "[0, 1, 3, 2]"),
}  # fmt: skip


@pytest.mark.parametrize("what", APART)
def test_what_may_have_other_shapes_stays_apart(tmp_path: Path, what: str) -> None:
    node, one, two = APART[what]
    text = """g (float[n, 4, h0, w0] x) => (float[n, 4, p, q] y) {{
        h = Conv<strides = [2, 2]>(x, w) d = {} y = Tanh(d) }}"""
    paths = []
    for k, attribute in enumerate((one, two)):
        proto = build(text.format(node.format(attribute)), {"w": (4, 4, 3, 3)}, seed=k, opset=17)
        paths.append(save(tmp_path / f"{'ab'[k]}.onnx", proto))
    family = match([load(path) for path in paths], "ab", partial=True)
    assert {"d", "y"} <= family.ragged
    report = merged(tmp_path, paths)
    assert {row.op: row.became for row in report.lowered.nodes}["Tanh"] == "replicated"
    x = np.random.default_rng(9).standard_normal((2, 2, 4, 20, 23)).astype(np.float32)
    out, *alone = (
        ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (str(tmp_path / "m.onnx"), *paths)
    )
    results = out.run(["a/y", "b/y"], {"a/x": x[0], "b/x": x[1]})
    for m, session in enumerate(alone):
        np.testing.assert_allclose(results[m], session.run(None, {"x": x[m]})[0], rtol=1e-4, atol=1e-5)


def test_one_shape_of_tables_of_other_sizes(tmp_path: Path) -> None:
    """The rows that are looked up have one shape, whatever the tables have."""
    text = """g (int64[a0, b0] x) => (float[p, 4] y) <int64[1] to = {-1}> {
        i = Reshape(x, to) e = Gather(t, i) y = MatMul(e, w) }"""
    report = merged(tmp_path, files(tmp_path, text, [{"t": (n, 4), "w": (4, 4)} for n in (30, 900, 31)]))
    assert [row.became for row in report.lowered.nodes] == ["batched", "replicated", "batched"]


def test_sizes_that_a_later_operator_forgets(tmp_path: Path) -> None:
    """Hidden layers of different widths: in between the shapes differ, behind they do not."""
    text = """g (float[n0, m0, 4] x) => (float[p, 4] y) <int64[2] to = {-1, 4}> {
        i = Reshape(x, to) h = MatMul(i, w) r = Relu(h) s = MatMul(r, v) y = Tanh(s) }"""
    shapes = [{"w": (4, n), "v": (n, 4)} for n in (5, 7, 5)]
    report = merged(tmp_path, files(tmp_path, text, shapes))
    assert [row.became for row in report.lowered.nodes] == [
        "batched",
        "replicated",
        "replicated",
        "replicated",
        "batched",
    ]


def test_sizes_that_are_computed_from_what_differs(tmp_path: Path) -> None:
    """Where a target is computed, nothing is known of the shapes, also where two models have the same."""
    text = """g (float[n0, m0] x) => (float[p] y) <int64[1] two = {2}, int64[1] rest = {-1}, int64 zero = {0}> {
        a = Mul(two, k) to = Concat<axis = 0>(rest, a) h = Reshape(x, to) s = Softmax<axis = 1>(h)
        y = ReduceMax<axes = [0], keepdims = 0>(s) }"""
    constants = [{"k": [1]}, {"k": [1]}, {"k": [3]}]
    paths = files(tmp_path, text, [{}, {}, {}], constants)
    report = merged(tmp_path, paths, dims={"n0": 6, "m0": 12})
    became = {row.op: row.became for row in report.lowered.nodes}
    assert {became[op] for op in ("Reshape", "Softmax", "ReduceMax")} == {"replicated"}


def test_a_type_that_differs_is_refused(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) {{ h = Cast<to = {}>(x) k = Exp(h) y = Cast<to = 1>(k) }}"
    paths = [
        save(tmp_path / f"{n}.onnx", build(text.format(to), opset=17)) for n, to in (("a", 1), ("b", 10))
    ]
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True)
    assert "tensor(float) and tensor(float16)" in caught.value.message
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert "--partial" not in caught.value.hint


# --------------------------------------------------------------------------- the hint


def test_the_hint_counts_all_files(tmp_path: Path) -> None:
    text = """g (float[n, 8] x) => (float[n, k] y) {{ a = LeakyRelu<alpha = {0}>(x) b = Elu<alpha = {1}>(a)
        y = Gemm(b, w, c) }}"""
    rows = ((0.1, 1.0, 3), (0.2, 1.0, 3), (0.1, 1.0, 3), (0.2, 2.0, 5))
    paths = [
        save(
            tmp_path / f"{n}.onnx", build(text.format(*row[:2]), {"w": (8, row[2]), "c": (row[2],)}, opset=17)
        )
        for n, row in zip("abcd", rows, strict=True)
    ]
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    a, b, _, d = paths
    assert caught.value.hint.startswith(
        f"--partial merges them all the same: 3 operators differ. From {a}: {b} in 1 attribute, "
        f"{d} in 2 attributes and 2 weights."
    )
    assert "There are 3 families: a, c (3 operators); b (3 operators); d (3 operators)" in caught.value.hint
    merged(tmp_path, paths)


def test_the_hint_is_silent_where_one_file_differs_in_more(tmp_path: Path) -> None:
    text = "g (float[n, 8] x) => (float[n, 8] y) {{ a = LeakyRelu<alpha = {0}>(x) y = {1}(a) }}"
    paths = [
        save(tmp_path / f"{n}.onnx", build(text.format(*row), opset=17))
        for n, row in zip("abc", ((0.1, "Neg"), (0.2, "Neg"), (0.1, "Exp")), strict=True)
    ]
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert "--partial" not in caught.value.hint
    with pytest.raises(NotEquivalent):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True)
