"""Families whose weights differ by products of low rank, for the tests of --low-rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import families
import numpy as np
import onnx
from onnx import numpy_helper

MLP = """g (float[n, 24] x) => (float[n, 20] y) {
    h = MatMul(x, w1)
    i = Add(h, b1)
    r = Relu(i)
    y = Gemm<transB=1, alpha=0.5>(r, w2, b2)
}"""
MLP_WEIGHTS = {"w1": (24, 32), "b1": (32,), "w2": (20, 32), "b2": (20,)}


def changed(
    proto: onnx.ModelProto, ranks: Mapping[str, int], seed: int, size: float = 0.05
) -> onnx.ModelProto:
    """A copy of a model, with a random product of some rank added to each of these weights and rounded."""
    copy, rng = onnx.ModelProto(), np.random.default_rng(seed)
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if not (rank := ranks.get(tensor.name, 0)):
            continue
        values = numpy_helper.to_array(tensor)
        high, wide = values.shape[0], values[0].size
        product = rng.standard_normal((high, rank)) @ rng.standard_normal((rank, wide)) * size
        total = (values.astype(np.float64) + product.reshape(values.shape)).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(total, tensor.name))
    return copy


def tuned(
    folder: Path,
    ranks: Sequence[Mapping[str, int]],
    text: str = MLP,
    weights: Mapping[str, Sequence[int]] | None = None,
    dtype: type = np.float32,
    size: float = 0.05,
) -> tuple[list[str], str]:
    """The files of a family, one for each of `ranks`, and that of its base."""
    proto = families.model(text, weights or MLP_WEIGHTS, seed=99)
    if dtype is not np.float32:
        for tensor in proto.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    models = [changed(proto, each, seed, size) for seed, each in enumerate(ranks)]
    paths = [families.save(folder / f"{'abcdefgh'[i]}.onnx", model) for i, model in enumerate(models)]
    return paths, families.save(folder / "base.onnx", proto)
