"""A session of a merged file whose inputs and outputs another tool has given other float types.

A float16 converter makes them float16, unless it is told to keep them. They are fed and compared in the
types of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from netfuse_onnx.labels import Labels
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run.runtime import SECONDS, Session, Value, element_type
from netfuse_onnx.types import Correspondence

FLOATS: Mapping[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}
"""ONNX Runtime's names of float types that numpy has."""


class Recast(Session):
    """A session that takes and gives the float types of the sources."""

    def __init__(self, path: str, family: Correspondence, options: Options) -> None:
        super().__init__(path, options.runtime)
        labels = Labels.of(family, options.io, options.share)
        self._wanted = {
            labels.output(model, name): _dtype(family.edge_type(name).dtype)
            for name in family.graph.outputs
            for model in range(family.models)
        }

    def run(self, feeds: Mapping[str, Value], seconds: float = SECONDS) -> dict[str, Value]:
        kinds = {name: FLOATS.get(element_type(kind)) for name, kind in self.inputs.items()}
        fed = {name: _cast(value, kinds.get(name)) for name, value in feeds.items()}
        found = super().run(fed, seconds)
        return {name: _cast(value, self._wanted.get(name)) for name, value in found.items()}


def _dtype(number: int) -> np.dtype[Any] | None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(number) if number else None
    return kind if kind in FLOATS.values() else None


def _cast(value: Value, dtype: np.dtype[Any] | None) -> Value:
    """Return floats in another float type, anything else as it is."""
    if dtype is None or not isinstance(value, np.ndarray) or value.dtype not in FLOATS.values():
        return value
    with np.errstate(over="ignore"):
        return np.asarray(value.astype(dtype))
