"""A single edit of one of two sources that are spelled differently is refused and named, or it is no difference
that the merged model lacks: then both proofs hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import save
from formed_graphs import graph
from onnx import ModelProto, numpy_helper
from test_normal_forms import runnable

import netfuse_onnx
from netfuse_onnx.errors import FileFault, NetfuseError, NotEquivalent
from netfuse_onnx.load import opset, spelled
from netfuse_onnx.load.loader import load
from netfuse_onnx.storage import weights

SWAPPED = {
    "Add": "Mul", "Mul": "Add", "Sub": "Div", "Div": "Sub", "Relu": "Sigmoid", "Sqrt": "Abs", "Erf": "Tanh", "Tanh": "Erf",
    "Gelu": "Relu", "HardSwish": "Relu", "Min": "Max", "Max": "Min", "Sigmoid": "Tanh", "Reciprocal": "Neg",
    "GlobalAveragePool": "GlobalMaxPool", "ReduceMean": "ReduceMax",
}  # fmt: skip


def other_spelling(model: ModelProto, folder: Path, rng: np.random.Generator) -> ModelProto:
    """The model in the one spelling, with other weights."""
    source = opset.align([load(save(folder / "given.onnx", model))])[0]
    (spelling,) = spelled.of_family([source])
    proto = ModelProto.FromString(runnable(spelling.source))
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(weights.proto(spelling.source.graph.weights[tensor.name], tensor.name))
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and values.size > 4:
            moved = (values * rng.uniform(0.8, 1.2, values.shape)).astype(values.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return proto


def edited(model: ModelProto, rng: np.random.Generator) -> str:
    """Change one thing of a model, in place; '' where there is nothing to change in that way."""
    nodes, tensors = list(model.graph.node), list(model.graph.initializer)
    node = nodes[int(rng.integers(len(nodes)))]
    match int(rng.integers(5)):
        case 0 if node.op_type in SWAPPED:
            node.op_type = SWAPPED[node.op_type]
            return f"operator {node.op_type}"
        case 1 if node.attribute:
            attribute = node.attribute[int(rng.integers(len(node.attribute)))]
            _change(attribute, rng)
            return f"attribute {attribute.name} of {node.op_type}"
        case 2:
            names = [name for other in nodes[: nodes.index(node)] for name in other.output] + ["x"]
            node.input[int(rng.integers(len(node.input)))] = names[int(rng.integers(len(names)))]
            return f"an edge of {node.op_type}"
        case 3 if tensors:
            tensor = tensors[int(rng.integers(len(tensors)))]
            values = np.atleast_1d(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([values, values[:1]]), tensor.name))
            return f"the shape of {tensor.name}"
        case 4 if tensors:
            tensor = tensors[int(rng.integers(len(tensors)))]
            values = numpy_helper.to_array(tensor)
            off = 1 if values.dtype.kind == "i" else rng.choice([0.01, 1.0, 1e-3])
            tensor.CopyFrom(
                numpy_helper.from_array(np.asarray(values + np.asarray(off, values.dtype)), tensor.name)
            )
            return f"the values of {tensor.name}"
    return ""


def _change(attribute: onnx.AttributeProto, rng: np.random.Generator) -> None:
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i += int(rng.choice([-1, 1]))
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f *= float(rng.choice([1.01, 2.0]))
    elif attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] += 1
    elif attribute.s:
        attribute.s = b"reflect" if attribute.s == b"constant" else b"tanh"


def outcome(seed: int, folder: Path, edit: bool = True) -> str:
    """The outcome of merging a model with its other spelling, of which one thing was changed."""
    rng = np.random.default_rng(seed)
    model, _ = graph(seed)
    try:
        other = other_spelling(model, folder, rng)
        told = edited(other, rng) if edit else "nothing"
        if not told:
            return "no edit"
        paths = [save(folder / "one.onnx", model), save(folder / "two.onnx", other)]
        netfuse_onnx.merge(paths, str(folder / "out.onnx"))
    except NotEquivalent as error:
        named = any(word in error.message for word in ("differ", "opset", "number"))
        return "refused" if named else f"InternalError: not named: {error.message}"
    except FileFault:
        return "not valid"
    except NetfuseError as error:
        return f"{type(error).__name__} ({told}): {error.message}"
    return "merged"


def tried(seeds: range, folder: Path, edit: bool = True) -> Counter[str]:
    found = Counter(outcome(seed, folder, edit) for seed in seeds)
    wrong = {
        text: count for text, count in found.items() if "ValuesDiffer" in text or "InternalError" in text
    }
    assert not wrong, wrong
    return found


def test_two_spellings_of_random_graphs_merge(tmp_path: Path) -> None:
    found = tried(range(40), tmp_path, edit=False)
    assert found["merged"] >= 25, found


def test_single_edits_are_refused_or_proven(tmp_path: Path) -> None:
    found = tried(range(100, 200), tmp_path)
    assert found["refused"] >= 40, found


@pytest.mark.slow
def test_many_single_edits_are_refused_or_proven(tmp_path: Path) -> None:
    found = tried(range(10_000, 12_600), tmp_path)
    assert found["refused"] + found["merged"] >= 1500, found
