"""load, infer and opset: the normal form means what the file means, and invalid files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from netfuse_onnx.errors import FileFault, NotEquivalent
from netfuse_onnx.load import opset, rebuild
from netfuse_onnx.load.claims import resolve_claims
from netfuse_onnx.load.infer import infer, unknown
from netfuse_onnx.load.loader import load
from netfuse_onnx.run import observe
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Extent, Source, ValueType

HEAD = '<ir_version: 8, opset_import: ["" : {}]>\n'
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def loaded(folder: Path, text: str | ModelProto, version: int = 17, **arrays: np.ndarray) -> Source:
    if isinstance(text, str):
        model = parser.parse_model(text if text.startswith("<") else HEAD.format(version) + text)
    else:
        model = text
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    path = folder / "model.onnx"
    onnx.save(model, path)
    return load(str(path))


def run(model: ModelProto | str, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    what = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(what, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def full(source: Source) -> ModelProto:
    """The normal form as a model that runs."""
    model = rebuild.model(source)
    kept = [value for value in model.graph.input if value.name in source.graph.inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    large = {n: w for n, w in source.graph.weights.items() if isinstance(w.data, Extent)}
    model.graph.initializer.extend(weights.proto(weight, name) for name, weight in large.items())
    onnx.checker.check_model(model)
    return model


def unchanged(source: Source, feeds: dict[str, np.ndarray], version: int = 0) -> Source:
    """The normal form (at another opset) computes, bit by bit, what the file computes."""
    result = opset.convert(source, version) if version else source
    for ours, theirs in zip(run(full(result), feeds), run(source.path, feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return result


def ops(source: Source) -> list[str]:
    return [node.op for node in source.graph.nodes]


# --------------------------------------------------------------------------- normal form


def test_every_kind_of_constant_becomes_a_weight(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x) => (float[2,3,4] y, string[2] s) {
          a = Constant<value_float=2.0>() b = Constant<value_floats=[1.0,2.0,3.0,4.0]>()
          c = Constant<value_int=1>() d = Constant<value_ints=[3,1]>()
          e = Constant<value_strings=["u","v"]>() f = Constant<value=float[3,1] {1,2,3}>()
          g1 = Constant<value_string="w">()
          h = Mul(x, a) i = Add(h, b) j = Expand(i, d) k = Mul(j, f) y = Identity(k) s = Identity(e)
        }""",
    )
    assert ops(source) == ["Mul", "Add", "Expand", "Mul", "Identity"]
    assert set(source.graph.weights) == {"a", "b", "d", "e", "f"}  # c and g1 are not used
    assert source.graph.weights["e"].data == (b"u", b"v")
    assert weights.array(source.graph.weights["b"]).tolist() == [1, 2, 3, 4]
    assert source.node_count == 4


def test_sparse_constants_are_written_out(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "v")
    for k, places in enumerate((np.array([1, 5]), np.array([[0, 1], [1, 2]]))):
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "i"), [2, 3])
        node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
        graph = helper.make_graph(
            [node, helper.make_node("Add", ["x", "c"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [2, 3])],
            [helper.make_tensor_value_info("y", 1, [2, 3])],
        )
        if k:
            graph.node.remove(graph.node[0])
            sparse.values.name = "c"
            graph.sparse_initializer.append(sparse)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        source = loaded(tmp_path, model)
        assert weights.array(source.graph.weights["c"]).tolist() == [[0, 5, 0], [0, 0, 7]]


def test_outputs_keep_their_names_and_stay_apart(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x) => (float[2,3,4] a, float[2,3,4] b, float[2,3,4] c, float[3] w, float[3] w2)
        <float[3] w = {1,2,3}> { r = Relu(x) i = Identity(r) a = Identity(i) b = Identity(r) c = Identity(x)
          w2 = Identity(w) }""",
    )
    assert source.graph.outputs == ("a", "b", "c", "w", "w2")
    assert ops(source) == ["Relu"] + ["Identity"] * 4
    assert source.graph.nodes[0].outputs == ("a",)
    unchanged(source, {"x": X})


def test_an_output_that_is_an_inner_value_too(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x) => (float[2,3,4] i, float[2,3,4] r, float[2,3,4] z)
        { r = Relu(x) i = Identity(r) z = Neg(r) }""",
    )
    unchanged(source, {"x": X})
    assert source.graph.nodes[0].outputs == ("i",)


