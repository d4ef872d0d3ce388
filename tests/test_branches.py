"""Branches: a node beside two small products gives what it gives with the whole weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnxruntime as ort
import pytest

from netfuse_onnx.load import branches, rebuild
from netfuse_onnx.load.branches import Branch, Form, Side
from netfuse_onnx.load.loader import load
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Source, Weight

RANK = 2
HEAD = "g (float[n, {x}] x) => (float[n, {y}] y)"
FORMS = {
    "right": (HEAD.format(x=5, y=3) + " { y = MatMul(x, w) }", (5, 3), Side.RIGHT),
    "rank 3": ("g (float[2, n, 5] x) => (float[2, n, 3] y) { y = MatMul(x, w) }", (5, 3), Side.RIGHT),
    "a vector": ("g (float[5] x) => (float[3] y) { y = MatMul(x, w) }", (5, 3), Side.RIGHT),
    "left": ("g (float[5, n] x) => (float[3, n] y) { y = MatMul(w, x) }", (3, 5), Side.LEFT),
    "a vector to the right": ("g (float[5] x) => (float[3] y) { y = MatMul(w, x) }", (3, 5), Side.LEFT),
    "Gemm": (HEAD.format(x=5, y=3) + " { y = Gemm(x, w, c) }", (5, 3), Side.RIGHT),
    "Gemm without a bias": (HEAD.format(x=5, y=3) + " { y = Gemm(x, w) }", (5, 3), Side.RIGHT),
    "transB": (
        HEAD.format(x=5, y=3) + " { y = Gemm<transB=1, beta=0.5>(x, w, c) }",
        (3, 5),
        Side.RIGHT_TRANSPOSED,
    ),
    "transA": ("g (float[5, n] x) => (float[n, 3] y) { y = Gemm<transA=1>(x, w, c) }", (5, 3), Side.RIGHT),
    "alpha": (
        HEAD.format(x=5, y=3) + " { y = Gemm<transB=1, alpha=0.25>(x, w, c) }",
        (3, 5),
        Side.RIGHT_TRANSPOSED,
    ),
    "1x1": (
        "g (float[n, 5, 4, 4] x) => (float[n, 3, 4, 4] y) { y = Conv(x, w, c) }",
        (3, 5, 1, 1),
        Side.FILTERS,
    ),
    "3x3": (
        "g (float[n, 5, 7, 7] x) => (float[n, 3, 4, 4] y) "
        "{ y = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]>(x, w, c) }",
        (3, 5, 3, 3),
        Side.FILTERS,
    ),
    "1-D": (
        "g (float[n, 5, 9] x) => (float[n, 3, 5] y) { y = Conv<dilations=[2]>(x, w) }",
        (3, 5, 3),
        Side.FILTERS,
    ),
    "SAME": (
        'g (float[n, 5, 7, 7] x) => (float[n, 3, 7, 7] y) { y = Conv<auto_pad="SAME_UPPER">(x, w, c) }',
        (3, 5, 3, 3),
        Side.FILTERS,
    ),
}


def _source(folder: Path, text: str, shape: tuple[int, ...]) -> Source:
    return load(families.save(folder / "a.onnx", families.model(text, {"w": shape, "c": (3,)})))


def _weight(values: Any) -> Weight:
    values = np.ascontiguousarray(values, np.float32)
    return Weight(1, values.shape, values.tobytes())


def _with(source: Source, found: list[Branch], **new: Any) -> Source:
    graph = branches.with_branches(source.graph, found)
    added = {name: _weight(values) for name, values in new.items()}
    return replace(source, graph=replace(graph, weights={**graph.weights, **added}))


def _run(source: Source, x: Any) -> Any:
    model = rebuild.model(source)
    for tensor in model.graph.initializer:
        weights.fetch(tensor)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def _input(source: Source) -> Any:
    dims = [dim if isinstance(dim, int) else 3 for dim in source.graph.types["x"].dims or ()]
    return np.random.default_rng(7).standard_normal(dims).astype(np.float32)


def _factors(form: Form, seed: int = 1) -> tuple[Any, Any, Any, Any]:
    """L, R, A and B of a random difference."""
    rng = np.random.default_rng(seed)
    rows, rest = form.matrix
    left, right = rng.standard_normal((rows, RANK)), rng.standard_normal((RANK, rest))
    return left, right, *form.factors(left, right)


@pytest.mark.parametrize("case", FORMS)
def test_a_branch_gives_what_the_whole_weight_gives(case: str, tmp_path: Path) -> None:
    text, shape, side = FORMS[case]
    source = _source(tmp_path, text, shape)
    form = branches.form(source.graph.nodes[0], "w", shape, source.opsets[""])
    assert form == Form(side, shape)
    left, right, a, b = _factors(form)
    assert (a.shape, b.shape) == form.shapes(RANK)
    assert all(np.array_equal(*pair) for pair in zip(form.matrices(a, b), (left, right), strict=True))
    branched = _with(source, [Branch(0, "w", "a", "b")], a=a, b=b)
    whole = weights.array(source.graph.weights["w"]) + (left @ right).reshape(shape)
    graph = replace(source.graph, weights={**source.graph.weights, "w": _weight(whole)})
    x = _input(source)
    wanted = _run(replace(source, graph=graph), x)
    assert np.allclose(_run(branched, x), wanted, atol=1e-4)
    assert not np.allclose(_run(source, x), wanted, atol=1e-2)


@pytest.mark.parametrize("case", FORMS)
def test_scaled_branches_add_up(case: str, tmp_path: Path) -> None:
    text, shape, side = FORMS[case]
    source = _source(tmp_path, text, shape)
    form = Form(side, shape)
    rows = [_factors(form, seed) for seed in (1, 2)]
    found = [Branch(0, "w", "a1", "b1", "s"), Branch(0, "w", "a2", "b2")]
    new = {f"{name}{k + 1}": row[2 + i] for k, row in enumerate(rows) for i, name in enumerate("ab")}
    branched = _with(source, found, s=np.float32(0.5), **new)
    difference = 0.5 * rows[0][0] @ rows[0][1] + rows[1][0] @ rows[1][1]
    whole = weights.array(source.graph.weights["w"]) + difference.reshape(shape)
    graph = replace(source.graph, weights={**source.graph.weights, "w": _weight(whole)})
    x = _input(source)
    assert np.allclose(_run(branched, x), _run(replace(source, graph=graph), x), atol=1e-4)


def test_new_names_are_nowhere_else_in_the_graph(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { i = MatMul(x, w) h = Relu(i) y = MatMul(h, w) }"
    source = _source(tmp_path, text, (4, 4))
    taken = {"i": "y/base", "h": "y/down"}
    nodes = tuple(
        replace(
            node,
            inputs=tuple(taken.get(name, name) for name in node.inputs),
            outputs=tuple(taken.get(name, name) for name in node.outputs),
        )
        for node in source.graph.nodes
    )
    source = replace(source, graph=replace(source.graph, nodes=nodes))
    found = [Branch(0, "w", "a", "b"), Branch(2, "w", "a", "b")]
    branched = _with(source, found, a=np.ones((4, 1)), b=np.ones((1, 4)))
    made = [name for node in branched.graph.nodes for name in node.outputs]
    names = [node.name for node in branched.graph.nodes if node.name]
    assert len(made) == len(set(made)) == 9
    assert len(names) == len(set(names)) == 6
    assert _run(branched, np.ones((1, 4), np.float32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("text", "shape", "word"),
    [
        ("g (int64[2] x) => (float[2, 4] y) { y = Gather(w, x) }", (3, 4), "another operator"),
        ("g (float[2, 4, 3] x) => (float[2, 4, 4] y) { y = MatMul(x, w) }", (2, 3, 4), "no matrix"),
        ("g (float[2] x) => (float[2] y) { h = MatMul(w, w) y = MatMul(h, x) }", (2, 2), "another operator"),
        ("g (float[1, 4, 3] x) => (float[1, 4, 3] y) { y = Conv<group=2>(x, w) }", (4, 2, 1), "groups"),
        ("g (float[2, 4] x) => (float[3, 4] y) { y = Gemm(w, x) }", (3, 2), "another operator"),
    ],
)
def test_what_can_not_have_a_branch_says_why(
    text: str, shape: tuple[int, ...], word: str, tmp_path: Path
) -> None:
    source = _source(tmp_path, text, shape)
    reason = branches.form(source.graph.nodes[0], "w", shape, source.opsets[""])
    assert isinstance(reason, str)
    assert word in reason
