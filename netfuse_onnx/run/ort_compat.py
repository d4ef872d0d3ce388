"""The onnxruntime module: imported when it is needed, its providers, its values as numpy arrays.

Gaps that need more than a call here are in gaps.py, with those that this module works around.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
from typing import Any

import numpy as np

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.run.gaps import NOT_NUMPY_TYPES, TELEMETRY_OFF

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

MISSING = (
    "ONNX Runtime is not installed, and the proof of the values needs it.",
    "Install it with pip install 'netfuse-onnx[cpu]' (or 'netfuse-onnx[gpu]' for CUDA), "
    "or give --no-verify to merge without the proof.",
)


@functools.cache
def onnxruntime() -> Any:
    """The onnxruntime module with its own log silenced and its telemetry off.

    Raises UsageFault, naming the extras, when it is not installed. It works around gaps.TELEMETRY and
    gaps.ERRORS_PRINTED. On Windows, and where the caller had imported onnxruntime before, telemetry is only
    switched off from here on.
    """
    os.environ[TELEMETRY_OFF] = "1"
    try:
        import onnxruntime as ort
    except ImportError as error:
        if error.name not in (None, "onnxruntime"):
            raise UsageFault(f"ONNX Runtime does not load: {error}.", MISSING[1]) from error
        raise UsageFault(*MISSING) from error
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(4)
    return ort


def cuda_listed() -> bool:
    """True where this ONNX Runtime was built with CUDA. That it runs is another matter."""
    return CUDA in onnxruntime().get_available_providers()


@functools.cache
def cuda_problem() -> str:
    """The reason why CUDA can't be used, or '' when a session really ran on it (gaps.CUDA_LISTED)."""
    ort = onnxruntime()
    if not cuda_listed():
        return f"this ONNX Runtime ({ort.__version__}) was built without CUDA"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # preload_dlls prints what it can't find
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(_tiny_model(), options, providers=[CUDA], enable_fallback=0)
        if CUDA not in session.get_providers():
            return "ONNX Runtime fell back to the CPU (no usable CUDA device or libraries)"
        session.run(None, {"x": np.ones(4, np.float32)})
    except Exception as error:
        return first_line(error)
    return ""


def providers(name: str, *, tf32: bool) -> list[tuple[str, dict[str, str]]]:
    """The provider list of a session (gaps.TF32)."""
    if name == "cuda":
        return [(CUDA, {"use_tf32": "1" if tf32 else "0"}), (CPU, {})]
    return [(CPU, {})]


def placement(session: Any) -> dict[str, int]:
    """Provider -> nodes that it runs, after optimisation. Empty before 1.24, which can't tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    placed: dict[str, int] = {}
    try:
        for part in session.get_provider_graph_assignment_info():
            placed[part.ep_name] = placed.get(part.ep_name, 0) + len(part.get_nodes())
    except Exception:
        return {}
    return placed


def element_type(ort_type: str) -> str:
    """`tensor(float)` -> `float`; the type itself when it isn't a tensor."""
    return ort_type[7:-1] if ort_type.startswith("tensor(") else ort_type


def to_ort(array: np.ndarray[Any, Any], ort_type: str) -> Any:
    """A numpy array as an OrtValue of the type that the model declares."""
    ort = onnxruntime()
    number = NOT_NUMPY_TYPES.get(element_type(ort_type))
    if number is None:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def from_ort(value: Any) -> Any:
    """An OrtValue on the CPU as a numpy array (ml_dtypes for what numpy lacks), or a list of them."""
    if value.is_tensor_sequence():
        return value.numpy() if hasattr(value, "numpy") else list(value)
    name = element_type(value.data_type())
    if name not in NOT_NUMPY_TYPES:
        return value.numpy()
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(NOT_NUMPY_TYPES[name])
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, dtype).reshape(shape)


def first_line(error: BaseException) -> str:
    """What an ONNX Runtime error says, without its prefix, source positions and further lines."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.strip().rstrip(".")[:400]


def _tiny_model() -> bytes:
    from onnx import parser

    text = '<ir_version: 7, opset_import: ["": 13]> g (float[4] x) => (float[4] y) {y = Add(x, x)}'
    model = parser.parse_model(text)
    data: bytes = model.SerializeToString()
    return data
