"""Sessions of ONNX Runtime: which provider really runs, and plain arrays in and out.

A `Session` keeps nothing but the session itself, so that deleting it frees the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.run import ort_compat
from netfuse_onnx.run.gaps import NOT_NUMPY_TYPES

Array = np.ndarray[Any, Any]
Value = Array | list[Any] | None
"""A tensor, a sequence of tensors, or an empty optional."""


SECONDS = 600.0
"""A run that takes longer is ended: nothing else ends a loop that the data of a file keep going."""
LIBRARY = "Give --ort-library a shared library that this ONNX Runtime can load."


class RunFailed(Exception):
    """ONNX Runtime refused to load or to run a model; the message is its first line."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where sessions run ('cpu' or 'cuda') and the custom operator libraries that they load. `required`:
    CUDA was asked for by name. `note`: why it is the CPU although this ONNX Runtime knows CUDA."""

    provider: str
    libraries: tuple[str, ...] = ()
    note: str = ""
    required: bool = False


def choose(provider: str, libraries: Sequence[str] = ()) -> Runtime:
    """The runtime for 'auto', 'cpu' or 'cuda'.

    Raises UsageFault when ONNX Runtime is missing, or when 'cuda' was asked for and is not what runs.
    """
    if provider not in ("auto", "cpu", "cuda"):
        raise UsageFault(f"There is no provider {provider!r}.", "Choose auto, cpu or cuda.")
    ort_compat.onnxruntime()
    if provider == "cpu":
        return Runtime("cpu", tuple(libraries))
    problem = ort_compat.cuda_problem()
    if not problem:
        return Runtime("cuda", tuple(libraries), required=provider == "cuda")
    if provider == "cuda":
        raise UsageFault(
            f"CUDA was asked for, but can't be used: {problem}.",
            "Install netfuse-onnx[gpu] on a machine with a GPU, or give --provider cpu.",
        )
    return Runtime("cpu", tuple(libraries), note=problem if ort_compat.cuda_listed() else "")


def libraries(paths: Sequence[str]) -> tuple[str, ...]:
    """Absolute paths of shared libraries of custom operators. FileFault for one that does not load; without
    ONNX Runtime it need only be there."""
    found = tuple(map(os.path.abspath, paths))
    for path, named in zip(found, paths, strict=True):
        if not os.path.isfile(path):
            raise FileFault(f"{named or chr(39) * 2} does not exist.", LIBRARY)
        try:
            ort_compat.onnxruntime().SessionOptions().register_custom_ops_library(path)
        except UsageFault:
            continue
        except Exception as error:
            said = ort_compat.first_line(error)
            raise FileFault(f"{named} is no library of custom operators: {said}.", LIBRARY) from error
    return found


class Session:
    """One model, loaded. Raises RunFailed when ONNX Runtime does not take it."""

    def __init__(
        self,
        model: str | bytes,
        runtime: Runtime,
        *,
        optimise: bool = True,
        tf32: bool = False,
        folder: str = "",
    ) -> None:
        ort = ort_compat.onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_mem_pattern = False  # shapes change from run to run
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if folder:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            for library in runtime.libraries:
                options.register_custom_ops_library(library)
            self._session = ort.InferenceSession(
                model, options, providers=ort_compat.providers(runtime.provider, tf32=tf32), enable_fallback=0
            )
        except Exception as error:
            raise RunFailed(ort_compat.first_line(error)) from error
        if runtime.provider == "cuda" and ort_compat.CUDA not in self._session.get_providers():
            raise RunFailed("it fell back from CUDA to the CPU")
        self.inputs = {port.name: port.type for port in self._session.get_inputs()}
        self.outputs = {port.name: port.type for port in self._session.get_outputs()}
        self.placed = ort_compat.placement(self._session)

    def run(self, feeds: Mapping[str, Value], seconds: float = SECONDS) -> dict[str, Value]:
        """All outputs by name. Feeds that the model does not have are left out. Raises RunFailed, also for a
        run that is not done after so many seconds."""
        how = ort_compat.onnxruntime().RunOptions()
        alarm = threading.Timer(seconds, setattr, (how, "terminate", True))
        alarm.daemon = True
        alarm.start()
        try:
            return self._run(feeds, how)
        except RunFailed as error:
            if how.terminate:
                raise RunFailed(f"it was not done after {seconds:.0f} s") from error
            raise
        finally:
            alarm.cancel()

    def _run(self, feeds: Mapping[str, Value], how: Any) -> dict[str, Value]:
        given = {name: value for name, value in feeds.items() if name in self.inputs and value is not None}
        try:
            if self._plain:
                return dict(zip(self.outputs, self._session.run(None, given, how), strict=True))
            values = {name: ort_compat.to_ort(np.asarray(v), self.inputs[name]) for name, v in given.items()}
            results = self._session.run_with_ort_values(list(self.outputs), values, how)
            return {name: ort_compat.from_ort(v) for name, v in zip(self.outputs, results, strict=True)}
        except MemoryError:
            raise
        except Exception as error:
            raise RunFailed(ort_compat.first_line(error)) from error

    @property
    def _plain(self) -> bool:
        types = [*self.inputs.values(), *self.outputs.values()]
        return not any(ort_compat.element_type(t) in NOT_NUMPY_TYPES for t in types)
