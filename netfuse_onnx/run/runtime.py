"""The onnxruntime module, and sessions of it: with a check that the chosen provider really runs, and numpy
arrays as inputs and outputs.

A `Session` keeps nothing but the session itself, so that deleting it frees the model. gaps.py names the gaps
of ONNX Runtime that this module works around.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx import library
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.run import cuda, deadlines
from netfuse_onnx.run.gaps import NOT_NUMPY_TYPES

Array = np.ndarray[Any, Any]
Value = Array | list[Any] | None
"""A tensor, a sequence of tensors, or an empty optional."""

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

HEURISTIC = {"cudnn_conv_algo_search": "HEURISTIC"}
"""cuDNN chooses by its rules. By default it times all algorithms for each shape, which takes minutes and may
choose others in the next session."""

SECONDS = 600.0
"""A longer run is ended: nothing else ends a loop whose condition in the file stays true."""
MISSING = (
    "ONNX Runtime is not installed, and the proof of the values needs it.",
    "Install it with pip install 'netfuse-onnx[cpu]' (or 'netfuse-onnx[gpu]' for CUDA), "
    "or give --no-verify to merge without the proof.",
)
LIBRARY = "Give --ort-library a shared library that this ONNX Runtime can load."


class RunFailed(Exception):
    """ONNX Runtime refused to load or to run a model; the message is its first line."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The provider of sessions ('cpu' or 'cuda') and the custom operator libraries that they load. `required`
    is True where CUDA was asked for by name. `note` says why it is the CPU although ONNX Runtime has CUDA.
    `left_out` names optimisers of ONNX Runtime that sessions do without."""

    provider: str
    libraries: tuple[str, ...] = ()
    note: str = ""
    required: bool = False
    left_out: tuple[str, ...] = ()


def choose(provider: str, libraries: Sequence[str] = ()) -> Runtime:
    """Choose the runtime for 'auto', 'cpu' or 'cuda'.

    Raises UsageFault when ONNX Runtime is missing, or when 'cuda' was asked for and is not what runs.
    """
    if provider not in ("auto", "cpu", "cuda"):
        raise UsageFault(f"There is no provider {provider!r}.", "Choose auto, cpu or cuda.")
    onnxruntime()
    if provider == "cpu":
        return Runtime("cpu", tuple(libraries))
    problem = cuda_problem()
    if provider == "auto" and not problem and cuda.CUDNN in missing_libraries():
        problem = f"{cuda.CUDNN} can't be loaded, which most networks need"
    if not problem:
        return Runtime("cuda", tuple(libraries), required=provider == "cuda")
    if provider == "cuda":
        raise UsageFault(
            f"CUDA was asked for, but can't be used: {problem}.",
            cuda.remedy(missing_libraries())
            or "Install netfuse-onnx[gpu] on a machine with a GPU, or give --provider cpu.",
        )
    return Runtime("cpu", tuple(libraries), note=problem if cuda_listed() else "")


def libraries(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the absolute paths of shared libraries of custom operators. Raises FileFault for one that does
    not load, or, without ONNX Runtime, does not exist."""
    absolute = tuple(map(os.path.abspath, paths))
    for path, named in zip(absolute, paths, strict=True):
        if not os.path.isfile(path):
            raise FileFault(f"{named or chr(39) * 2} does not exist.", LIBRARY)
        try:
            onnxruntime().SessionOptions().register_custom_ops_library(path)
        except UsageFault:
            continue
        except Exception as error:
            reason = first_line(error)
            raise FileFault(f"{named} is no library of custom operators: {reason}.", LIBRARY) from error
    return absolute


def session_options() -> Any:
    """Return SessionOptions without a log."""
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    return options


def open_session(model: str | bytes, options: Any, runtime: Runtime, where: Sequence[Any]) -> Any:
    """Return an InferenceSession on the providers `where`. Raises RunFailed where ONNX Runtime does not load
    the model, or falls back from CUDA to the CPU."""
    if runtime.provider == "cuda":
        cuda.preload(onnxruntime())
    try:
        for library in runtime.libraries:
            options.register_custom_ops_library(library)
        session = onnxruntime().InferenceSession(
            model, options, providers=where, enable_fallback=0, disabled_optimizers=list(runtime.left_out)
        )
    except Exception as error:
        raise RunFailed(first_line(error)) from error
    if runtime.provider == "cuda" and CUDA not in session.get_providers():
        raise RunFailed(_fell_back())
    return session


