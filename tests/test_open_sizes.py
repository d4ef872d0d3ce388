"""Sizes of open dims at run time: which tensor tells them, and that each shape is made once."""

import pytest

from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.errors import InternalError
from netfuse_onnx.layouts import FOLDED, PER_MODEL, ROWS, SHARED, STACKED


def emitter(opset=17):
    return Emitter("g", 3, opset, {}, ())


def read(emit):
    """The tensor, start and end of each Shape that was emitted."""
    nodes = [node for node in emit.graph.nodes if node.op == "Shape"]
    return [(node.inputs[0].name, node.attrs["start"], node.attrs["end"]) for node in nodes]


def test_a_shape_is_made_once():
    emit = emitter()
    emit.sizes.learn(emit.input("x"), STACKED(0), ("B", "S", 4), 3)
    assert emit.shape([3, "B", "S", 4]) is emit.shape([3, "B", "S", 4])
    emit.shape([3, "S", -1])
    assert read(emit) == [("x", 1, 2), ("x", 2, 3)]
    assert [node.op for node in emit.graph.nodes] == ["Shape", "Shape", "Concat", "Concat"]
    assert len(emit.sizes.nodes) == 4


def test_a_tensor_of_all_models_is_asked_before_one_of_a_single_model():
    """The joins have compared the sizes of the former."""
    emit = emitter()
    parts = tuple(emit.input(f"m{m}") for m in range(3))
    emit.sizes.learn(parts, PER_MODEL, ("B", "S"), 3)
    emit.sizes.learn(emit.input("x"), FOLDED(0), ("B", "S"), 3)
    emit.sizes.learn(emit.input("y"), SHARED, ("S", "T"), 3)
    emit.shape(["B", "S", "T"])
    assert read(emit) == [("m0", 0, 1), ("x", 1, 2), ("y", 1, 2)], "no axis of x is B long"


def test_rows_tell_one_size():
    emit = emitter()
    emit.sizes.learn(emit.input("x"), ROWS, (2, "S", 5, "D"), 3)
    emit.shape(["S", "D"])
    assert [node.op for node in emit.graph.nodes] == ["Shape", "Div", "Shape", "Concat"]
    assert read(emit) == [("x", 1, 2), ("x", 2, 3)]
    emit.sizes.learn(emit.input("y"), ROWS, ("B", "C", 4), 3)
    with pytest.raises(InternalError, match="no tensor tells the size B"):
        emit.shape(["B"])


def test_a_body_has_symbols_of_its_own():
    """Inference counts the symbols that it makes up from 0 in each graph."""
    emit = emitter()
    emit.sizes.learn(emit.input("x"), SHARED, ("unk__0",), 3)
    with pytest.raises(InternalError, match="no tensor tells the size"):
        emit.child("body", {}).shape(["unk__0", 2])


def test_static_sizes_are_constants():
    emit = emitter()
    assert emit.shape([3, -1, 4]) is emit.const([3, -1, 4]) and not emit.graph.nodes
