"""Files on CUDA: their sessions, and the forms that have fixed places and captured graphs there.

A file whose shapes are computed on the device from open sizes is refused by CUDA graphs. It is opened once
for each form, with its sizes fixed, up to FORMS of them. Files that wait for the ids of a call (selected,
index) can't be captured at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from netfuse_onnx import library
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.calls import Results, gives_inputs, is_plain, run
from netfuse_onnx.runtime.elements import element
from netfuse_onnx.runtime.ort import CUDA, Setup, first_line, names_of, open_session
from netfuse_onnx.runtime.pinned import Block
from netfuse_onnx.runtime.types import Array

onnxruntime = library.onnxruntime()

GRAPHS = 16
"""Forms of one session that have a captured CUDA graph; others run without."""
USES = 3
"""The calls of a form from which on it has places: sizes that never come again, such as the lengths of a
decoder's past, are not worth them."""
MOST_USES = 1000
"""Forms whose calls are counted at a time."""
FORMS = 2
"""Forms for which a file is opened with fixed sizes, where CUDA graphs ask for it: each has the weights once
more on the device."""
USUAL = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
"""Options of the provider where the user names none: by default cuDNN times all its algorithms for each new
shape, which takes seconds in the middle of serving, and a session takes up to twice the memory it needs."""
GRAPH = {"enable_cuda_graph": "1"}
NO_GRAPH = "-1"
"""The id of a run that neither captures a graph nor replays one."""


class Placed:
    """A session with places on the device for the inputs and outputs of one form.

    `graph` is False where it is called without a CUDA graph: none was wanted, or the captured one gave other
    outputs than a plain run.
    """

    def __init__(self, session: Any, feeds: Mapping[str, Array], graph: str, device: int) -> None:
        """Take arrays of the shapes of the inputs, on which the session runs to show its outputs. `graph` is
        the id of the CUDA graph of this form, or NO_GRAPH."""
        self.session, self.binding = session, session.io_binding()
        self.inputs = Block({n: (a.shape, a.dtype) for n, a in feeds.items()}, device)
        self.inputs.bind_inputs(self.binding)
        expected = self._plain(feeds, device)
        self.outputs = Block({n: (a.shape, a.dtype) for n, a in expected.items()}, device)
        self.binding.clear_binding_outputs()
        self.outputs.bind_outputs(self.binding)
        self.graph = graph != NO_GRAPH
        self._use(graph)
        if self.graph:
            self.fill({name: array[..., ::-1] if array.ndim else array for name, array in feeds.items()})
            self.run()  # captures
            self.fill(feeds)
            self.graph = _close(expected, self.run())
        if not self.graph:
            self._use(NO_GRAPH)

    def _plain(self, feeds: Mapping[str, Array], device: int) -> dict[str, Array]:
        """Run without a graph, and return a copy of the outputs."""
        self.fill(feeds)
        self.inputs.to_device()
        names = names_of(self.session.get_outputs())
        for name in names:
            self.binding.bind_output(name, "cuda", device)
        self.session.run_with_iobinding(self.binding, _options(NO_GRAPH))
        return {name: one.numpy() for name, one in zip(names, self.binding.get_outputs(), strict=True)}

    def _use(self, graph: str) -> None:
        self._waits, self._goes_on = _options(graph), _options(graph, wait=False)

    def fill(self, feeds: Mapping[str, Array]) -> None:
        """Write the inputs to the host's side of their places."""
        for name, array in feeds.items():
            np.copyto(self.inputs.arrays[name], array)

    def start(self) -> None:
        """Copy the inputs to the device, and start a run without waiting for it."""
        self.inputs.to_device()
        self.session.run_with_iobinding(self.binding, self._goes_on)

    def wait(self) -> None:
        """Wait for the device, whatever runs on it."""
        self.binding.synchronize_outputs()

    def run(self) -> Results:
        """Run on what the host's side of the inputs holds, and return the outputs there."""
        self.inputs.to_device()
        self.session.run_with_iobinding(self.binding, self._waits)
        return self.get()

    def get(self) -> Results:
        """Copy the outputs of a run that has ended to the host, and return them."""
        self.outputs.to_host()
        return self.outputs.arrays


