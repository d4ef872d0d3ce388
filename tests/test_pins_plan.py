"""Small mistakes in plan and lower, each of which one of these tests sees (tests/mutants)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save
from onnx import numpy_helper
from oracle import IO, as_models, check, draw, every_merge
from oracle import family as family_of
from oracle import graph as standard
from test_plan import price
from test_qdq import STEP, operators, quantised, shares, values_of

import netfuse_onnx
from netfuse_onnx.layouts import CHANNELS, FOLDED, PER_MODEL, SHARED, STACKED
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.cost import RESHAPE, Cost
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Became, Correspondence, Lowering, Node, ValueType

# --------------------------------------------------------------------------- prices


def test_what_conversions_cost() -> None:
    """In nodes: what copies nothing is a quarter, whatever moves data is at least one."""
    cost, image, row = Cost(3), ValueType(1, (2, 4, 5, 5)), ValueType(1, (1, 4, 5, 5))
    for src, dst, value in (
        (STACKED(0), STACKED(1), row),
        (STACKED(1), FOLDED(1), image),
        (FOLDED(1), STACKED(1), image),
    ):
        assert cost.conversion(src, dst, value) == RESHAPE
    moving = ((STACKED(0), STACKED(1)), (PER_MODEL, FOLDED(1)), (FOLDED(1), PER_MODEL), (SHARED, FOLDED(0)),
              (FOLDED(0), FOLDED(1)), (STACKED(0), CHANNELS(3)))  # fmt: skip
    for src, dst in moving:
        assert 1.0 <= cost.conversion(src, dst, image) < 2.5, (src, dst)
    assert cost.conversion(STACKED(0), PER_MODEL, image) >= 3.0
    assert cost.conversion(SHARED, PER_MODEL, image) == 0.0
    assert cost.conversion(FOLDED(1), FOLDED(1), image) == 0.0
    relu = Site(
        Node("Relu", "", "", ("x",), ("y",), {}), 3, {"": 17}, (image,), (image,), (True,), (False,), (None,),
        parts=((),),
    )  # fmt: skip
    assert cost.lowering(Lowering(Became.REPLICATED, (PER_MODEL,), (PER_MODEL,), relu), relu) == 3.0
    assert cost.lowering(Lowering(Became.SHARED, (SHARED,), (SHARED,), relu), relu) == 1.0
    larger = ValueType(1, (200, 400, 5, 5))
    assert cost.conversion(STACKED(0), STACKED(1), larger) > cost.conversion(STACKED(0), STACKED(1), image)


def test_one_weight_for_all_models_is_not_repeated_in_vain(tmp_path: Path) -> None:
    """Repeating it would save no node here, and its bytes count."""
    text = "g (float[2, 64, 4, 4] x) => (float[2, 64, 4, 4] y) { y = Conv(x, w) }"
    paths = family(tmp_path, text, {"w": (64, 64, 1, 1)})
    weight = onnx.load(paths[0]).graph.initializer[0]
    save(tmp_path / "b.onnx", _with(onnx.load(paths[1]), weight))
    found = onnx.load(merged(tmp_path, paths))
    assert [list(t.dims) for t in found.graph.initializer if len(t.dims) == 4] == [[64, 64, 1, 1]]
    (conv,) = [node for node in found.graph.node if node.op_type == "Conv"]
    assert conv.input[1] in {tensor.name for tensor in found.graph.initializer}, "the models are in the batch"


def _with(proto: onnx.ModelProto, weight: onnx.TensorProto) -> onnx.ModelProto:
    del proto.graph.initializer[:]
    proto.graph.initializer.append(weight)
    return proto


# --------------------------------------------------------------------------- shapes that follow values


@pytest.mark.parametrize("size", ["k", "", "2"])
def test_a_symbol_of_an_inner_value_is_no_common_size(tmp_path: Path, size: str) -> None:
    """The number of elements that are not 0 differs between the models, whatever a file calls it."""
    text = f"g (float[4] x) => (int64[{size or 'unk__0'}] y) {{ n = NonZero(x) y = ReduceSum<keepdims = 0>(n, a) }}"
    paths = family(tmp_path, text)
    for path in paths:
        proto = onnx.load(path)
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "a"))
        if not size:
            proto.graph.output[0].type.tensor_type.shape.dim[0].ClearField("dim_param")
        save(Path(path), proto)
    session = _session(merged(tmp_path, paths))
    feeds = {"a/x": np.array([0, 1, 0, 1], np.float32), "b/x": np.array([1, 1, 1, 0], np.float32)}
    got = session.run(["a/y", "b/y"], feeds)
    assert [v.tolist() for v in got] == [[1, 3], [0, 1, 2]]


def _session(path: str):  # type: ignore[no-untyped-def]
    import onnxruntime as ort

    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


# --------------------------------------------------------------------------- operators on bytes


@pytest.mark.parametrize(("off", "fused"), [(1.0, True), (1.01, False), (1.001, False)])
@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_a_bias_of_another_scale_stays_a_float(tmp_path: Path, op: str, off: float, fused: bool) -> None:
    form = {"bias": "5"} if op == "Conv" else {"x": "uint8[B,6]", "w": "int8[6,4]", "bias": "4"}
    proto = quantised(f"z = {op}(i, j, k)", **form)
    values = values_of(proto, 3)
    values["s"] = (values["s"] * np.float32(off)).astype(np.float32)
    role = shares(proto, **dict.fromkeys("acegsw", "weight"))
    assert (operators(proto, values, role, tmp_path)[op] == 0) == fused
    if op == "Conv":  # what ONNX Runtime makes of the other is not the matter here
        check(proto, values, role, tmp_path, tolerance=None if fused else STEP)


@pytest.mark.parametrize(("zero", "fused"), [(0, True), (40, False)])
def test_a_bias_with_a_zero_point_stays_a_float(tmp_path: Path, zero: int, fused: bool) -> None:
    text = "uint8[B,3,4,4] x, float a, uint8 b, int8[5,3,3,3] w, float c, int8 d"
    body = """i = DequantizeLinear(x, a, b) j = DequantizeLinear(w, c, d) k = DequantizeLinear(g, s, t)
              z = Conv(i, j, k) y = QuantizeLinear(z, e, f)"""
    proto = standard(f"{text}, int32[5] g, float s, int32 t, float e, uint8 f", body)
    values = values_of(proto, 3)
    values["t"] = np.full((3,), zero, np.int32)
    role = shares(proto, **dict.fromkeys("acegsw", "weight"))
    assert (operators(proto, values, role, tmp_path)["Conv"] == 0) == fused


def test_a_relu_stays_where_one_model_does_not_saturate(tmp_path: Path) -> None:
    """The zero point of the result is the least byte in the first model only."""
    proto = quantised("r = Conv(i, j) z = Relu(r)")
    values = values_of(proto, 3)
    values["f"][:] = [0, 9, 30]
    values["e"] *= np.float32(0.5)
    role = shares(proto, **dict.fromkeys("aefw", "weight"))
    assert operators(proto, values, role, tmp_path)["Relu"] == 1
    check(proto, values, role, tmp_path, tolerance=STEP)


@pytest.mark.parametrize(
    ("attribute", "fused"), [("alpha = 1.0", True), ("alpha = 0.5", False), ("beta = 2.0", False)]
)
def test_a_scaled_product_stays_one_of_floats(tmp_path: Path, attribute: str, fused: bool) -> None:
    proto = quantised(f"z = Gemm<{attribute}>(i, j, k)", "uint8[B,6]", "int8[6,4]", bias="4")
    values = values_of(proto, 3)
    role = shares(proto, **dict.fromkeys("acegsw", "weight"))
    assert (operators(proto, values, role, tmp_path)["Gemm"] == 0) == fused


def test_elements_that_move_to_another_scale_are_rounded_again(tmp_path: Path) -> None:
    proto = standard("uint8[B,3,4] x, float a, uint8 b, float e, uint8 f",
                     "i = DequantizeLinear(x, a, b) z = Transpose<perm = [2, 0, 1]>(i) y = QuantizeLinear(z, e, f)")  # fmt: skip
    values = values_of(proto, 3)
    role = shares(proto, a="weight", e="weight")
    found = operators(proto, values, role, tmp_path)
    assert found["DequantizeLinear"] == found["QuantizeLinear"] == 1
    check(proto, values, role, tmp_path)


# --------------------------------------------------------------------------- what is never shared


@pytest.mark.parametrize(
    "body",
    [
        "r = RandomNormal<shape = [2, 3]>() y = Add(x, r)",
        """r = If(go) <then_branch = t () => (float[2, 3] p) { p = RandomNormal<shape = [2, 3]>() },
                       else_branch = e () => (float[2, 3] q) { q = RandomUniform<shape = [2, 3]>() }>
           y = Add(x, r)""",
    ],
    ids=["node", "body"],
)
def test_each_model_draws_its_own_random_numbers(tmp_path: Path, body: str) -> None:
    inputs = "float[2, 3] x, bool go" if "If" in body else "float[2, 3] x"
    paths = family(tmp_path, f"g ({inputs}) => (float[2, 3] y) {{ {body} }}")
    share = ["go"] if "If" in body else []
    found = onnx.load(merged(tmp_path, paths, share=share)).graph
    drawing = ("RandomNormal", "If")
    assert sum(node.op_type in drawing for node in found.node) == 2


# --------------------------------------------------------------------------- --partial


PARTIAL = {
    "windows of open sizes": (
        "g (float[n, 1, h, w] x) => (float[n, 1, p, q] y) {{ m = MaxPool<kernel_shape = [2, 2], pads = {0}>(x) y = Relu(m) }}",
        ("[0, 0, 0, 0]", "[1, 1, 1, 1]"), ({}, {}),
    ),
    "the shape of a weight": (
        "g (float[2, 4] x) => (float[2, m] y, int64[2] z) {{ y = {0}MatMul(x, w) s = Shape(w) z = Neg(s) }}",
        ("", ""), ({"w": (4, 3)}, {"w": (4, 5)}),
    ),
    "a constant that is computed": (
        """g (int64[3] x) => (int64[3] y) {{ i = Constant<value_ints = [1, 2, 3]>() k = Constant<value_int = 0>()
           c = CumSum<exclusive = {0}>(i, k) y = Add(x, c) }}""",
        ("0", "1"), ({}, {}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PARTIAL)
def test_what_differs_by_an_attribute_is_made_for_each_model(tmp_path: Path, what: str) -> None:
    text, differing, held = PARTIAL[what]
    paths = [
        save(tmp_path / f"{name}.onnx", model(text.format(attribute), weights))
        for name, attribute, weights in zip("ab", differing, held, strict=True)
    ]
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True)
    assert report.proof is not None and report.proof.ok


# --------------------------------------------------------------------------- types that nothing joins


@pytest.mark.parametrize("io", IO)
def test_float8_is_made_for_each_model(tmp_path: Path, io: str) -> None:
    """No operator joins or splits it, so where it has to be apart it is made so."""
    text = "g (float[n, 4] x) => (float8e4m3fn[n, 4] y) { h = Add(x, w) y = Cast<to = 17>(h) }"
    paths = family(tmp_path, text, {"w": (4,)}, opset=21)
    session = _session(merged(tmp_path, paths, io=io))
    assert len(session.get_outputs()) == (1 if io == "stacked" else 2)


# --------------------------------------------------------------------------- one answer for all models


def replicated(
    folder: Path, text: str, inputs: str, reason: str, own: Mapping[str, list[object]], **given: object
) -> None:
    """The inputs that are `own` differ between the models, so the node runs once for each, and is right."""
    proto = standard(inputs, text)
    values = draw(proto, 3, given={name: np.asarray(value) for name, value in given.items()})
    for name, each in own.items():
        values[name] = np.array(each).astype(values[name].dtype)
    role = dict.fromkeys(values, "input") | dict.fromkeys(given, "shared input")
    check(proto, values, role, folder, reason=reason)
    weights = dict.fromkeys(own, "weight")
    check(proto, values, role | weights, folder, reason=reason)


LOOP = """z = Loop (n, c, x) <
    body = l (int64 i, bool keep, float[3,4] s) => (bool again, float[3,4] t) { AGAIN t = Add(s, x) }>"""


def test_a_trip_count_per_model(tmp_path: Path) -> None:
    text = LOOP.replace("AGAIN", "again = Identity(keep)")
    replicated(tmp_path, text, "int64 n, bool c, float[3,4] x", "trip count", {"n": [1, 4, 2]}, c=True)


def test_a_condition_that_a_body_computes_per_model(tmp_path: Path) -> None:
    text = LOOP.replace("AGAIN", "h = ReduceMax<keepdims = 0>(s) again = Less(h, top)")
    inputs = "int64 n, bool c, float[3,4] x, float top"
    replicated(
        tmp_path, text, inputs, "condition that its body computes", {"top": [0.0, 3.0, 9.0]}, n=9, c=True
    )


def test_a_mode_per_model(tmp_path: Path) -> None:
    """Dropout does nothing in the first model only."""
    inputs = "float[3,4] x, float r, bool t"
    replicated(tmp_path, "y = Dropout(x, r, t)", inputs, "random", {"t": [False, True, True]}, r=0.0)


def test_integers_that_differ_are_not_folded(tmp_path: Path) -> None:
    """Constants of each model that are computed with before anything is fed."""
    proto = standard("float[3,4] x, int64[2] i, int64[2] j", "k = Add(i, j) y = Gather(x, k)")
    values = draw(proto, 3, given={"j": np.array([1, 0])})
    values["i"] = np.array([[0, 1], [1, 2], [-1, 0]])
    check(proto, values, {"x": "input", "i": "weight", "j": "shared weight"}, tmp_path)


def test_numbers_that_follow_values_cannot_be_stacked(tmp_path: Path) -> None:
    paths = family(tmp_path, "g (float[4] x) => (int64[1, k] y) { y = NonZero(x) }")
    with pytest.raises(netfuse_onnx.NotStackable, match="shape may differ"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), io="stacked")


def test_scales_along_another_axis_of_a_filter(tmp_path: Path) -> None:
    """One scale for each channel that goes in: no operator on bytes has that."""
    proto = standard("uint8[B,3,4,4] x, float a, uint8 b, int8[5,3,3,3] w, float[3] c, int8[3] d, float e, uint8 f",
                     "i = DequantizeLinear(x, a, b) j = DequantizeLinear<axis = 1>(w, c, d) z = Conv(i, j) y = QuantizeLinear(z, e, f)")  # fmt: skip
    values = values_of(proto, 3)
    role = shares(proto, **dict.fromkeys("ace", "weight"))
    assert operators(proto, values, role, tmp_path)["Conv"] == 1


def test_a_value_that_is_read_and_given_is_paid_once(tmp_path: Path) -> None:
    """A graph output that one operator reads too: its conversion to an output is part of the price."""
    text = (
        "g (float[2, 4, 3, 3] x) => (float[2, 4, 3, 3] h, float[2, 4, 3, 3] y) { h = Conv(x, w) y = Relu(h) }"
    )
    corr = _family(family(tmp_path, text, {"w": (4, 4, 1, 1)}))
    cost = Cost(2)
    found = planning.candidates(corr, io="separate", share=frozenset(), cost=cost)
    plan = planning.plan(corr)
    best = min(price(corr, found, chosen, cost) for chosen in itertools.product(*found.options))
    assert plan.cost == pytest.approx(best) == pytest.approx(price(corr, found, plan.lowerings, cost))


def _family(paths: list[str]) -> Correspondence:
    return match([load(path) for path in paths], [Path(path).stem for path in paths])


# --------------------------------------------------------------------------- what ONNX Runtime gets wrong


@pytest.mark.parametrize(
    ("more", "stay"), [("z = Neg(v)", 3), ("z = Neg(c)", 2)], ids=["a bias", "read elsewhere too"]
)
def test_a_bias_that_others_read_is_written_out(tmp_path: Path, more: str, stay: int) -> None:
    """ONNX Runtime takes a bias of int32 into an operator on bytes, and moves all other int32 as if they were bytes."""
    text = """a = DequantizeLinear(x, scale, zero) b = DequantizeLinear(w, scale, zero) c = DequantizeLinear(bias, scale)
        d = Conv(a, b, c) y = QuantizeLinear(d, scale, zero)"""
    inputs = "uint8[1,2,3,3] x, uint8[2,2,2,2] w, int32[2] bias, float scale, uint8 zero, float[2] v"
    proto = standard(inputs, f"{text} {more}")
    role = {"x": "shared input", "v": "input"} | dict.fromkeys(
        ("w", "bias", "scale", "zero"), "shared weight"
    )
    corr = family_of(as_models(proto, draw(proto, 2, low=1, high=5), role, tmp_path))
    for _, found, what in every_merge(corr, role, "separate"):
        ops = [node.op_type for node in onnx.load_from_string(found).graph.node]
        assert ops.count("DequantizeLinear") == stay, what