def test_unsorted_dead_and_identity(tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD.format(17)
        + """g (float[2,3,4] x) => (float[2,3,4] y)
        { a = Relu(x) b = Identity(a) c = Neg(b) dead = Exp(c) y = Add(c, a) }"""
    )
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    source = loaded(tmp_path, model)
    assert ops(source) == ["Relu", "Neg", "Add"]
    assert source.graph.nodes[2].inputs == ("c", "a")
    assert source.node_count == 4


def test_initializers_that_are_inputs_and_trailing_absent_operands(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        'g (float[2,3,4] x, float[4] w) => (float[2,3,4] y) { a = Clip(x, "", "") y = Mul(a, w) }',
        w=np.ones(4, np.float32),
    )
    assert source.graph.inputs == ("x",)
    assert source.graph.nodes[0].inputs == ("x",)
    assert set(source.graph.weights) == {"w"}


def test_bodies_hold_no_weights_and_shadow_nothing(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x, bool p) => (float[2,3,4] y) <float[4] w = {1,2,3,4}> {
          t = Relu(x) v = Neg(x)
          y = If(p) <
            then_branch = a () => (float[2,3,4] o)
              { k = Constant<value_float=2.0>() i = Identity(t) m = Mul(i, k) o = Add(m, w) },
            else_branch = b () => (float[2,3,4] o)
              { k = Constant<value_float=3.0>() q = If(p) <
                  then_branch = c () => (float[2,3,4] u) { u = Mul(v, k) },
                  else_branch = d () => (float[2,3,4] u) { u = Identity(t) }> o = Identity(q) }
          > }""",
    )
    branch = source.graph.nodes[-1]
    first, second = (n for n in source.graph.weights if n != "w")
    assert branch.captured == ("t", first, "w", "p", "v", second)
    assert len(source.graph.weights) == 3
    for value in (True, False):
        unchanged(source, {"x": X, "p": np.array(value)})


def test_inner_names_are_made_unique(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["t"]), helper.make_node("Abs", ["t"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", 1, [2, 3, 4])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=body),
            helper.make_node("Relu", ["y"], ["t"]),
            helper.make_node("Exp", ["t"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 3, 4]), helper.make_tensor_value_info("p", 9, [])],
        [helper.make_tensor_value_info("z", 1, [2, 3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source = loaded(tmp_path, model)
    inner = source.graph.nodes[0].attrs["then_branch"]
    assert {n for node in inner.node for n in node.output}.isdisjoint({"t", "z"})
    onnx.checker.check_model(rebuild.model(source))


def test_a_loop_whose_body_passes_values_through(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x, int64 n, bool p) => (float[2,3,4] y, float[?,2,3,4] z) {
          y, z = Loop(n, p, x) <body = b (int64 i, bool c, float[2,3,4] v) =>
              (bool d, float[2,3,4] w, float[2,3,4] v2)
            { d = Identity(c) k = Constant<value_float=0.5>() w = Mul(v, k) v2 = Identity(w) }> }""",
    )
    unchanged(source, {"x": X, "n": np.array(3), "p": np.array(True)})


