"""Families whose models share their first part and end in operators of their own, and what each model's own file
gives in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from families import save
from onnx import numpy_helper, parser

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
LEARNED = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
BODY = "h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) t = Tanh(g)"
SHAPES = {"w1": (8, 16), "w2": (16, 16)}
Shapes = Mapping[str, tuple[int, ...]]

TAILS: Mapping[str, tuple[str, str, Shapes]] = {
    # what the model gives, how it computes that from t, the weights of that
    "logits": ("float[n, 3] y", "y = MatMul(t, w)", {"w": (16, 3)}),
    "five": ("float[n, 5] y", "y = MatMul(t, w)", {"w": (16, 5)}),
    "softmax": ("float[n, 5] y", "l = MatMul(t, w) y = Softmax<axis = -1>(l)", {"w": (16, 5)}),
    "sigmoid": ("float[n, 3] scores", "l = MatMul(t, w) scores = Sigmoid(l)", {"w": (16, 3)}),
    "deep": (
        "float[n, 7] y",
        "a = MatMul(t, w) b = Relu(a) y = MatMul(b, v)",
        {"w": (16, 16), "v": (16, 7)},
    ),
    "best": (
        "int64[n, 1] y",
        "l = MatMul(t, w) y = ArgMax<axis = 1>(l)",
        {"w": (16, 4)},
    ),
    "two": (
        "float[n, 4] y, int64[n, 1] best",
        "y = MatMul(t, w) best = ArgMax<axis = 1>(y)",
        {"w": (16, 4)},
    ),
    "half": ("float16[n, 3] y", "l = MatMul(t, w) y = Cast<to = 10>(l)", {"w": (16, 3)}),
    "long": ("int64[n, 3] y", "l = MatMul(t, w) y = Cast<to = 7>(l)", {"w": (16, 3)}),
    "wide": ("float[n, 600] y", "s = Neg(t) y = MatMul(s, w)", {"w": (16, 600)}),
    "features": ("float[n, 16] t", "", {}),
    "hidden": ("float[n, 16] y, float[n, 16] r", "y = Neg(t)", {}),
    "normal": ("float[n, 16] y", "m = ReduceL2<axes = [1]>(t) y = Div(t, m)", {}),
    "passes": ("float[n, 16] t, float[n, 8] z", "z = Identity(x)", {}),
    "lookup": (
        "float[n, 4] y",
        "s = ReduceMax<axes = [1], keepdims = 0>(t) i = Cast<to = 7>(s) y = Gather(e, i)",
        {"e": (9, 4)},
    ),
    "scaled": (
        "float[n, 16] y",
        "y = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(t)",
        {},
    ),
    "sequence": ("seq(float[n, 16]) y", "u = Neg(t) y = SequenceConstruct(t, u)", {}),
    "if": (
        "float[n, 3] y",
        """l = MatMul(t, w) s = ReduceSum<keepdims = 0>(l) c = Less(s, zero) y = If(c) <
            then_branch = p () => (float[n, 3] o) { o = Neg(l) },
            else_branch = q () => (float[n, 3] o) { o = Mul(l, k) }>""",
        {"w": (16, 3), "zero": (), "k": (3,)},
    ),
}


def tailed(folder: Path, tails: Sequence[str], body: str = BODY, batch: str = "n") -> list[str]:
    """Save one model for each tail. All weights differ."""
    paths = []
    for k, name in enumerate(tails):
        outputs, tail, held = TAILS[name]
        text = f"g (float[{batch}, 8] x) => ({outputs.replace('[n', f'[{batch}')}) {{ {body} {tail} }}"
        proto, rng = (
            parser.parse_model(
                (LEARNED if "ml" in tail else HEAD) + text.replace("float[n", f"float[{batch}")
            ),
            np.random.default_rng(k),
        )
        for weight, shape in {**SHAPES, **held}.items():
            array = (rng.standard_normal(shape) / 2).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, weight))
        paths.append(save(folder / f"m{k}.onnx", proto))
    return paths


def alone(path: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a model's own file gives."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([out.name for out in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def agree(merged: str, paths: Sequence[str], rows: int = 2, seed: int = 5) -> None:
    """Compare a merged file with separate inputs with each model's own file, on inputs of its own."""
    rng = np.random.default_rng(seed)
    fed = [{"x": rng.standard_normal((rows, 8)).astype(np.float32)} for _ in paths]
    session = ort.InferenceSession(merged, providers=["CPUExecutionProvider"])
    given = [out.name for out in session.get_outputs()]
    got = dict(
        zip(given, session.run(None, {f"m{k}/x": each["x"] for k, each in enumerate(fed)}), strict=True)
    )
    wanted = {f"m{k}/{n}": v for k, path in enumerate(paths) for n, v in alone(path, fed[k]).items()}
    assert sorted(given) == sorted(wanted)
    same(got, wanted)


def same(got: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
    assert sorted(got) == sorted(wanted)
    for name, value in wanted.items():
        if isinstance(value, list):
            same(dict(enumerate(got[name])), dict(enumerate(value)))
            continue
        assert got[name].dtype == value.dtype and got[name].shape == value.shape
        loose = 2e-3 if value.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(got[name], value, rtol=loose, atol=loose)