class DeviceFile:
    """The sessions of one file on the device, and its forms that have places there."""

    def __init__(self, path: str, setup: Setup) -> None:
        self._path, self._setup = path, setup
        self._forms: dict[Any, Placed | None] = {}
        self._uses = Counter[Any]()
        self.session, self._open_sizes = self._first()
        self._fixed = self.unsteady = 0
        """`unsteady` counts the calls of forms that had no places yet, and those that made them."""
        self.problem = ""
        """The reason why a form has no places, or no graph, where there is one."""

    @property
    def graphs(self) -> bool:
        """True where calls replay CUDA graphs, of some forms at least."""
        return any(placed is not None and placed.graph for placed in self._forms.values())

    def run(self, wanted: Sequence[str], feeds: Mapping[str, Array]) -> Results:
        """Run without places, and without a graph: it would be captured with the places of this one call, and
        replayed in all others. Raises CallFailed."""
        return run(self.session, wanted, feeds, self._bits, _options(NO_GRAPH))

    def placed(self, feeds: Mapping[str, Array]) -> Placed | None:
        """Return the places for inputs of these shapes. None where they have none yet, can't have any, or
        outputs come out in other sizes from call to call."""
        if not self._placeable:
            return None
        key = tuple([array.shape for array in feeds.values()])
        if key not in self._forms:
            self.unsteady += 1
            if len(self._uses) >= MOST_USES:
                self._uses.clear()
            self._uses[key] += 1
            if self._uses[key] < USES:
                return None
            del self._uses[key]
            self._forms[key] = self._made(feeds)
        return self._forms[key]

    def forget(self, placed: Placed) -> None:
        """Give a form no places any more."""
        for key, one in self._forms.items():
            if one is placed:
                self._forms[key] = None

    def _first(self) -> tuple[Any, bool]:
        """Return a session with open sizes, and True where CUDA graphs take it."""
        try:
            session = open_session(self._path, _with(self._setup, GRAPH))
            self._look_at(session)
            if self._placeable:
                return session, _on_device(session)
        except (FileFault, UsageFault):
            pass
        session = open_session(self._path, _with(self._setup, {}))
        self._look_at(session)
        return session, False

    def _look_at(self, session: Any) -> None:
        """Find out if all inputs and outputs can have places, and if some hold the bits of their values."""
        kinds = [port.type for port in (*session.get_inputs(), *session.get_outputs())]
        self._placeable = all(map(is_plain, kinds)) and not gives_inputs(session)
        self._bits = any((found := element(kind)) and found.number for kind in kinds)

    def _made(self, feeds: Mapping[str, Array]) -> Placed | None:
        """Return new places. Where making them fails, this form has none, and no graph is captured again."""
        try:
            return self._new(feeds)
        except MemoryError:
            raise
        except Exception as error:
            self._open_sizes, self._fixed, self.problem = False, FORMS, first_line(error)
            return None

    def _new(self, feeds: Mapping[str, Array]) -> Placed | None:
        device, number = _device(self._setup), len(self._forms)
        if number >= 4 * GRAPHS:
            return None
        if self._open_sizes:
            return Placed(self.session, feeds, str(number) if number < GRAPHS else NO_GRAPH, device)
        if self._fixed < FORMS and _on_device(self.session):
            try:
                session = open_session(
                    self._path, replace(_with(self._setup, GRAPH), dims=self._sizes(feeds))
                )
                self._fixed += 1
                return Placed(session, feeds, "0", device)
            except (FileFault, UsageFault):
                self._fixed = FORMS
        return Placed(self.session, feeds, NO_GRAPH, device)

    def _sizes(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Return the sizes of the symbolic axes."""
        sizes = {}
        for port in self.session.get_inputs():
            for dim, size in zip(port.shape, feeds[port.name].shape, strict=True):
                if isinstance(dim, str):
                    sizes[dim] = size
        return sizes


def _close(expected: Mapping[str, Array], found: Results) -> bool:
    """Return True where a replay gives what a plain run gave, but for another order of sums."""
    return all(
        np.allclose(
            found[name], value, rtol=1e-2, atol=1e-2 * float(np.abs(value).max(initial=0)), equal_nan=True
        )
        if value.dtype.kind == "f"
        else np.array_equal(found[name], value)
        for name, value in expected.items()
    )


def _on_device(session: Any) -> bool:
    """Return True where all inputs and outputs lie on the device. A value that the host reads, such as the k
    of TopK, would be that of the first call in each replay of a graph; ONNX Runtime captures it all the same.
    """
    if not hasattr(session, "get_input_memory_infos"):
        return False
    places = (*session.get_input_memory_infos(), *session.get_output_memory_infos())
    return all(place.name == "Cuda" for place in places)


def _options(graph: str, wait: bool = True) -> Any:
    """Return RunOptions for a graph id. They always name one: without, ONNX Runtime 1.31 throws and catches
    an error inside each run with options, which takes 0.1 ms."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    if not wait:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _with(setup: Setup, more: Mapping[str, str]) -> Setup:
    """Return a setup whose CUDA provider has more options, and the usual ones beside the user's."""
    found = []
    for one in setup.providers:
        name, own = (one, {}) if isinstance(one, str) else one
        found.append((name, {**USUAL, **own, **more}) if name == CUDA else one)
    return replace(setup, providers=tuple(found))


def _device(setup: Setup) -> int:
    first = setup.providers[0]
    return 0 if isinstance(first, str) else int(first[1].get("device_id", 0))