def test_functions_are_inlined(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2,3,4] x) => (float[2,3,4] y) { t = local.twice(x) y = local.twice(t) }
        <opset_import: ["" : 17], domain: "local">
        twice (a) => (b) { k = Constant<value_float=2.0>() b = Mul(a, k) }""",
    )
    assert ops(source) == ["Mul", "Mul"]
    unchanged(source, {"x": X})


def test_large_weights_are_left_in_the_file(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        "g (float[2,3,64] x) => (float[2,3,64] y) { y = MatMul(x, w) }",
        w=np.eye(64, dtype=np.float32),
    )
    assert isinstance(source.graph.weights["w"].data, Extent)


def test_metadata_opsets_and_files(tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD.format(17).replace('""', '"ai.onnx"') + "g (float[2] x) => (float[2] y) {y=Relu(x)}"
    )
    helper.set_model_props(model, {"who": "me"})
    source = loaded(tmp_path, model)
    assert (dict(source.opsets), dict(source.metadata)) == ({"": 17}, {"who": "me"})
    assert source.files[0].endswith("model.onnx")


# --------------------------------------------------------------------------- invalid files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g (float[2] x) => (float[2] y) { y = Add(x, nowhere) }", "'nowhere', which nothing defines"),
        ("g (float[2] x) => (float[2] z) { y = Relu(x) }", "graph output 'z'"),
        ("g (float[2] x) => (float[2] y) { y = Relu(x) y = Neg(x) }", "'y' is defined twice"),
        ("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Neg(b) }", "depends on its own"),
        ("g (float[2] x) => (float[2] y) { a = Identity(b) b = Identity(a) y = Add(a, x) }", "Identity"),
        ("g (float[2] x) => (float[2] y) { y = Frobnicate(x) }", "does not have"),
        ("g (float[2] x) => (float[2] y) { y = Gelu(x) }", "opset 17 does not have"),
        ("g (float[2] x) => (float[2] y) { y = Upsample(x, x) }", "no longer has"),
        ("g (float[2] x) => (float[2] y) { y = Relu(x, x) }", "2 inputs, the operator takes 1"),
        ("g (float[2] x) => (float[2] y) { y = Relu<alpha=1.0>(x) }", "'alpha'"),
        ("g (float[2] x) => (float[2] y) { y = LeakyRelu<alpha=1>(x) }", "is INT and should be FLOAT"),
        ("g (float[2] x) => (float[2] y) { y = Cast(x) }", "lacks the attribute 'to'"),
        ("g (float[2] x) => (float[2] y) { y = Constant() }", "0 attributes"),
        ("g (float[2] x) => (float[2] y, float[2] y) { y = Relu(x) }", "listed twice"),
    ],
)
def test_invalid_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileFault) as caught:
        loaded(tmp_path, text)
    assert said in caught.value.message
    assert "model.onnx" in caught.value.message
    assert caught.value.hint


def test_a_body_that_reads_what_nothing_defines(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="'ghost'"):
        loaded(
            tmp_path,
            """g (float[2] x, bool p) => (float[2] y) { y = If(p) <
            then_branch = a () => (float[2] o) { o = Neg(ghost) },
            else_branch = b () => (float[2] o) { o = Neg(x) }> }""",
        )


def test_unknown_domains_are_accepted(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """<ir_version: 8, opset_import: ["" : 17, "my.own" : 3]>
        g (float[2] x) => (float[2] y) { y = my.own.Thing<a=1, b="s">(x) }""",
    )
    assert source.graph.nodes[0].key == "my.own.Thing"


# --------------------------------------------------------------------------- types


def test_inference_fills_every_value(tmp_path: Path) -> None:
    source = infer(
        loaded(
            tmp_path,
            """g (float[N,3,4] x) => (float[N,12] y)
            { s = Shape(x) z = Constant<value_int=0>() n = Gather(s, z) a = Constant<value_ints=[0]>()
              u = Unsqueeze(n, a) m = Constant<value_ints=[-1]>() t = Concat<axis=0>(u, m)
              r = Reshape(x, t) y = Relu(r) }""",
        )
    )
    assert not unknown(source)
    assert source.graph.types["r"].dims is not None
    assert source.graph.types["r"].dims[0] == "N"
    assert source.graph.types["y"] == ValueType(TensorProto.FLOAT, ("N", 12))


def test_the_file_s_own_types_and_a_run_fill_gaps(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4] x) => (float[N,4] y) {hint} {{ h = com.microsoft.SampleOp(x) y = Relu(h) }}"""
    bare = loaded(tmp_path, text.format(hint=""))
    assert unknown(infer(bare)) == ("h",)
    assert resolve_claims(bare, observe.observed)[0].graph.types["h"].rank == 2
    hinted = infer(loaded(tmp_path, text.format(hint="<float[N,4] h>")))
    assert hinted.graph.types["h"].dims == ("N", 4)


# --------------------------------------------------------------------------- opsets


def test_sources_from_before_opset_7(tmp_path: Path) -> None:
    """Refused where they can't be raised, in a body too; others are raised when they are matched."""
    plain = loaded(tmp_path, "g (bool[2] x, bool[2] y) => (bool[2] z) { z = And(x, y) }", 7)
    assert plain.opsets[""] == 7
    assert opset.align([plain])[0].opsets[""] == 17
    old = "y = BatchNormalization(x, s, s, s, s)"
    inside = f"y = If(p) <then_branch = t () => (float[2,3,4] y) {{ {old} }}, else_branch = e () => "
    inside += "(float[2,3,4] y) { y = Neg(x) }>"
    for body in (old, inside):
        text = f"g (float[2,3,4] x, bool p) => (float[2,3,4] y) <float[3] s = {{1,2,3}}> {{ {body} }}"
        with pytest.raises(FileFault, match=r"has opset 6, and .* training mode"):
            loaded(tmp_path, text, 6)


