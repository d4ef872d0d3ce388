"""match: what counts as one architecture, and what a user is told where it isn't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import rebuild
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
Arrays = dict[str, np.ndarray]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def family(
    folder: Path, texts: list[str | ModelProto], arrays: list[Arrays] | None = None, *, partial: bool = False
) -> Correspondence:
    """Writes one file per text, loads and matches them."""
    paths = []
    for i, text in enumerate(texts):
        model = text
        if isinstance(text, str):
            model = parser.parse_model(text if text.startswith("<") else HEAD + text)
        assert isinstance(model, ModelProto)
        for name, array in (arrays[i] if arrays else {}).items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        path = folder / f"m{i}.onnx"
        onnx.save(model, path)
        paths.append(str(path))
    return match([load(path) for path in paths], [f"m{i}" for i in range(len(paths))], partial=partial)


def refused(folder: Path, texts: list[str | ModelProto], arrays: list[Arrays] | None = None) -> str:
    with pytest.raises(NotEquivalent) as caught:
        family(folder, texts, arrays)
    assert "m0.onnx" in caught.value.message
    assert "m1.onnx" in caught.value.message
    assert caught.value.hint
    return caught.value.message


# --------------------------------------------------------------------------- one architecture

SPELLINGS = [
    (
        'g (float[2,3,4,4] x) => (float[2,5,4,4] y) { y = Conv<kernel_shape=[1,1],group=1>(x, w) }',
        'g (float[2,3,4,4] x) => (float[2,5,4,4] y) { y = Conv<strides=[1,1],pads=[0,0,0,0]>(x, w) }',
    ),
    (
        "g (float[2,3,4,4] x) => (float[2,5,4,4] y) { y = Conv(x, w) }",
        'g (float[2,3,4,4] x) => (float[2,5,4,4] y) { y = Conv<auto_pad="NOTSET">(x, w) }',
    ),
    (
        "g (float[2,3,4,4] x) => (float[4,4,3,2] y) { y = Transpose(x) }",
        "g (float[2,3,4,4] x) => (float[4,4,3,2] y) { y = Transpose<perm=[3,2,1,0]>(x) }",
    ),
    (
        "g (float[2,3,4,4] x) => (float[2,3,4,4] y) { a = Relu(x) y = Softmax(a) }",
        "g (float[2,3,4,4] q) => (float[2,3,4,4] r) { z = Exp(q) b = Relu(q) i = Identity(b) "
        "r = Softmax<axis=-1>(i) }",
    ),
    (
        "g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = Neg(x) c = Max(a, b, x) y = Add(c, b) }",
        "g (float[2,3] x) => (float[2,3] y) { b = Neg(x) a = Relu(x) c = Max(x, a, b) y = Add(b, c) }",
    ),
    (
        "g (float[2,3,4,4] x, bool p) => (float[2,3,4,4] y) { t = Neg(x) "
        "y = If(p) <then_branch = a () => (float[2,3,4,4] o) { o = Add(x, t) }, "
        "else_branch = b () => (float[2,3,4,4] o) { u = Relu(x) v = Exp(t) o = Mul(u, v) }> }",
        "g (float[2,3,4,4] x, bool p) => (float[2,3,4,4] y) { s = Neg(x) "
        "y = If(p) <else_branch = b () => (float[2,3,4,4] r) { v = Exp(s) u = Relu(x) r = Mul(v, u) }, "
        "then_branch = a () => (float[2,3,4,4] q) { q = Add(s, x) }> }",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_other_spellings_of_one_architecture(tmp_path: Path, one: str, other: str) -> None:
    held: list[Arrays] = [{}, {}]
    if "w" in one.split("Conv", 1)[-1] and "Conv" in one:
        held = [{"w": floats(5, 3, 1, 1)}, {"w": floats(5, 3, 1, 1, seed=1)}]
    assert family(tmp_path, [one, other], held).models == 2


def test_equal_weights_are_kept_once(tmp_path: Path) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) b = Add(a, c) y = MatMul(b, big) }"
    big = floats(4, 400)
    held = [{"w": floats(4, 4, seed=i), "c": floats(4), "big": big[:, :4] + i} for i in range(3)]
    found = family(tmp_path, [text] * 3, held).weights
    assert {name: len(entries) for name, entries in found.items()} == {"w": 3, "c": 1, "big": 3}
    assert weights.array(found["w"][2]).tolist() == held[2]["w"].tolist()


def test_twin_branches_keep_their_weights_together(tmp_path: Path) -> None:
    """Two branches that look alike may pair either way, but a branch's own weights stay together."""
    text = """g (float[2,4] x) => (float[2,4] y)
        {{ a = MatMul(x, {0}) b = MatMul(x, {1}) c = Relu(a) d = Relu(b) e = Mul(c, {2}) f = Mul(d, {3})
          y = Add({4}, {5}) }}"""
    first = text.format("w1", "w2", "s1", "s2", "e", "f")
    second = text.format("p2", "p1", "q2", "q1", "f", "e")
    held = [
        {n: floats(4, 4, seed=i) if n[0] in "wp" else floats(4, seed=i) for i, n in enumerate(names)}
        for names in (["w1", "w2", "s1", "s2"], ["p1", "p2", "q1", "q2"])
    ]
    found = family(tmp_path, [first, second], held).weights
    partner = {
        n: next(k for k, a in held[1].items() if np.array_equal(a, weights.array(w[1])))
        for n, w in found.items()
    }
    assert partner["w1"][1] == partner["s1"][1] != partner["w2"][1] == partner["s2"][1]


