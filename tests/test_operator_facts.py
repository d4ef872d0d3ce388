"""The facts about operators: the table of traits, walks through nested graphs, and how two types become one."""

from __future__ import annotations

import onnx
import pytest
from onnx import defs

from netfuse_onnx.ops import kinds, schemas, traits, walk
from netfuse_onnx.types import Node, ValueType

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[n] x) => (float[n] y) {
    a = Abs(x)
    y = If(c) <then_branch = t () => (float[n] u) { b = Neg(a)  u = If(c)
        <then_branch = tt () => (float[n] v) { v = Exp(b) },
         else_branch = te () => (float[n] w) { w = Identity(x) }> },
      else_branch = e () => (float[n] z) { z = RandomNormalLike(x) }>
}"""


def the_if() -> Node:
    return walk.node_of(onnx.parser.parse_model(TEXT).graph.node[1])


def test_every_row_is_of_an_operator_that_exists() -> None:
    known = {schema.name for schema in defs.get_all_schemas_with_history()}
    for key in traits.TRAITS:
        domain, _, op = key.rpartition(".")
        assert op in known if not domain else schemas.input_count(key) is not None, key


@pytest.mark.parametrize("key", sorted(traits.TRAITS))
def test_a_row_names_inputs_that_the_operator_has(key: str) -> None:
    domain, _, op = key.rpartition(".")
    row = traits.of(key)
    places = (
        *row.steered,
        *row.sizes,
        *(place for held in row.indices for place in (held.place, held.table)),
    )
    since = max((s.max_input for s in defs.get_all_schemas_with_history() if s.name == op), default=0)
    most = since if not domain else len(schemas.input_names(op, domain, 1))
    assert all(place < most for place in places)
    assert set(row.sizes) <= set(row.steered)
    assert not row.same_scale or row.moves or op == "MaxPool"


def test_a_row_holds_in_every_domain_that_has_none_of_its_own() -> None:
    assert traits.of("com.microsoft.Unique") is traits.of("Unique")
    assert traits.of("RotaryEmbedding").indices != traits.of("com.microsoft.RotaryEmbedding").indices
    assert traits.of("my.own.Operator") == traits.Traits()


def test_what_steers_a_shape_depends_on_what_is_there() -> None:
    assert traits.steers("Resize", ("x", "", "s"), {}) == (2,)
    assert traits.steers("Resize", ("x", "", "", "n"), {}) == (3,)
    assert traits.steers("DFT", ("x",), {}) == ()
    assert traits.steers("DFT", ("x", "n"), {}) == (1, 2)


def test_random_numbers_in_a_body_count() -> None:
    node = the_if()
    assert traits.random(node) and traits.has_bodies(node)
    assert not traits.random(Node("Abs", "", "", ("x",), ("y",), {}))
    assert not traits.has_bodies(Node("If", "my.own", "", ("x",), ("y",), {}))


def test_walks_go_all_the_way_in() -> None:
    graph = onnx.parser.parse_model(TEXT).graph
    ops = [node.op_type for node in walk.nodes(graph)]
    assert ops == ["Abs", "If", "Neg", "If", "Exp", "Identity", "RandomNormalLike"]
    assert [inner.name for inner in walk.graphs(graph)] == ["g", "t", "tt", "te", "e"]
    assert sorted(walk.defined(graph)) == sorted("cxaybuvwz")
    assert walk.count(graph) == 6
    assert the_if().captured == ("a", "c", "x")


def test_a_node_with_changed_bodies_leaves_the_old_ones_alone() -> None:
    node = the_if()
    changed = walk.with_bodies(node, lambda body: walk.rename(body, str.upper))
    inner = walk.bodies_of(changed.attrs)["then_branch"]
    assert sorted(walk.defined(inner)) == sorted("BUVW")
    assert sorted(walk.defined(walk.bodies_of(node.attrs)["then_branch"])) == sorted("buvw")
    plain = Node("Abs", "", "", ("x",), ("y",), {"k": 1})
    assert walk.with_bodies(plain, lambda body: None) is plain
    assert walk.without_bodies(changed.attrs) == {}


def test_types_come_back_from_their_protos() -> None:
    for kind in (ValueType(1, (2, "n", None)), ValueType(1, ()), ValueType(7), ValueType()):
        assert kinds.of_proto(kinds.proto(kind)) == kind
    sequence = onnx.helper.make_sequence_type_proto(kinds.proto(ValueType(1, (2,))))
    assert kinds.of_proto(sequence).proto == sequence
    assert kinds.of_proto(onnx.helper.make_tensor_type_proto(1, [-1, ""])) == ValueType(1, (None, None))


def test_two_true_accounts_know_more_together() -> None:
    assert kinds.both(ValueType(1, (2, "n")), ValueType(0, ("b", "m"))) == ValueType(1, (2, "m"))
    assert kinds.both(ValueType(1), ValueType(1, (None,))) == ValueType(1, (None,))
    assert kinds.both(ValueType(1, (3,)), ValueType(1, (4,))) == ValueType(1, (4,))


def test_a_claim_fills_what_inference_left_open() -> None:
    assert kinds.filled(ValueType(1, (2, "unk__0", None)), ValueType(1, (5, 6, "n"))) == ValueType(
        1, (2, 6, "n")
    )
    assert kinds.filled(ValueType(), ValueType(1, ("n",))) == ValueType(1, ("n",))


def test_what_two_inputs_accept_is_the_narrower() -> None:
    assert kinds.accepted(ValueType(1, ("n", "m")), ValueType(1, (4, "k"))) == ValueType(1, (4, "m"))
    assert kinds.accepted(ValueType(1), ValueType(1, (4, "k"))) == ValueType(1, (4, None))
    assert kinds.accepted_dims((2, "n"), (3,)) == (2, "n")
