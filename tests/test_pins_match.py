"""Small mistakes in match, each of which one of these tests sees (tests/mutants)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import parser
from test_match import HEAD, family, floats, refused

from netfuse_onnx.load.loader import load
from netfuse_onnx.match.flat import Flat, flatten
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.refine import Level


def laid_open(folder: Path, name: str, text: str) -> Flat:
    path = folder / f"{name}.onnx"
    path.write_bytes(parser.parse_model(HEAD + text).SerializeToString())
    return flatten(load(str(path)))


def by_operator(flat: Flat) -> list[int]:
    """Colours that tell no more than the operator, so that the search alone must find what contradicts."""
    return [hash(step.op) for step in flat.steps]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p = Relu(x) q = Relu(x) y = Sub(p, q)", "p = Relu(x) y = Sub(p, p)"),
        ("p = Relu(x) q = Relu(x) s = Relu(x) a = Add(p, q) y = Sub(a, s)",
         "p = Relu(x) q = Relu(x) a = Add(p, q) y = Sub(a, p)"),
        ("p, q = Split<axis = 0>(x) y = Sub(p, q)", "p, q = Split<axis = 0>(x) y = Sub(q, p)"),
        ("p = Relu(x) y = Sub(p, x)", "p = Relu(x) y = Sub(x, p)"),
    ],
)  # fmt: skip
def test_an_isomorphism_is_one_to_one_and_keeps_every_edge(tmp_path: Path, one: str, other: str) -> None:
    head = "g (float[2,4] x) => (float y)"
    a, b = (laid_open(tmp_path, k, f"{head} {{ {text} }}") for k, text in (("a", one), ("b", other)))
    assert isomorphism(a, a, (by_operator(a), by_operator(a)), Level.SHAPES) is not None
    assert isomorphism(a, b, (by_operator(a), by_operator(b)), Level.SHAPES) is None


def test_weights_of_a_commutative_operator_find_those_of_their_shape(tmp_path: Path) -> None:
    """Also where the nodes stand in another order, so that the files are no longer walked in step."""
    one = "g (float[2,4] x) => (float[2,4] y, float[2,4] z) { t = Exp(x) y = Max(t, w, v) z = Neg(x) }"
    other = "g (float[2,4] x) => (float[2,4] y, float[2,4] z) { z = Neg(x) t = Exp(x) y = Max(t, v, w) }"
    held = [{"w": floats(4, seed=i), "v": floats(1, seed=9 + i)} for i in range(2)]
    found = family(tmp_path, [one, other], held)
    assert {name: [part.shape for part in parts] for name, parts in found.weights.items()} == {
        "w": [(4,), (4,)],
        "v": [(1,), (1,)],
    }


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_integers_that_are_computed_into_a_shape_must_be_equal(tmp_path: Path, kind: type) -> None:
    text = """g (float[2,6] x) => (float y) {
        a = Concat<axis=0>(s, t)  b = Cast<to=7>(a)  y = Reshape(x, b) }"""
    held = [{"s": np.array([n], kind), "t": np.array([12 // n], kind)} for n in (3, 4)]
    assert "decides a shape" in refused(tmp_path, [text, text], held)


def test_axes_that_differ_by_their_hash_only(tmp_path: Path) -> None:
    """Python hashes -1 and -2 alike; the nodes stand in another order, so that only colours tell."""
    text = "g (float[4,4] x) => (float[4,4] y, float[4,4] z) {{ {0} {1} }}"
    picked = "y = Gather<axis={0}>(x, i)"
    held = [{"i": np.arange(4)} for _ in range(2)]
    first = text.format(picked.format(-1), "z = Neg(x)")
    second = text.format("z = Neg(x)", picked.format(-2))
    assert "attribute 'axis' is -1 and -2" in refused(tmp_path, [first, second], held)
    assert family(tmp_path, [first, text.format("z = Neg(x)", picked.format(-1))], held).models == 2


def test_weights_equal_in_some_models_only_are_kept_for_all(tmp_path: Path) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { y = Add(x, w) }"
    held = [{"w": floats(4, seed=seed)} for seed in (0, 0, 1)]
    assert len(family(tmp_path, [text] * 3, held).weights["w"]) == 3


def test_weights_tied_in_some_models_only_are_kept_apart(tmp_path: Path) -> None:
    """The second operand is the first one's twin in two of the three models."""
    text = "g (float[2,4] x) => (float[2,4] y) {{ a = Add(x, w) b = Relu(a) y = Mul(b, {0}) }}"
    held = [
        {"w": floats(4)},
        {"w": floats(4, seed=1), "v": floats(4, seed=1)},
        {"w": floats(4, seed=2), "v": floats(4, seed=3)},
    ]
    found = family(tmp_path, [text.format("w"), text.format("v"), text.format("v")], held)
    assert len(found.weights) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = Transpose(x)", "y = Transpose<perm = [0, 1, 2, 3]>(x)"),
        ("y = MaxPool<kernel_shape = [3, 3]>(x)", "y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)"),
        ("y = Conv(x, w)", "y = Conv<pads = [1, 1, 1, 1]>(x, w)"),
        ("y = Conv(x, w)", "y = Conv<strides = [2, 2]>(x, w)"),
    ],
)  # fmt: skip
def test_attributes_that_are_no_defaults(tmp_path: Path, one: str, other: str) -> None:
    head = "g (float[4,4,4,4] x) => (float y)"
    held = [{"w": floats(4, 4, 3, 3, seed=i)} if "Conv" in one else {} for i in range(2)]
    assert "attribute" in refused(tmp_path, [f"{head} {{ {text} }}" for text in (one, other)], held)


def test_outputs_made_by_other_operators(tmp_path: Path) -> None:
    """The same steps in the same order; only which of them is which output differs."""
    text = "g (float[2] x) => (float[2] y, float[2] z) {{ {0} = Neg(x) {1} = Exp(x) }}"
    refused(tmp_path, [text.format("y", "z"), text.format("z", "y")])
