"""Recurrent operators: shared weights join the batch, weights of its own keep each model apart."""

import onnx
import pytest
from oracle import as_models, check, draw, every_merge, family, graph

OPS = ("GRU", "LSTM", "RNN")
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def drawn(model):
    """Small numbers, so that nothing saturates, and lengths of 1 to 4."""
    values = draw(model, 3, sizes={"B": 3}, low=-1, high=1)
    if "n" in values:
        values["n"] = draw(model, 3, sizes={"B": 3}, low=1, high=4)["n"]
    return values


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("extra", [False, True])
def test_recurrent(op, direction, extra, tmp_path):
    sides, wide = 1 + (direction == "bidirectional"), GATES[op] * 3
    text = f"float[4,B,2] x, float[{sides},{wide},2] w, float[{sides},{wide},3] r"
    names = ["x", "w", "r"]
    if extra:
        text += f", float[{sides},{2 * wide}] b, int32[B] n, float[{sides},B,3] h"
        names += ["b", "n", "h"]
        if op == "LSTM":
            text += f", float[{sides},B,3] c, float[{sides},9] p"
            names += ["c", "p"]
    outs = "y, h1, c1" if op == "LSTM" else "y, h1"
    model = graph(text, f'{outs} = {op}<hidden_size = 3, direction = "{direction}">({", ".join(names)})')
    weights = {name: kind for name in names if name in "wrbp" for kind in ["shared weight"]}
    states = [name for name in names if name in "nhc"]
    for x, state in (
        ("input", "input"),
        ("input", "shared input"),
        ("shared input", "input"),
        ("weight", "weight"),
    ):
        if extra or x != "shared input":
            values = drawn(model)
            role = {"x": x, **weights, **dict.fromkeys(states, state)}
            check(model, values, role, tmp_path)
    values = drawn(model)
    role = {"x": "input", **dict.fromkeys(weights, "weight"), **dict.fromkeys(states, "input")}
    check(model, values, role, tmp_path, reason="one set of weights")


@pytest.mark.parametrize("layout", [0, 1])
def test_states_of_another_batch_fail(layout, tmp_path):
    """CUDA does not compare their batch with that of the sequences, and a model would read the next one's. A
    Reshape to the batch of the sequences fails everywhere."""
    x, h = ("B,4,2", "C,1,3") if layout else ("4,B,2", "1,C,3")
    text = f"float[{x}] x, float[1,3,2] w, float[1,3,3] r, int32[D] n, float[{h}] h"
    model = graph(text, f'y, z = RNN<hidden_size = 3, layout = {layout}>(x, w, r, "", n, h)')
    sizes = dict.fromkeys("BCD", 2)
    values = draw(model, 3, sizes=sizes, low=-1, high=1)
    values["n"] = draw(model, 3, sizes=sizes, low=1, high=4)["n"]
    role = {"x": "input", "w": "shared weight", "r": "shared weight", "n": "input", "h": "input"}
    if not layout:  # ONNX Runtime's CPU provider has no other
        check(model, values, role, tmp_path)
    corr = family(as_models(model, values, role, tmp_path))
    _, merged, _ = next(every_merge(corr, role, "stacked"))
    nodes = onnx.load_from_string(merged).graph.node
    made = {name: node.op_type for node in nodes for name in node.output}
    (read,) = [node.input for node in nodes if node.op_type == "RNN"]
    assert [made[read[i]] for i in (4, 5)] == ["Reshape", "Reshape"]
    assert any(node.op_type == "Concat" for node in nodes), "the size is computed, not copied"
