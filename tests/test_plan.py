"""The plan is the cheapest one: against brute force over every combination of lowerings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from netfuse_onnx.layouts import FOLDED, PER_MODEL, ROWS, SHARED
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.ops import traits
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.costs import cost as cost_for
from netfuse_onnx.plan.targets import NAMES
from netfuse_onnx.types import Became, Correspondence, Lowering, Node, ValueType

SHAPE = [2, 4, 3, 3]  # every value of the random graphs has this shape, so that any edge is legal
STEPS = ("Relu", "Conv", "Add", "Softmax", "Transpose", "Concat", "MatMul", "LSTMish")


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """A random graph: steps (operator, first operand, second operand), operands counted backwards, so
    that values with several consumers that want different layouts are common."""
    count = draw(st.integers(1, 6))
    return [
        (draw(st.sampled_from(STEPS)), draw(st.integers(0, i)), draw(st.integers(0, i))) for i in range(count)
    ]


def family(steps: list[tuple[str, int, int]], folder, models: int) -> Correspondence:  # type: ignore[no-untyped-def]
    paths = []
    for m in range(models):
        rng = np.random.default_rng(m)
        nodes, weights, values = [], [], ["x"]
        for k, (op, a, b) in enumerate(steps):
            left, right, out = values[a], values[b], f"v{k}"
            if op == "Conv":
                weights.append(
                    numpy_helper.from_array(rng.standard_normal((4, 4, 1, 1)).astype("f"), f"w{k}")
                )
                nodes.append(helper.make_node("Conv", [left, f"w{k}"], [out], name=f"n{k}"))
            elif op == "MatMul":
                weights.append(numpy_helper.from_array(rng.standard_normal((3, 3)).astype("f"), f"w{k}"))
                nodes.append(helper.make_node("MatMul", [left, f"w{k}"], [out], name=f"n{k}"))
            elif op == "Concat":  # two halves of the channels, joined again
                nodes.append(helper.make_node("Split", [left], [f"p{k}", f"q{k}"], axis=1, num_outputs=2))
                nodes.append(helper.make_node("Concat", [f"q{k}", f"p{k}"], [out], axis=1, name=f"n{k}"))
            elif op == "LSTMish":  # an operator that is replicated
                nodes.append(helper.make_node("Mystery", [left], [out], name=f"n{k}", domain="test.custom"))
            else:
                extra = {"Softmax": {"axis": 1}, "Transpose": {"perm": [0, 1, 3, 2]}}.get(op, {})
                ins = [left, right] if op == "Add" else [left]
                nodes.append(helper.make_node(op, ins, [out], name=f"n{k}", **extra))
            values.append(out)
        info = [helper.make_tensor_value_info(v, TensorProto.FLOAT, SHAPE) for v in values]
        graph = helper.make_graph(nodes, "g", info[:1], info[-1:], weights, value_info=info[1:-1])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("test.custom", 1)]
        path = folder / f"m{m}.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
        paths.append(path)
    sources = [load(str(path)) for path in paths]
    return match([infer(sources[0]), *sources[1:]], [path.stem for path in paths])


def price(
    corr: Correspondence, found: planning.Candidates, chosen: tuple[Lowering, ...], cost: Cost
) -> float:
    """The plan's cost, written down plainly: each node, and each (value, layout) that is not as made."""
    total, made, wanted = 0.0, dict(found.inputs), set()
    for node, site, low in zip(corr.graph.nodes, found.sites, chosen, strict=True):
        total += cost.lowering(low, site)
        for name, take in zip(node.reads, low.takes, strict=True):
            if name:
                wanted.add((name, take))
        made.update(zip(node.outputs, low.gives, strict=True))
    wanted |= {(name, end) for name, end in found.ends.items() if end != SHARED and name not in corr.weights}
    for name, layout in wanted:
        parts = corr.weights.get(name, ())
        if not parts:
            total += cost.conversion(made[name], layout, corr.graph.types.get(name, ValueType()), name)
        elif len(parts) == 1 and layout not in (SHARED, PER_MODEL):
            total += cost.repeated(parts[0])
    return total


TARGETS = ("generic", *NAMES)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from([2, 3]), st.sampled_from(["separate", "stacked"]), st.sampled_from(TARGETS))
def test_no_combination_is_cheaper(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int]],
    models: int,
    io: str,
    chosen_for: str,
) -> None:
    corr = family(steps, tmp_path_factory.mktemp("plan"), models)
    cost = cost_for(chosen_for, corr, {})
    found = planning.candidates(corr, io=io, share=frozenset(), cost=cost)
    assume(math.prod(len(offers) for offers in found.options) <= 5000)
    plan = planning.plan(corr, io=io, cost=cost)
    best = min(price(corr, found, chosen, cost) for chosen in itertools.product(*found.options))
    assert plan.exact
    assert plan.cost == pytest.approx(price(corr, found, plan.lowerings, cost))
    assert plan.cost == pytest.approx(best)


def test_convolutions_are_grouped_and_products_batched(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = planning.plan(
        family([("Conv", 0, 0), ("Relu", 1, 0), ("Conv", 2, 0), ("MatMul", 3, 0)], tmp_path, 2)
    )
    conv, relu, again, product = plan.lowerings
    assert conv.became is again.became is Became.GROUPED
    assert relu.gives == (FOLDED(1),), "between two convolutions nothing moves"
    assert product.takes[0] == ROWS, "one matrix for each model"


def test_replicated_operators_stay_per_model_between_each_other(tmp_path) -> None:  # type: ignore[no-untyped-def]
    corr = family([("LSTMish", 0, 0), ("LSTMish", 1, 0)], tmp_path, 3)
    first, second = planning.plan(corr).lowerings
    assert first.gives == second.takes == (PER_MODEL,)
    assert "test.custom.Mystery" in first.reason


RAGGED = {
    "com.microsoft.CDist": False,
    "com.microsoft.Tokenizer": True,
    "com.microsoft.ExpandDims": True,
    "ai.onnx.ml.Scaler": False,
    "my.own.Relu": True,
    "StringNormalizer": True,
    "Unique": True,
    "Relu": False,
    "Reshape": True,
}


@pytest.mark.parametrize("key", RAGGED)
def test_whose_shapes_follow_values(key: str) -> None:
    """Operators of ONNX Runtime that are not named give shapes that follow from shapes; others may not."""
    domain, _, op = key.rpartition(".")
    node = Node(op, domain, "", ("x", "s"), ("y",), {})
    assert traits.ragged(node, {"x", "s"}, set()) is RAGGED[key]
    assert traits.ragged(node, {"x", "s"}, {"x"})


def test_an_input_that_blocks_batching_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 4] x, bool flag) => (float[n, 4] y) {
        y = If (flag) <then_branch = t () => (float[n, 4] a) { a = MatMul(x, w) },
                       else_branch = e () => (float[n, 4] b) { b = Relu(x) }>
    }"""
    paths = []
    for m in range(2):
        model = parser.parse_model(text)
        weight = np.full((4, 4), m + 1, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        paths.append(tmp_path / f"m{m}.onnx")
        paths[-1].write_bytes(model.SerializeToString())
    corr = match([load(str(path)) for path in paths], ["a", "b"])
    apart = planning.plan(corr)
    assert apart.lowerings[0].became is Became.REPLICATED
    assert apart.notes == ("--share-input flag would batch 1 of the 1 replicated operators.",)
    inside = planning.plan(corr, share=frozenset({"flag"}))
    assert inside.lowerings[0].became is Became.BATCHED
    assert inside.notes == ()
