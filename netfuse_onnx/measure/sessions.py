"""Sessions as a server uses them: with all optimisations, and with thread settings to choose from.

Every way to run the models takes and returns numpy arrays; on CUDA the copies to the device and back are part
of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.run.runtime import (
    CUDA,
    RunFailed,
    Runtime,
    Value,
    first_line,
    onnxruntime,
    open_session,
    providers,
    session_options,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that a user can choose. `threads` share one operator, 0 where there is no choice;
    `branches` > 1 operators of one graph run at once; with `spin` idle threads wait busily, with `rest` they
    stop that when a call has ended; `graph` turns on CUDA graphs."""

    threads: int = 1
    branches: int = 1
    spin: bool = True
    rest: bool = False
    graph: bool = False

    def __str__(self) -> str:
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"] if self.threads else []
        words += [f"{self.branches} branches"] if self.branches > 1 else []
        words += ["no spinning"] if not self.spin else []
        words += ["no spinning between calls"] if self.rest else []
        words += ["CUDA graph"] if self.graph else []
        return ", ".join(words)


def session(path: str, runtime: Runtime, settings: Settings, *, tf32: bool = True, profile: str = "") -> Any:
    """Return an InferenceSession. `profile` is the prefix of the file of a profile. Raises RunFailed."""
    options = session_options()
    options.intra_op_num_threads = settings.threads
    if settings.branches > 1:
        options.execution_mode = onnxruntime().ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = settings.branches
    if not settings.spin:
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    if settings.rest:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    where = providers(runtime.provider, tf32=tf32)
    if settings.graph:
        where = [(CUDA, where[0][1] | {"enable_cuda_graph": "1"})]
    return open_session(path, options, runtime, where)


class Runner:
    """A session with its feeds. `wanted` has outputs of the right shapes, which CUDA graphs need."""

    def __init__(
        self,
        path: str,
        feeds: Mapping[str, Value],
        wanted: Mapping[str, Value],
        runtime: Runtime,
        settings: Settings,
        tf32: bool = True,
    ) -> None:
        self._session = session(path, runtime, settings, tf32=tf32)
        self.outputs = [port.name for port in self._session.get_outputs()]
        names = {port.name for port in self._session.get_inputs()}
        self._feeds = {name: value for name, value in feeds.items() if name in names and value is not None}
        self._bound = _Bound(self._session, self._feeds, self.outputs, wanted) if settings.graph else None

    def run(self) -> Sequence[Value]:
        """Run once and return the outputs, in order. Raises RunFailed."""
        try:
            if self._bound is not None:
                return self._bound.run()
            outputs: Sequence[Value] = self._session.run(self.outputs, self._feeds)
            return outputs
        except MemoryError:
            raise
        except Exception as error:
            raise RunFailed(first_line(error)) from error

    def named(self) -> dict[str, Value]:
        """Run once and return the outputs by name. Raises RunFailed."""
        return dict(zip(self.outputs, self.run(), strict=True))


class _Bound:
    """Inputs and outputs at fixed addresses on the device, as the replay of a CUDA graph needs them."""

    def __init__(
        self, session: Any, feeds: Mapping[str, Value], outputs: Sequence[str], wanted: Mapping[str, Value]
    ) -> None:
        ort = onnxruntime()
        self._session = session
        self._binding = session.io_binding()
        self._inputs, self._outputs = [], []
        try:
            for name, value in feeds.items():
                array = np.ascontiguousarray(np.asarray(value))
                place = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
                self._binding.bind_ortvalue_input(name, place)
                self._inputs.append((place, array))
            for name in outputs:
                array = np.asarray(wanted[name])
                place = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)
                self._binding.bind_ortvalue_output(name, place)
                self._outputs.append(place)
        except Exception as error:
            raise RunFailed(first_line(error)) from error

    def run(self) -> Sequence[Value]:
        for place, array in self._inputs:
            place.update_inplace(array)
        self._session.run_with_iobinding(self._binding)
        return [place.numpy() for place in self._outputs]
