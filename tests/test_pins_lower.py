"""Small mistakes in lower and emit, each of which one of these tests sees (tests/mutants)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save
from onnx import numpy_helper
from oracle import IO, check, draw, fails_or_is_right, graph

import netfuse_onnx
from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.types import Weight

GELU = """g (float[2, 8] x) => (float[2, 8] y, float[2, 8] z) {{
    a = Mul(x, w) d = Div(a, r) e = Erf(d) f = Add(e, one) h = Mul(half, f) {0} }}"""


@pytest.mark.parametrize(
    ("numbers", "behind", "turned"),
    [
        ({}, "g = Mul(a, h) y = Neg(g) z = Neg(x)", True),
        ({"half": 0.25}, "g = Mul(a, h) y = Neg(g) z = Neg(x)", False),
        ({"one": 2.0}, "g = Mul(a, h) y = Neg(g) z = Neg(x)", False),
        ({}, "g = Mul(a, h) y = Neg(g) z = Neg(h)", False),
        ({}, "g = Mul(a, h) y = Neg(g) z = Add(f, x)", False),
        ({}, "g = Mul(x, h) y = Neg(g) z = Neg(x)", False),
    ],
)
def test_only_a_whole_gelu_is_turned_around(
    tmp_path: Path, numbers: dict[str, float], behind: str, turned: bool
) -> None:
    """x * (0.5 * (1 + erf)) with these numbers, and nobody else who reads what lies between."""
    paths = family(tmp_path, GELU.format(behind), {"w": (8,)})
    for path in paths:
        proto = onnx.load(path)
        for name, number in {"r": 2**0.5, "one": 1.0, "half": 0.5, **numbers}.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
        save(Path(path), proto)
    nodes = {node.output[0]: list(node.input) for node in onnx.load(merged(tmp_path, paths)).graph.node}
    read_last = {"a", "x"}.isdisjoint(name.partition("/")[0] for name in nodes["g"])
    assert read_last == turned
    alone = onnx.load(paths[0])
    check(alone, draw(alone, 3), {"x": "input"}, tmp_path, tolerance=1e-5)


@pytest.mark.parametrize("kind", ["float16", "float"])
def test_what_is_written_out_has_the_type_of_its_scale(tmp_path: Path, kind: str) -> None:
    proto = graph(f"int32[4] x, {kind} scale, int32 zero", "y = DequantizeLinear(x, scale, zero)", 19)
    values = draw(proto, 3, low=-9, high=9, given={"zero": np.array(3)})
    for turn, role in enumerate(("shared weight", "weight")):
        check(proto, values, {"x": "input", "scale": role, "zero": "shared weight"}, tmp_path, io=IO[turn])


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    """An input that is fed once, called like what another one of a model is called."""
    proto = model("g (float[n, 3] x, float[n, 3] y) => (float[n, 3] z) { z = Sub(x, y) }")
    for named in (proto.graph.input[1], proto.graph.node[0]):
        if isinstance(named, onnx.NodeProto):
            named.input[1] = "b/x"
        else:
            named.name = "b/x"
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    with pytest.raises(UsageFault, match="would be called 'b/x'"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), share=["b/x"])
    netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), share=["b/x"], names=["p", "q"])


def test_a_weight_transposed_twice_is_as_it_was() -> None:
    parts = tuple(Weight(1, (2, 3), bytes([m] * 24)) for m in range(2))
    emit = Emitter("g", 2, 17, {"w": parts}, ())
    held = emit.weight("w", STACKED(0))
    once = emit.swap_last(held, 3)
    twice = emit.swap_last(once, 3)
    found = [emit.recipes[tensor.name] for tensor in (held, once, twice)]
    assert [(recipe.shape, recipe.transform.text) for recipe in found] == [
        ((2, 2, 3), ""),
        ((2, 3, 2), "T"),
        ((2, 2, 3), ""),
    ]


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (2, 1), (1, 2)])
def test_what_is_made_for_each_model_is_compared_where_it_joins(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """A recurrent operator runs once per model; what it gives has the batch of its own input. ONNX Runtime's Concat
    passes over what is empty."""
    proto = graph(
        "float[2, B, 3] x, float[1, 4, 3] w, float[1, 4, 4] r, float[4, 5] u",
        "h = RNN<hidden_size = 4>(x, w, r) y = MatMul(h, u)",
    )
    each = [draw(proto, 2, sizes={"B": size}) for size in sizes]
    values = {name: [each[m][name][m] for m in range(2)] for name in each[0]}
    role = {"x": "input"} | dict.fromkeys("wru", "weight")
    assert fails_or_is_right(proto, values, role, tmp_path)
    alike = draw(proto, 2, sizes={"B": 2})
    check(proto, alike, role, tmp_path, reason="recurrent", unless=("written_out", "written_out_scan"))
