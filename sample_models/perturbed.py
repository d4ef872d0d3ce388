"""More models of a trained architecture: copies whose weights are a little off.

Packages ship one or two trained models of most architectures. A copy multiplies the weights of the first by
random factors near 1, so its outputs stay in the range that the network was trained to give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

NOISE = 0.02
"""Standard deviation of the factors."""

FEWEST = 8
"""Tensors of fewer elements are left alone: they hold scales, limits and sizes as often as weights."""


def add_copies(trained: Sequence[Path], count: int) -> Iterator[Path]:
    """Write copies of the first of `trained` beside it until there are `count` models, yielding the path of
    each copy. What two trained models have in common is not changed."""
    model = onnx.load(trained[0])
    common = _common(trained)
    weights = [
        (tensor, array)
        for tensor in _tensors(model.graph)
        for array in [numpy_helper.to_array(tensor)]
        if array.dtype.kind == "f" and array.size >= FEWEST and tensor.name not in common
    ]
    for number in range(1, count - len(trained) + 1):
        draw = np.random.default_rng(number)
        for tensor, array in weights:
            factors = 1 + NOISE * draw.standard_normal(array.shape)
            tensor.CopyFrom(numpy_helper.from_array((array * factors).astype(array.dtype), tensor.name))
        path = trained[0].with_name(f"{trained[0].stem}-copy-{number}.onnx")
        onnx.save_model(model, path)
        yield path


def _common(trained: Sequence[Path]) -> set[str]:
    """Names of the initializers that are equal in the first two trained models."""
    if len(trained) < 2:
        return set()
    first, second = (
        {tensor.name: tensor for tensor in onnx.load(path).graph.initializer} for path in trained[:2]
    )
    return {name for name, tensor in first.items() if second.get(name) == tensor}


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the graph and the graphs nested in it hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
