"""Families for the tests of update, add and remove: small architectures whose weights the models share in
several ways, and the comparison of a merged file with a fresh merge of what should be in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.storage import wire

Shapes = Mapping[str, tuple[int, ...]]
ARCHITECTURES: Mapping[str, tuple[str, Shapes]] = {
    "mlp": (
        """g (float[n, 24] x) => (float[n, 5] y) {
            h = Gemm <transB = 1> (x, w1, b1)
            r = Relu(h)
            y = Gemm <transB = 1> (r, w2, b2)
        }""",
        {"w1": (40, 24), "b1": (40,), "w2": (5, 40), "b2": (5,)},
    ),
    "cnn": (
        """g (float[n, 3, 8, 8] x) => (float[n, 4] y) {
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, k1, c1)
            m = BatchNormalization(c, scale, bias, mean, variance)
            r = Relu(m)
            d = Conv <kernel_shape = [3, 3], group = 6> (r, k2)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            y = MatMul(f, w)
        }""",
        {
            "k1": (6, 3, 3, 3), "c1": (6,), "scale": (6,), "bias": (6,), "mean": (6,), "variance": (6,),
            "k2": (6, 1, 3, 3), "w": (6, 4),
        },
    ),
    "table": (
        """g (int64[n, s] ids, float[n, 1, 16] t) => (float[n, s, 16] y, float[n, s, 9] z) {
            e = Gather(table, ids)
            a = Add(e, t)
            l = LayerNormalization(a, g1, b1)
            y = MatMul(l, w1)
            z = MatMul(y, w2)
        }""",
        {"table": (50, 16), "g1": (16,), "b1": (16,), "w1": (16, 16), "w2": (16, 9)},
    ),
    "wide": (
        """g (float[n, 130] x) => (float[n, 3] y) {
            h = MatMul(x, w1)
            r = Relu(h)
            y = MatMul(r, w2)
        }""",
        {"w1": (130, 256), "w2": (256, 3)},
    ),
    "tied": (
        """g (float[n, 12] x) => (float[n, 12] y, float[n, 12] z) {
            u = MatMul(x, w1)
            v = Tanh(u)
            y = MatMul(v, w1)
            q = MatMul(y, w2)
            z = Add(q, b)
        }""",
        {"w1": (12, 12), "w2": (12, 12), "b": (12,)},
    ),
}  # fmt: skip
SEPARATE, STACKED, SELECTED, ROUTED = "separate", "stacked", "selected", "routed"


@dataclass(frozen=True)
class Pool:
    """Models of one architecture, by name, and the options with which they are merged."""

    paths: Mapping[str, str]
    options: Mapping[str, object]

    def fresh(self, names: Sequence[str], folder: Path) -> Path:
        """Merge some models, and return the merged file."""
        folder.mkdir(parents=True)
        out = folder / "merged.onnx"
        paths = [self.paths[name] for name in names]
        netfuse_onnx.merge(paths, str(out), names=names, verify=False, **self.options)  # type: ignore[arg-type]
        return out


def pool(
    folder: Path, architecture: str, count: int, sharing: Sequence[int], renamed: bool, **options: object
) -> Pool:
    """Write models a, b, .. of an architecture. `sharing` says for each weight, in turn, how many values it
    has among the models: 0 stands for a value of each. With `renamed`, the second model has names of its own
    for its inputs and outputs."""
    text, shapes = ARCHITECTURES[architecture]
    paths = {}
    for k in range(count):
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
        for j, (name, shape) in enumerate(shapes.items()):
            values = sharing[j % len(sharing)]
            seed = [j, k % values if values else k]
            weight = np.abs(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32) + 0.1
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
        if renamed and k == 1:
            _rename(model)
        model.metadata_props.add(key="trained", value=f"run {k}")
        path = folder / f"model-{k}.onnx"
        path.write_bytes(model.SerializeToString())
        paths["abcdefgh"[k]] = str(path)
    return Pool(paths, options)


def _rename(model: onnx.ModelProto) -> None:
    edge = {value.name: f"own_{value.name}" for value in (*model.graph.input, *model.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        value.name = edge[value.name]
    for node in model.graph.node:
        node.input[:] = [edge.get(name, name) for name in node.input]
        node.output[:] = [edge.get(name, name) for name in node.output]


def files(merged: Path) -> dict[str, bytes]:
    """The bytes of all files of a merged model, by name."""
    names = [merged.name, *wire.external_locations(str(merged))]
    return {name: (merged.parent / name).read_bytes() for name in names}


def wide(folder: Path, **options: object) -> tuple[Pool, Path]:
    """A merged file of a, b and c with a data file, and a model d."""
    models = pool(folder, "wide", 4, [0], False, data="external", **options)
    return models, models.fresh("abc", folder / "merged")


def left(merged: Path) -> set[str]:
    """The files in the folder that are not of the merged file."""
    return set(os.listdir(merged.parent)) - set(files(merged))
