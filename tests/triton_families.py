"""Families of many forms, exported for Triton, and the inputs that tell their models apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from families import MLP, MLP_TEXT, model, save
from onnx import helper

import netfuse_onnx
from netfuse_onnx.deploy.triton import Options, export

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Form:
    """A family as ONNX text, with {m} for the number of a model. `shapes` are those of a request."""

    text: str
    shapes: Mapping[str, Sequence[int]]
    weights: Mapping[str, Sequence[int]] = field(default_factory=dict)
    opset: int = 17
    count: int = 3


FORMS = {
    "mlp": Form(MLP_TEXT, {"x": (3, 8)}, MLP),
    "fixed": Form(
        "g (float[1, 2, 4] x) => (float[1, 2, 3] y) { y = MatMul(x, w) }", {"x": (1, 2, 4)}, {"w": (4, 3)}
    ),
    "four": Form("g (float[4, 2] x) => (float[4, 3] y) { y = MatMul(x, w) }", {"x": (4, 2)}, {"w": (2, 3)}),
    "ragged": Form(
        "g (float[n, t, 4] x) => (float[n, t, 3] y) { y = MatMul(x, w) }", {"x": (2, 5, 4)}, {"w": (4, 3)}
    ),
    "scalar": Form(
        "g (float[n, 4] x, float s) => (float[n, 3] y) { h = MatMul(x, w) y = Mul(h, s) }",
        {"x": (2, 4), "s": ()},
        {"w": (4, 3)},
    ),
    "summed": Form(
        "g (float[n, 4] x, float s) => (float y) { h = Mul(x, w) u = Mul(h, s) y = ReduceSum<keepdims = 0>(u) }",
        {"x": (2, 4), "s": ()},
        {"w": (4,)},
    ),
    "table": Form(
        "g (float[n, 4] x, float[5, 4] t) => (float[n, 5] y) { h = Mul(x, w) u = Transpose(t) y = MatMul(h, u) }",
        {"x": (2, 4), "t": (5, 4)},
        {"w": (4,)},
    ),
    "labels": Form(
        "g (float[n, 4] x) => (int64[n] label, float[n, 3] p) { p = MatMul(x, w) label = ArgMax<axis = 1, keepdims = 0>(p) }",
        {"x": (6, 4)},
        {"w": (4, 3)},
    ),
    "line": Form("g (float[n] x) => (float[n] y) { y = Mul(x, w) }", {"x": (5,)}, {"w": (1,)}),
    "mixing": Form(
        "g (float[n, 4] x) => (float[n, 4] y) { m = ReduceMean<axes = [0]>(x) d = Sub(x, m) y = Mul(d, w) }",
        {"x": (5, 4)},
        {"w": (4,)},
        17,
    ),
    "texts": Form(
        'g (string[n, 2] x) => (string[n, 2] y) { w = Constant<value = string[1] {"-{m}"}>() y = StringConcat(x, w) }',
        {"x": (3, 2)},
        {},
        20,
    ),
    "half": Form(
        "g (float16[n, 4] x) => (float16[n, 3] y) { v = Cast<to = 10>(w) y = MatMul(x, v) }",
        {"x": (2, 4)},
        {"w": (4, 3)},
    ),
    "double": Form(
        "g (double[n, 4] x) => (double[n, 3] y) { v = Cast<to = 11>(w) y = MatMul(x, v) }",
        {"x": (2, 4)},
        {"w": (4, 3)},
    ),
    "whole": Form(
        "g (int32[n, 4] x, uint8[n, 4] b) => (int32[n, 4] y, bool[n, 4] z, int64[n, 4] q) { w = Constant<value = int32[1] {{m}}>() y = Add(x, w) c = Cast<to = 6>(b) z = Less(c, y) q = Cast<to = 7>(y) }",
        {"x": (2, 4), "b": (2, 4)},
    ),
    "lookup": Form(
        "g (int64[n, 2] x) => (float[n, 2, 3] y) { y = Gather(w, x) }", {"x": (2, 2)}, {"w": (9, 3)}
    ),
    "large": Form(
        "g (float[n, 2] x) => (float[n, 400000] y, float[n, 400000] z) { y = MatMul(x, w) z = Neg(y) }",
        {"x": (3, 2)},
        {"w": (2, 400000)},
        17,
        2,
    ),
}
"""Families by name: all kinds of shapes and types."""
DEEP = """g (float[n, 64] x) => (float[n, 4] y) {
    h = MatMul(x, w1) i = Relu(h) j = MatMul(i, w2) k = Relu(j) y = MatMul(k, w3)
}"""
DEEP_WEIGHTS = {"w1": (64, 1024), "w2": (1024, 1024), "w3": (1024, 4)}
"""Networks of 4 MB, whose calls take longer than their clients."""
BATCHES = {name: name not in ("scalar", "summed", "table") for name in FORMS}
"""Which of them Triton can bring together."""


def files(folder: Path, name: str, form: Form) -> list[str]:
    """Write the models of a form: a.onnx, b.onnx, .."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for m in range(form.count):
        proto = model(form.text.replace("{m}", str(m + 1)), form.weights, seed=m, opset=form.opset)
        if name == "lookup" and m:  # other names of its own
            rename(proto, {"x": f"x{m}", "y": f"y{m}"})
        paths.append(save(folder / f"{'abcdefgh'[m]}.onnx", proto))
    return paths


def rename(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Give inputs and outputs of a model other names."""
    for node in proto.graph.node:
        node.input[:] = [names.get(one, one) for one in node.input]
        node.output[:] = [names.get(one, one) for one in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = names.get(value.name, value.name)


def exported(folder: Path, name: str, form: Form, out: Path) -> list[str]:
    """Write a form's models, their bundle, and its repository with the endpoints NAME.a, NAME.b, .. Return
    the paths of the models."""
    paths = files(folder, name, form)
    bundle = folder / "bundle"
    netfuse_onnx.merge(paths, str(bundle), io="separate", views=True, verify=False)
    called = {Path(path).stem: f"{name}.{Path(path).stem}" for path in paths}
    export(str(bundle), str(out), Options(name, called))
    return paths


def drawn(path: str, form: Form, seed: int) -> dict[str, Array]:
    """Random inputs of one model, by its own names."""
    rng = np.random.default_rng(seed)
    graph = onnx.load(path, load_external_data=False).graph
    return {
        value.name: _drawn(rng, form.shapes[list(form.shapes)[k]], value.type.tensor_type.elem_type)
        for k, value in enumerate(graph.input)
    }


def renamed(path: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs by the first model's names, by the own names of the model at `path`."""
    own = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    return dict(zip(own, feeds.values(), strict=True))


def _drawn(rng: np.random.Generator, shape: Sequence[int], kind: int) -> Array:
    if kind == onnx.TensorProto.STRING:
        values = [f"é{one}" for one in rng.integers(0, 99, int(np.prod(shape)))]
        return np.array(values, dtype=object).reshape(shape)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 8, shape)
    return np.asarray(values).astype(dtype)


def alone(path: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model's own file."""
    session = onnxruntime.InferenceSession(path)
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, dict(feeds)), strict=True))
