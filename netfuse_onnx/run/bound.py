"""Sessions whose inputs and outputs keep their place in the memory of the device.

A server binds them once (ONNX Runtime's IO binding), so that a call can do without copies, and a CUDA graph
needs it: its replay reads and writes where it was captured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.run.runtime import RunFailed, Runtime, Value, first_line, onnxruntime

CUDA_GRAPH = {"enable_cuda_graph": "1"}
"""The option of the CUDA provider that captures the first run and replays it from then on."""


class Bound:
    """A session with fixed places for one set of shapes. `wanted` has outputs of the right shapes and types.

    The constructor raises RunFailed for what has no fixed place: sequences, strings, types that
    numpy lacks, outputs that are inputs.
    """

    def __init__(
        self, session: Any, feeds: Mapping[str, Value], wanted: Mapping[str, Value], runtime: Runtime
    ) -> None:
        self.session = session
        self.binding = session.io_binding()
        place_on, ort = device(runtime), onnxruntime()
        taken = {port.name for port in session.get_inputs()}
        self._away = place_on != "cpu"
        self._inputs, self._outputs = dict[str, Any](), dict[str, Any]()
        try:
            for name, value in feeds.items():
                if name in taken and value is not None:
                    array = self._copied(_tensor(name, value))
                    place = ort.OrtValue.ortvalue_from_numpy(array, place_on, 0)
                    self.binding.bind_ortvalue_input(name, place)
                    self._inputs[name] = place
            for port in session.get_outputs():
                if port.name in taken:  # gaps.INPUT_GIVEN_OUT
                    raise RunFailed(f"output {port.name!r} is an input, which has no place of its own")
                like = _tensor(port.name, wanted.get(port.name))
                place = ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype, place_on, 0)
                self.binding.bind_ortvalue_output(port.name, place)
                self._outputs[port.name] = place
        except Exception as error:
            raise RunFailed(first_line(error)) from error

    def put(self, feeds: Mapping[str, Value]) -> None:
        """Copy inputs to their places."""
        for name, place in self._inputs.items():
            place.update_inplace(np.ascontiguousarray(np.asarray(feeds[name])))

    def run(self, options: Any = None) -> None:
        """Run on what was put last. Raises RunFailed."""
        try:
            self.session.run_with_iobinding(self.binding, options)
        except MemoryError:
            raise
        except Exception as error:
            raise RunFailed(first_line(error)) from error

    def wait(self) -> None:
        """Wait until the device has done all that was started on it."""
        self.binding.synchronize_outputs()

    def get(self) -> dict[str, Value]:
        """Return a copy of the outputs."""
        return {name: self._copied(place.numpy()) for name, place in self._outputs.items()}

    def _copied(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy an array that is the place itself, not a copy of it: on the CPU."""
        return array if self._away else array.copy()

    def call(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Put, run, get. Raises RunFailed."""
        self.put(feeds)
        self.run()
        return self.get()


def device(runtime: Runtime) -> str:
    """Return ONNX Runtime's name of the device that a provider runs on."""
    return runtime.provider


def fixed_dims(shapes: Mapping[str, Sequence[Any]], feeds: Mapping[str, Value]) -> dict[str, int]:
    """Return the sizes that feeds give to the symbolic dims of inputs, without dims of one name that have
    several. `shapes` has sizes and names."""
    sizes: dict[str, set[int]] = {}
    for name, dims in shapes.items():
        value = feeds.get(name)
        if isinstance(value, np.ndarray) and len(dims) == value.ndim:
            for dim, size in zip(dims, value.shape, strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, set()).add(size)
    return {name: min(found) for name, found in sizes.items() if len(found) == 1}


def fix(options: Any, dims: Mapping[str, int]) -> None:
    """Fix symbolic dims in SessionOptions, as a server with one size does it. ONNX Runtime then computes
    shapes when it loads the model, which it would else do on the CPU in each run."""
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)


def _tensor(name: str, value: Value) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise RunFailed(f"{name!r} is no tensor, so it has no fixed place")
    return np.ascontiguousarray(value)