def test_a_weight_that_one_file_ties_is_kept_twice(tmp_path: Path) -> None:
    tied = "g (float[2,4] x) => (float[2,4] y) { a = Add(x, w) b = Relu(a) y = Mul(b, w) }"
    apart = "g (float[2,4] x) => (float[2,4] y) { a = Add(x, w) b = Relu(a) y = Mul(b, v) }"
    found = family(
        tmp_path, [tied, apart], [{"w": floats(4)}, {"w": floats(4, seed=1), "v": floats(4, seed=2)}]
    )
    assert len(found.weights) == 2
    (name,) = set(found.weights) - {"w"}
    assert found.graph.nodes[2].inputs == ("b", name) or found.graph.nodes[2].inputs[1] == name
    assert [weights.array(w).tolist() for w in found.weights[name]] == [
        floats(4).tolist(),
        floats(4, seed=2).tolist(),
    ]
    assert found.graph.weights.keys() == found.weights.keys()


def test_a_weight_tied_into_a_body_is_kept_twice(tmp_path: Path) -> None:
    text = """g (float[2,4] x, bool p) => (float[2,4] y) {{ a = Add(x, w) y = If(p) <
        then_branch = t () => (float[2,4] o) {{ o = Mul(a, {0}) }},
        else_branch = e () => (float[2,4] o) {{ o = Sub(a, {0}) }}> }}"""
    held = [{"w": floats(4)}, {"w": floats(4, seed=1), "v": floats(4, seed=2)}]
    found = family(tmp_path, [text.format("w"), text.format("v")], held)
    (name,) = set(found.weights) - {"w"}
    assert found.graph.nodes[1].captured == ("a", name)
    assert found.graph.nodes[1].attrs["then_branch"].node[0].input[1] == name
    onnx.checker.check_model(rebuild.model(found.sources[0]))


def test_inputs_pair_by_name_then_by_position(tmp_path: Path) -> None:
    text = "g (float[2,4] {0}, float[2,4] {1}) => (float[2,4] y) {{ y = Sub({2}, {3}) }}"
    assert family(tmp_path, [text.format("a", "b", "a", "b"), text.format("b", "a", "a", "b")]).models == 2
    assert family(tmp_path, [text.format("a", "b", "a", "b"), text.format("p", "q", "p", "q")]).models == 2
    found = family(tmp_path, [text.format("a", "b", "a", "b"), text.format("p", "q", "q", "p")])
    assert found.edge(1).inputs == {"a": "q", "b": "p"}, "no name in common: the graphs decide"
    with pytest.raises(NotEquivalent) as caught:
        family(tmp_path, [text.format("a", "b", "a", "b"), text.format("a", "b", "b", "a")])
    assert "m0.onnx does what 'b' of " in caught.value.hint, "a name in common is never another input"


def test_static_dims_win(tmp_path: Path) -> None:
    text = "g (float[{0},3,{1}] x) => (float[N,3,M] y) {{ y = Relu(x) }}"
    found = family(tmp_path, [text.format("N", "W"), text.format("batch", "96")])
    assert found.graph.types["x"].dims == ("N", 3, 96)
    assert found.graph.types["y"].dims[1:] == (3, 96)
    said = refused(tmp_path, [text.format("N", "64"), text.format("N", "96")])
    assert "size 64 and size 96 on axis 2" in said


def test_one_source_is_a_family(tmp_path: Path) -> None:
    found = family(tmp_path, ["g (float[2] x) => (float[2] y) { y = Add(x, w) }"], [{"w": floats(2)}])
    assert len(found.weights["w"]) == 1


