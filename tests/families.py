"""Small families of models on disk, written as ONNX text, for the tests of the verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import netfuse_onnx

MLP = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}
MLP_TEXT = """g (float[n, 8] x) => (float[n, 4] y) {
    h = MatMul(x, w1)
    i = Add(h, b1)
    r = Relu(i)
    y = MatMul(r, w2)
}"""
WIDE = MLP_TEXT.replace("8]", "64]")
WIDE_WEIGHTS = {"w1": (64, 16), "b1": (16,), "w2": (16, 4)}


def model(
    text: str, weights: Mapping[str, Sequence[int]] | None = None, seed: int = 0, opset: int = 17
) -> onnx.ModelProto:
    """A model from ONNX text; `weights` become initializers of random float32 of these shapes."""
    rng = np.random.default_rng(seed)
    found = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]> {text}'
    )
    for name, shape in (weights or {}).items():
        values = rng.standard_normal(tuple(shape)).astype(np.float32)
        found.graph.initializer.append(numpy_helper.from_array(values, name))
    return found


def family(
    folder: Path,
    text: str = MLP_TEXT,
    weights: Mapping[str, Sequence[int]] | None = None,
    count: int = 2,
    opset: int = 17,
) -> list[str]:
    """`count` files a.onnx, b.onnx, ... of one text with different weights. Default: an MLP."""
    if weights is None:
        weights = MLP if text is MLP_TEXT else {}
    protos = [model(text, weights, seed=i, opset=opset) for i in range(count)]
    return [save(folder / f"{'abcdefgh'[i]}.onnx", proto) for i, proto in enumerate(protos)]


def save(path: Path, proto: onnx.ModelProto) -> str:
    path.write_bytes(proto.SerializeToString())
    return str(path)


def merged(folder: Path, paths: list[str], io: str = "separate", **options: object) -> str:
    """The family merged without proofs."""
    out = str(folder / "merged.onnx")
    netfuse_onnx.merge(paths, out, verify=False, io=io, **options)  # type: ignore[arg-type]
    return out


def tampered(path: str, change: Callable[[onnx.ModelProto], None]) -> str:
    """A merged file after `change`."""
    proto = onnx.load(path)
    change(proto)
    return save(Path(path), proto)
