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
    if extra:
        values = drawn(model)
        role = {"x": "input", **dict.fromkeys(weights, "weight"), **dict.fromkeys(states, "input")}
        check(model, values, role, tmp_path, reason="unequal lengths")


# --------------------------------------------------------------------------- weights of its own


def recurrent(op, steps="1", direction="forward", attrs="", names=("b", "h", "c"), outs=None, batch="B"):
    """A node with inputs I = 2 and a state H = 3, and optional inputs of these names."""
    sides, wide = 1 + (direction == "bidirectional"), GATES[op] * 3
    kinds = {
        "x": f"float[{steps},{batch},2]", "w": f"float[{sides},{wide},2]", "r": f"float[{sides},{wide},3]",
        "b": f"float[{sides},{2 * wide}]", "n": f"int32[{batch}]", "h": f"float[{sides},{batch},3]",
        "c": f"float[{sides},{batch},3]", "p": f"float[{sides},9]",
    }  # fmt: skip
    order = ["x", "w", "r", "b", "n", "h", *(["c", "p"] if op == "LSTM" else [])]
    there = ["x", "w", "r", *(name for name in order if name in names)]
    outs = outs or ("y, h1, c1" if op == "LSTM" else "y, h1")
    read = ", ".join(name if name in there else "" for name in order).rstrip(", ")
    settings = f'hidden_size = 3, direction = "{direction}"{attrs}'
    return graph(", ".join(f"{kinds[n]} {n}" for n in there), f"{outs} = {op}<{settings}>({read})")


ON_CPU = {"1": (), "4": ("written_out", "written_out_scan"), "T": ("written_out_scan",)}
"""The rules that are on offer to a plan that measures on a CPU, by the number of steps."""


def own_weights(
    model, tmp_path, steps="1", state="input", shared=(), io="separate", models=3, size=3, **roles
):
    """Merge models that differ in all weights but those that are `shared`."""
    values = draw(model, models, sizes={"B": size, "T": 4}, low=-1, high=1)
    role = {
        name: state if name in "hc" else "input" if name == "x" else "weight" for name in values
    } | dict.fromkeys(shared, "shared weight")
    more = {} if steps == "1" else {"reason": "one set of weights", "unless": ON_CPU[steps]}
    check(model, values, role | roles, tmp_path, io=io, **more)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("steps", ON_CPU)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("names", [(), ("b", "h", "c")], ids=["bare", "states"])
def test_weights_of_its_own(op, steps, direction, names, tmp_path):
    model = recurrent(op, steps, direction, names=names)
    own_weights(model, tmp_path, steps)
    own_weights(model, tmp_path, steps, io="stacked", x="shared input", state="shared input", models=2)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("steps", ON_CPU)
def test_some_weights_are_shared(op, steps, tmp_path):
    """Every weight may be the only one that differs, or the only one that does not."""
    model = recurrent(op, steps)
    for name in "wrb":
        own_weights(model, tmp_path, steps, shared=[name])
        own_weights(model, tmp_path, steps, shared=set("wrb") - {name}, state="weight")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("steps", ["1", "2", "3"])
@pytest.mark.parametrize("batch", ["1", "2", "3"])
def test_models_are_as_many_as_steps_or_batch(op, steps, batch, tmp_path):
    model = recurrent(op, steps, "bidirectional", batch=batch)
    for models in (2, 3):
        own_weights(model, tmp_path, "1" if steps == "1" else "4", models=models)


@pytest.mark.parametrize("steps", ON_CPU)
@pytest.mark.parametrize("outs", ["y", '"", h1', '"", "", c1', '"", h1, c1'])
def test_absent_outputs(steps, outs, tmp_path):
    own_weights(recurrent("LSTM", steps, outs=outs), tmp_path, steps)


SETTINGS = [
    ("LSTM", ", input_forget = 1", ("b", "h", "c")),
    ("LSTM", "", ("b", "h", "c", "p")),
    ("LSTM", ", input_forget = 1", ("h", "c", "p")),
    ("LSTM", ", clip = 0.3", ("b", "h", "c", "p")),
    ("GRU", ", linear_before_reset = 1", ("b", "h")),
    ("GRU", ", linear_before_reset = 1", ("h",)),
    ("GRU", ", clip = 0.3", ("b", "h")),
    ("GRU", ", linear_before_reset = 1, clip = 0.3", ("b", "h")),
    ("RNN", ", clip = 0.3", ("b", "h")),
    ("RNN", ', activations = ["Relu"]', ("b", "h")),
    ("RNN", ', activations = ["Softsign"]', ("b", "h")),
    ("RNN", ', activations = ["Softplus"]', ("b", "h")),
    ("RNN", ', activations = ["LeakyRelu"], activation_alpha = [0.3]', ("b", "h")),
    ("RNN", ', activations = ["ThresholdedRelu"], activation_alpha = [0.2]', ("b", "h")),
    ("RNN", ', activations = ["Affine"], activation_alpha = [0.5], activation_beta = [0.2]', ("b", "h")),
    ("RNN", ', activations = ["ScaledTanh"], activation_alpha = [0.5], activation_beta = [2.0]', ("b", "h")),
    ("RNN", ', activations = ["Elu"]', ("b", "h")),
    ("GRU", ', activations = ["HardSigmoid", "Elu"], activation_alpha = [0.3, 0.7], activation_beta = [0.4]',
     ("b", "h")),
    ("LSTM", ', activations = ["HardSigmoid", "Relu", "Softsign"]', ("b", "h", "c")),
]  # fmt: skip


@pytest.mark.parametrize("steps", ON_CPU)
@pytest.mark.parametrize(("op", "attrs", "names"), SETTINGS)
def test_settings(op, attrs, names, steps, tmp_path):
    own_weights(recurrent(op, steps, attrs=attrs, names=names), tmp_path, steps)


def test_activations_of_two_directions(tmp_path):
    same = ', activations = ["Relu", "Relu"]'
    own_weights(recurrent("RNN", "1", "bidirectional", same), tmp_path)
    model = recurrent("RNN", "1", "bidirectional", ', activations = ["Relu", "Tanh"]')
    values = drawn(model)
    role = {name: "input" if name in "xh" else "weight" for name in values}
    check(model, values, role, tmp_path, reason="its directions have other activations")


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
