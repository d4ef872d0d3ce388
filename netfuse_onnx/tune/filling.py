"""Fills a probe with values: weights and inputs whose numbers do not matter to the time that a kernel takes.

Small weights have their own values, which rules and kernels look at. Large ones of numbers get small positive
numbers: no kernel meets a NaN or a number so small that a processor computes it slowly. Large indices are
their own, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from netfuse_onnx.emit.repeat import SMALL
from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.tune.probes import Fed, Probe, Unprobed

LOW, HIGH = 0.01, 0.02
PATTERN = 1021
"""Numbers that are repeated: a prime, so that rows of a weight differ."""


def filled(probe: Probe) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """The bytes of the model with values for all weights, and its feeds."""
    for tensor in probe.model.graph.initializer:
        recipe = probe.recipes.get(tensor.name)
        if recipe is not None:
            tensor.ClearField("data_location")
            _fill(tensor, recipe)
    return probe.model.SerializeToString(), feeds(probe.inputs)


def feeds(inputs: Mapping[str, Fed]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays for the inputs of a probe. Integers are 0, which is an index of every axis that is not empty."""
    return {name: _array(fed.dtype, fed.shape, low=0.5, high=1.0) for name, fed in inputs.items()}


def is_drawn(recipe: Recipe) -> bool:
    """True for a weight whose values a probe makes up."""
    whole = recipe.dtype in INDEX_TYPES or recipe.dtype in (TensorProto.STRING, TensorProto.BOOL)
    return not whole and weights.recipe_nbytes(recipe) > SMALL


def _fill(tensor: TensorProto, recipe: Recipe) -> None:
    if tensor.data_type == TensorProto.STRING:
        tensor.string_data.extend(weights.strings(recipe))
    elif is_drawn(recipe):
        tensor.raw_data = _bytes(recipe.dtype, recipe.shape)
    else:
        tensor.raw_data = b"".join(weights.stream(recipe))


def _bytes(dtype: int, shape: tuple[int, ...]) -> bytes:
    if BITS[dtype] < 8:
        return bytes(-(-math.prod(shape) * BITS[dtype] // 8))
    return _array(dtype, shape, low=LOW, high=HIGH).tobytes()


def _array(dtype: int, shape: tuple[int, ...], *, low: float, high: float) -> np.ndarray[Any, Any]:
    if dtype == TensorProto.STRING or BITS.get(dtype, 0) < 8:
        raise Unprobed("its values are no numbers of whole bytes")
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if kind.kind in "iub":
        return np.zeros(shape, kind)
    pattern = np.linspace(low, high, PATTERN).astype(kind)
    return np.resize(pattern, shape)