def test_opsets_are_brought_together(tmp_path: Path) -> None:
    old = """<ir_version: 7, opset_import: ["" : 11]>
        g (float[2,3] x) => (float[2,1,3] y) { y = Unsqueeze<axes=[1]>(x) }"""
    new = "g (float[2,3] x) => (float[2,1,3] y) { a = Constant<value_ints=[1]>() y = Unsqueeze(x, a) }"
    found = family(tmp_path, [old, new])
    assert (found.opsets[""], found.ir_version) == (17, 8)
    assert len(next(iter(found.weights.values()))) == 1


# --------------------------------------------------------------------------- the differences

CHAIN = "g (float[2,4] x) => (float[2,4] y) {{ a = MatMul(x, w) {0} y = Softmax<axis={1}>(c) }}"
PLAIN = CHAIN.format("b = Relu(a) c = Add(b, v)", -1)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (CHAIN.format("b = Tanh(a) c = Add(b, v)", -1), ["Relu 'b'", "Tanh 'b'", "Relu is not Tanh"]),
        (CHAIN.format("b = Relu(a) c = Add(b, v)", -2), ["Softmax 'y'", "attribute 'axis' is -1 and -2"]),
        (CHAIN.format("b = Relu(a) c = Sub(b, v)", -1), ["Add is not Sub"]),
        (CHAIN.format("b = Relu(x) c = Add(b, v)", -1), ["Relu 'b'", "input 0 is the result of MatMul 'a'"]),
        (CHAIN.format("b = Relu(a) d = Exp(b) c = Add(d, v)", -1), ["Add 'c'", "Exp 'd'"]),
        (CHAIN.format("c = Add(a, v)", -1), ["Add 'c'", "Relu 'b'"]),
        (CHAIN.format("b = LeakyRelu<alpha=0.3>(a) c = Add(b, v)", -1), ["Relu is not LeakyRelu"]),
    ],
)
def test_the_difference_is_named(tmp_path: Path, other: str, said: list[str]) -> None:
    held = [{"w": floats(4, 4), "v": floats(4)} for _ in range(2)]
    message = refused(tmp_path, [PLAIN, other], held)
    assert all(words in message for words in said), message


def test_differing_weights_are_named(tmp_path: Path) -> None:
    text = "g (float[2,4] x) => (float[2,M] y) { a = Relu(x) y = Gemm(a, w, b) }"
    held = [{"w": floats(4, n), "b": floats(n)} for n in (10, 12)]
    assert "input 1: weight 'w' is float32[4,10] and float32[4,12]" in refused(tmp_path, [text, text], held)
    double = [held[0], {name: array.astype(np.float64) for name, array in held[0].items()}]
    assert "float32[4,10] and float64[4,10]" in refused(tmp_path, [text, text], double)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("(float[2] x) => (float[2] y) { y = Relu(x) }",
         "(float[2] x, float[2] z) => (float[2] y) { y = Relu(x) }", "1 input and"),
        ("(float[2] x) => (float[2] y) { y = Relu(x) }",
         "(float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Neg(x) }", "'z' is only in"),
        ("(float[2] x) => (float[2] y) { y = Abs(x) }",
         "(int32[2] x) => (int32[2] y) { y = Abs(x) }", "tensor(float) and tensor(int32)"),
        ("(float[2] x) => (float[2] y) { y = Abs(x) }",
         "(float[2,2] x) => (float[2,2] y) { y = Abs(x) }", "rank 1 and rank 2"),
        ("(float[2] x) => (float[2] y) { y = Max(x, x) }",
         "(float[2] x) => (float[2] y) { y = Max(x, x, x) }", "2 inputs and 3 inputs"),
        ("(float[2] x) => (float[2] y) { y = Clip(x) }",
         "(float[2] x) => (float[2] y) { y = my.own.Clip(x) }", "Clip is not my.own.Clip"),
        ("(float[4] x) => (float[2] y, float[2] z) { y, z = Split(x) }",
         "(float[4] x) => (float[2] z, float[2] y) { y, z = Split(x) }", ""),
    ],
)  # fmt: skip
def test_other_differences(tmp_path: Path, one: str, other: str, said: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "my.own" : 1]> g '
    if said:
        assert said in refused(tmp_path, [head + one, head + other])
    else:
        assert family(tmp_path, [head + one, head + other]).models == 2