CONVERTED = [
    (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=1>(x) }"),
    (11, "g (float[2,3,N] x) => (float[2,3,N] y) { y = LogSoftmax<axis=-1>(x) }"),
    (11, "g (float[2,3,4] x) => (float[2,1,4] y) { y = ReduceSum<axes=[1]>(x) }"),
    (11, "g (float[2,3,4] x) => (float[2,1,4] a, float[2,2,4] b) { a, b = Split<axis=1,split=[1,2]>(x) }"),
    (11, "g (float[2,3,4] x) => (float[2,1,3,4] y) { y = Unsqueeze<axes=[1]>(x) }"),
    (9, "g (float[2,3,4] x) => (float[2,2,4] y) { y = Slice<axes=[1],starts=[1],ends=[3]>(x) }"),
    (9, "g (float[2,3,4] x) => (float[2,3,2] v, int64[2,3,2] i) { v, i = TopK<k=2,axis=2>(x) }"),
    (10, "g (float[2,3,4] x) => (float[2,3,6] y) { y = Pad<pads=[0,0,1,0,0,1],value=1.5>(x) }"),
    (10, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Clip<min=-0.5,max=0.5>(x) }"),
    (13, "g (float[2,3,4] x) => (float[2,3,4] y) <float[3] s = {1,2,3}> "
         "{ y = BatchNormalization<epsilon=0.1>(x,s,s,s,s) }"),
]  # fmt: skip


@pytest.mark.parametrize(("version", "text"), CONVERTED)
def test_conversion_to_17_computes_the_same(tmp_path: Path, version: int, text: str) -> None:
    result = unchanged(loaded(tmp_path, text, version), {"x": X}, 17)
    assert result.opsets == {"": 17}


def test_conversion_keeps_large_weights_where_they_are(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        "g (float[2,3,4] x) => (float[2,1,3,300] y) { u = Unsqueeze<axes=[1]>(x) y = MatMul(u, w) }",
        11,
        w=np.random.default_rng(1).standard_normal((4, 300)).astype(np.float32),
    )
    result = unchanged(source, {"x": X}, 17)
    assert result.graph.weights["w"] == source.graph.weights["w"]
    assert result.graph.inputs == ("x",)


def test_conversion_reaches_into_bodies(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """g (float[2,3,4] x, bool p) => (float[2,3,4] y) { y = If(p) <
          then_branch = a () => (float[2,3,4] o) { u = Unsqueeze<axes=[0]>(x) o = Squeeze<axes=[0]>(u) },
          else_branch = b () => (float[2,3,4] o) { o = Softmax<axis=1>(x) }> }""",
        11,
    )
    for value in (True, False):
        unchanged(source, {"x": X, "p": np.array(value)}, 17)


def test_what_no_newer_opset_has_stays(tmp_path: Path) -> None:
    """The nearest pixel of Resize 10 depends on its scales."""
    text = "g (float[1,1,2,2] x, float[4] s) => (float[1,1,4,4] y) { y = Resize(x, s) }"
    source = loaded(tmp_path, text, 10)
    with pytest.raises(NotEquivalent, match="its scales are computed"):
        opset.convert(source, 17)
    assert opset.align([source])[0].opsets[""] == 10
    plain = loaded(tmp_path, text.replace("Resize(x, s)", "Relu(x)"), 16)
    with pytest.raises(NotEquivalent, match="opsets differ"):
        opset.align([source, plain])


def test_contrib_operators_are_raised_with_the_others(tmp_path: Path) -> None:
    source = loaded(
        tmp_path,
        """<ir_version: 8, opset_import: ["" : 11, "com.microsoft" : 1]>
        g (float[2,3,4] x) => (float[2,3,4] y) { h = com.microsoft.Gelu(x) y = Softmax<axis=1>(h) }""",
    )
    assert unchanged(source, {"x": X}, 17).opsets == {"": 17, "com.microsoft": 1}
