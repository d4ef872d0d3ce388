"""Every gap of ONNX Runtime that this package works around, each with the version it was seen in.

This is the only module that knows about them; `runtime.py` holds sessions, nothing else does. A gap is
removed from here when the oldest supported version no longer has it.
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

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

NOT_NUMPY = {"bfloat16": 16, "float8e4m3fn": 17, "float8e4m3fnuz": 18, "float8e5m2": 19, "float8e5m2fnuz": 20}
"""Element types that session.run neither takes nor gives as numpy arrays (1.32), as ONNX numbers them."""

NO_MAX = (2, 3)
"""Element types that Clip takes and that Max and Min have no kernel for (1.32): uint8 and int8."""

GATHER_LOSES_STRINGS = "1.32"
"""Gather of strings copies only the first of each slice (seen in 1.32, CPU): Split and Squeeze instead."""

RESIZE_BLENDS_ALL = 3
"""Up to this rank an interpolating Resize blends all axes, with weight 0 along those that it leaves alone
(1.32), and 0 times NaN is NaN. Of rank 4 it blends the last two, of rank 5 the last three."""

PAD_AXES_MOVED = "1.32"
"""Transpose, Pad with axes, Transpose: optimised, the widths are permuted as if all axes were named,
in order (seen in 1.32, CPU). It fails, or gives wrong values. CenterCropPad is a Pad with axes inside."""

SCALAR_BESIDE_ONES = "1.32"
"""An elementwise operator on one number of rank 0 or 1 and a value whose last axis is 1 takes 45 times as
long as with a number of higher rank (CPU), as if every element were a row of its own."""

ZERO_POINT_LOST = 21
MOVED_BEHIND = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool"})
"""With optimisations on, a DequantizeLinear with one stored scale is moved behind such an operator, as a
pair (seen in 1.32, CPU). The pair is uint8 where there is no zero point below this opset (at any, in
com.microsoft): negative numbers become 0, silently. It is int8 and uint8 at once where there is an int8 zero
point, even 0, from there on; it is int32 where there is one of int32: these do not load."""

SPLITS_JOINED = "1.32"
"""Two Splits of one tensor along one axis into unequal numbers of equal parts are made one, with
optimisations on (seen in 1.32): the sizes are written out where they are known."""

OUTPUTS_UNTYPED = "1.32"
"""Scan refuses bodies with an output whose rank it can't infer, and Loop without iterations gives what it
collects the shape that the body declares, or zeros (seen in 1.32): the outputs of merged bodies are typed."""

TILE_STAYS = "1.32"
"""Tile of stored float16 is not computed when a model is loaded, and Tile and Expand have no kernel for
bfloat16 (seen in 1.32, CPU). Concat is computed at load for all types that it takes (ORT_ENABLE_BASIC)."""

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
"""From 1.29 on, the official builds for Linux and macOS write an identifier of the machine below the home
folder and send names of models, hashes of graphs and errors to a server. They read this variable once, when
the library is loaded (seen in 1.32): set to 1, nothing is made and nothing is sent. Children inherit it."""

MISSING = (
    "ONNX Runtime is not installed, and the proof of the values needs it.",
    "Install it with pip install 'netfuse-onnx[cpu]' (or 'netfuse-onnx[gpu]' for CUDA), "
    "or give --no-verify to merge without the proof.",
)


@functools.cache
def onnxruntime() -> Any:
    """The onnxruntime module with its own log silenced and its telemetry off.

    Raises UsageFault, naming the extras, when it is not installed. Seen in 1.31: it reports on stderr
    what it raises as an exception anyway. On Windows, and where the caller had imported onnxruntime before,
    telemetry is only switched off from here on.
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
    """Whether this ONNX Runtime was built with CUDA. That it runs is another matter."""
    return CUDA in onnxruntime().get_available_providers()


@functools.cache
def cuda_problem() -> str:
    """Why CUDA can't be used, or '' when a session really ran on it.

    Seen in 1.31.1: onnxruntime-gpu on a machine without a GPU lists CUDAExecutionProvider as available
    and falls back to the CPU with a line on stderr. So the only proof is to run something.
    """
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
    """The provider list of a session. CUDA computes fp32 products in TF32 unless told not to (1.32)."""
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
    number = NOT_NUMPY.get(element_type(ort_type))
    if number is None:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def from_ort(value: Any) -> Any:
    """An OrtValue on the CPU as a numpy array (ml_dtypes for what numpy lacks), or a list of them."""
    if value.is_tensor_sequence():
        return value.numpy() if hasattr(value, "numpy") else list(value)
    name = element_type(value.data_type())
    if name not in NOT_NUMPY:
        return value.numpy()
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(NOT_NUMPY[name])
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