class Session:
    """A loaded model. The constructor raises RunFailed when ONNX Runtime does not load it."""

    def __init__(
        self,
        model: str | bytes,
        runtime: Runtime,
        *,
        optimise: bool = True,
        tf32: bool = False,
        folder: str = "",
    ) -> None:
        options = session_options()
        options.enable_mem_pattern = False  # shapes change from run to run
        # Few runs with much between them: threads that wait for the next one would only burn the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if folder:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if not optimise:
            options.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = open_session(model, options, runtime, providers(runtime.provider, tf32=tf32))
        self.inputs = {port.name: port.type for port in self._session.get_inputs()}
        self.outputs = {port.name: port.type for port in self._session.get_outputs()}
        self.shapes = {port.name: tuple(port.shape) for port in self._session.get_inputs()}
        self.placed = placement(self._session)

    def run(self, feeds: Mapping[str, Value], seconds: float = SECONDS) -> dict[str, Value]:
        """Return all outputs by name. Feeds that the model does not have are left out. Raises RunFailed, also
        for a run that takes more than `seconds`."""
        options = onnxruntime().RunOptions()
        try:
            with deadlines.within(seconds, options):
                return self._run(feeds, options)
        except RunFailed as error:
            if options.terminate:
                raise RunFailed(f"it was not done after {seconds:.0f} s") from error
            raise

    def _run(self, feeds: Mapping[str, Value], options: Any) -> dict[str, Value]:
        given = {name: value for name, value in feeds.items() if name in self.inputs and value is not None}
        try:
            if self._all_numpy:
                return dict(zip(self.outputs, self._session.run(None, given, options), strict=True))
            values = {name: to_ort(np.asarray(v), self.inputs[name]) for name, v in given.items()}
            results = self._session.run_with_ort_values(list(self.outputs), values, options)
            return {name: from_ort(v) for name, v in zip(self.outputs, results, strict=True)}
        except MemoryError:
            raise
        except Exception as error:
            if cuda.NO_CUDNN in str(error):
                raise UsageFault(
                    f"The models need {cuda.CUDNN}, which can't be loaded.", cuda.FROM_PIP
                ) from error
            raise RunFailed(first_line(error)) from error

    @property
    def _all_numpy(self) -> bool:
        """True where numpy has all element types of inputs and outputs."""
        types = [*self.inputs.values(), *self.outputs.values()]
        return not any(element_type(t) in NOT_NUMPY_TYPES for t in types)


# --------------------------------------------------------------------------- the module


@functools.cache
def onnxruntime() -> Any:
    """The onnxruntime module with its own log silenced and its telemetry off.

    Raises UsageFault, naming the extras, when it is not installed. It works around gaps.TELEMETRY and
    gaps.ERRORS_PRINTED. On Windows, and where the caller had imported onnxruntime before, telemetry is only
    switched off from here on.
    """
    try:
        ort = library.onnxruntime()
    except UsageFault as error:
        if isinstance(error.__cause__, ImportError) and error.__cause__.name not in (None, "onnxruntime"):
            raise UsageFault(error.message, MISSING[1]) from error
        raise UsageFault(*MISSING) from error
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
        cuda.preload(ort)
        options = session_options()
        session = ort.InferenceSession(_tiny_model(), options, providers=[CUDA], enable_fallback=0)
        if CUDA not in session.get_providers():
            return _fell_back()
        session.run(None, {"x": np.ones(4, np.float32)})
    except Exception as error:
        return first_line(error)
    return ""


@functools.cache
def missing_libraries() -> tuple[str, ...]:
    """Return the libraries of CUDA that this ONNX Runtime wants and that do not load."""
    return cuda.missing(onnxruntime()) if cuda_listed() else ()


def _fell_back() -> str:
    absent = missing_libraries()
    why = f"{', '.join(absent)} can't be loaded" if absent else "no CUDA device that it can use"
    return f"ONNX Runtime fell back to the CPU ({why})"


def providers(name: str, *more: Mapping[str, str], tf32: bool) -> list[tuple[str, dict[str, str]]]:
    """The provider list of a session (gaps.TF32), with `more` options of CUDA's."""
    if name != "cuda":
        return [(CPU, {})]
    own = {"use_tf32": "1" if tf32 else "0"} | HEURISTIC
    for options in more:
        own |= options
    return [(CUDA, own), (CPU, {})]


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
        return np.array(value.numpy())  # gaps.INPUT_GIVEN_OUT
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(NOT_NUMPY_TYPES[name])
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, dtype).reshape(shape)


def first_line(error: BaseException) -> str:
    """Return the text of an ONNX Runtime error without its prefix, source positions and further lines."""
    text = cuda.explained((str(error) or type(error).__name__).strip().splitlines()[0])
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.strip().rstrip(".")[:400]


def _tiny_model() -> bytes:
    from onnx import parser

    text = '<ir_version: 7, opset_import: ["": 13]> g (float[4] x) => (float[4] y) {y = Add(x, x)}'
    data: bytes = parser.parse_model(text).SerializeToString()
    return data