@pytest.mark.parametrize(
    ("text", "arrays"),
    [
        ("g (float[2,6] x) => (float y) { y = Reshape(x, s) }", ([3, 4], [4, 3])),
        (
            "g (float[2,6] x) => (float y) { a = Shape(x) b = Concat<axis=0>(s, a) y = Expand(x, b) }",
            ([3], [5]),
        ),
        ("g (float[6,6] x) => (float y) { y = Slice(x, s, e) }", ([0, 0], [1, 1])),
        ("g (float[6,6] x) => (float y) { y = ReduceSum(x, s) }", ([0], [1])),
    ],
)
def test_values_that_decide_shapes_must_be_equal(
    tmp_path: Path, text: str, arrays: tuple[list[int], list[int]]
) -> None:
    held = [{"s": np.array(a), "e": np.array([5, 5])} for a in arrays]
    said = refused(tmp_path, [text, text], held)
    assert "weight 's' decides a shape" in said
    assert f"{arrays[0]} and {arrays[1]}" in said


def test_indices_of_twin_branches_find_each_other(tmp_path: Path) -> None:
    """In another order, only the constants tell the two Gathers apart."""
    text = """g (float[N,M] x) => (float[M,N] y) {{ s = Shape(x) {0} a = Unsqueeze(h, z) b = Unsqueeze(w, z)
        t = Concat<axis=0>(b, a) y = Reshape(x, t) }}"""
    one, two = "h = Gather(s, i)", "w = Gather(s, j)"
    held = [{"i": np.array(0), "j": np.array(1), "z": np.array([0])} for _ in range(2)]
    found = family(tmp_path, [text.format(f"{one} {two}"), text.format(f"{two} {one}")], held)
    assert all(len(entries) == 1 for entries in found.weights.values())


def test_an_attribute_inside_of_a_body_is_named(tmp_path: Path) -> None:
    text = """g (float[2,4] x, bool p) => (float[2,4] y) {{ y = If(p) <
        then_branch = t () => (float[2,4] o) {{ o = LeakyRelu<alpha={0}>(x) }},
        else_branch = e () => (float[2,4] o) {{ o = Neg(x) }}> }}"""
    said = refused(tmp_path, [text.format("0.1"), text.format("0.2")])
    assert "attribute 'alpha' is 0.1 and 0.2" in said
    assert "inside of then_branch" in said


def test_floats_are_compared_as_bits(tmp_path: Path) -> None:
    def model(value: float) -> ModelProto:
        text = HEAD + "g (float[2] x) => (float[2] y) { y = Elu(x) }"
        proto = parser.parse_model(text)
        proto.graph.node[0].attribute.append(helper.make_attribute("alpha", value))
        return proto

    assert family(tmp_path, [model(float("nan")), model(float("nan"))]).models == 2
    refused(tmp_path, [model(0.0), model(-0.0)])


# --------------------------------------------------------------------------- --partial


def test_partial_accepts_heads_and_attributes_that_differ(tmp_path: Path) -> None:
    text = """g (float[B,4] x) => (float[B,M] y, float[B,1] z) {{ h = LeakyRelu<alpha={0}>(x)
        a = Gemm(h, w, b) y = Softmax(a) m = Constant<value_ints=[1]>() z = ReduceSum(y, m) }}"""
    held = [{"w": floats(4, n), "b": floats(n)} for n in (10, 12)]
    found = family(tmp_path, [text.format(0.1), text.format(0.2)], held, partial=True)
    assert found.ragged == {"w", "b", "a", "y"}
    assert list(found.attrs) == [0]
    assert [round(attrs["alpha"], 2) for attrs in found.attrs[0]] == [0.1, 0.2]
    assert [w.shape for w in found.weights["w"]] == [(4, 10), (4, 12)]
    assert found.graph.types["y"].dims == ("B", None)


def test_partial_accepts_shapes_that_differ(tmp_path: Path) -> None:
    text = "g (float[2,6] x) => (float y) { y = Reshape(x, s) }"
    held = [{"s": np.array([3, 4])}, {"s": np.array([12])}]
    found = family(tmp_path, [text, text], held, partial=True)
    assert found.ragged == {"s", "y"}


def test_partial_changes_nothing_for_equal_models(tmp_path: Path) -> None:
    text = "g (float[B,4] x) => (float[B,3] y) { y = Gemm(x, w) }"
    held = [{"w": floats(4, 3, seed=i)} for i in range(2)]
    plain, loose = (family(tmp_path, [text, text], held, partial=p) for p in (False, True))
    assert (loose.ragged, loose.attrs, loose.weights) == (frozenset(), {}, plain.weights)


def test_partial_does_not_mix_types(tmp_path: Path) -> None:
    text = "g (float[B,4] x) => (float[B,3] y) { y = Gemm(x, w) }"
    held = [{"w": floats(4, 3)}, {"w": floats(4, 3).astype(np.float64)}]
    with pytest.raises(NotEquivalent, match="float64"):
        family(tmp_path, [text, text], held, partial=True)
