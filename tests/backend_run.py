"""ONNX Runtime for the backend cases: all its element types go in and come out, and are compared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import oracle
from backend_values import Array, Value, differs
from onnx import TensorProto, helper, numpy_helper

BITS = {
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8, TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.FLOAT8E8M0: 8,
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4, TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}  # fmt: skip
"""Element types that session.run neither takes nor gives as numpy arrays."""

SPECIAL = {f"tensor({TensorProto.DataType.Name(kind).lower()})" for kind in BITS}


class Session:
    """A model on the CPU. Types that numpy lacks pass as OrtValues."""

    def __init__(self, model: bytes, level: ort.GraphOptimizationLevel = oracle.LEVELS[0]) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = [out.name for out in self.session.get_outputs()]
        ports = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.plain = all(port.type not in SPECIAL for port in ports)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if self.plain:
            return dict(zip(self.outputs, self.session.run(None, dict(feeds)), strict=True))
        given = {name: to_ort(np.asarray(value)) for name, value in feeds.items()}
        found = self.session.run_with_ort_values(self.outputs, given)
        return {name: from_ort(value) for name, value in zip(self.outputs, found, strict=True)}


def to_ort(array: Array) -> ort.OrtValue:
    """An OrtValue of any element type: what a model with one Constant gives."""
    tensor = numpy_helper.from_array(array, "y")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    graph = helper.make_graph(
        [node], "g", [], [helper.make_tensor_value_info("y", tensor.data_type, array.shape)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11)
    return Session(model.SerializeToString()).session.run_with_ort_values(["y"], {})[0]


def from_ort(value: ort.OrtValue) -> Array:
    if value.data_type() not in SPECIAL:
        return value.numpy()
    kind, shape = value.element_type(), tuple(value.shape())
    size = -(-int(np.prod(shape, dtype=np.int64)) * BITS[kind] // 8)
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return numpy_helper.to_array(onnx.TensorProto(data_type=kind, dims=shape, raw_data=raw))


# --------------------------------------------------------------------------- comparison

Outputs = Mapping[str, Value]


def compare(
    got: Outputs, want: Outputs, other: Callable[[], Outputs], what: str, *, shapes_only: bool
) -> None:
    """Equal within the tolerance of the type, or twice as far as the source is from itself with its
    optimisations off, which is what `other` gives. Raises AssertionError."""
    for name, expected in want.items():
        same_kind(got[name], expected, f"{name} {what}")
        if shapes_only:
            continue
        try:
            close(got[name], expected, f"{name} {what}")
        except AssertionError:
            slack = 2 * distance(expected, other()[name])
            if not 0 < slack < np.inf or not distance(got[name], expected) <= slack:
                raise


def alike(a: Outputs, b: Outputs) -> bool:
    """True where compare could not tell one from the other."""
    try:
        compare(a, b, lambda: b, "", shapes_only=False)
    except AssertionError:
        return False
    return True


def same_kind(have: Value, want: Value, what: str) -> None:
    """Both absent, or of one type and shape, element by element."""
    if isinstance(have, np.ndarray) and isinstance(want, np.ndarray):
        assert (have.shape, have.dtype) == (want.shape, want.dtype), (
            f"{what} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"
        )
    elif isinstance(have, list) and isinstance(want, list):
        assert len(have) == len(want), f"{what} has {len(have)} elements, not {len(want)}"
        for i, (h, w) in enumerate(zip(have, want, strict=True)):
            same_kind(h, w, f"{what}, element {i}")
    else:
        assert type(have) is type(want), f"{what} is {type(have).__name__}, not {type(want).__name__}"


def close(have: Any, want: Any, what: str) -> None:
    if isinstance(want, list):
        for i, (h, w) in enumerate(zip(have, want, strict=True)):
            close(h, w, f"{what}, element {i}")
    elif isinstance(want, np.ndarray):
        special = want.dtype.isbuiltin != 1  # of ml_dtypes: numpy compares no NaN of these
        limit = 2e-2 if want.dtype == "bfloat16" else None
        oracle.close(*(v.astype(np.float32) if special else v for v in (have, want)), what, limit)
    else:
        assert have == want, what


def distance(a: Any, b: Any) -> float:
    """The largest difference of two values; infinite where they can't be subtracted."""
    if isinstance(a, list):
        return max(map(distance, a, b), default=0.0) if len(a) == len(b) else np.inf
    if not isinstance(a, np.ndarray) or a.dtype.kind in "OSU" or a.shape != b.shape:
        return np.inf if differs(a, b) else 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    odd = ~(np.isfinite(x) & np.isfinite(y))
    if not np.array_equal(x[odd], y[odd], equal_nan=True):
        return np.inf
    return float(np.abs(x[~odd] - y[~odd]).max(initial=0.0))


def finite(outputs: Outputs | Sequence[Value]) -> int:
    """Count the finite numbers."""
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return sum(
        finite(v) if isinstance(v, list) else int(np.isfinite(v).sum())
        for v in values
        if isinstance(v, list) or (isinstance(v, np.ndarray) and v.dtype.kind == "f")
    )
