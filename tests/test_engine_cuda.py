"""The engine on CUDA: every way of calling runs over stub libraries, which compute nothing; and the ways in which
threads share it, by sessions that are made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stubs
from families import family, merged, model, save

from netfuse_onnx.runtime import placed
from netfuse_onnx.runtime.cuda import DeviceThread

SCRIPT = """
import json, sys
import numpy as np
from netfuse_onnx.runtime import placed
from netfuse_onnx.runtime.opening import Opening, open_engine

placed._close = lambda *_: True  # nothing is computed, so values say nothing of graphs
merged, *sources = sys.argv[1:]
providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
engine = open_engine(merged, Opening(tuple(sources), providers, rows_apart=True, calibrate=0.01))
told = {"workers": engine.slots}


def requests(rows):
    return [engine.check(name, {"x": np.ones((rows, 8), np.float32)}) for name in engine.models]


for rows in (1, 2, 3) * 3:
    made = requests(rows)
    in_the_merged_file = lambda all: engine._run_merged(engine.packing.merged(all))
    for way in (engine.merged, in_the_merged_file, lambda all: [engine.alone([one])[0] for one in all]):
        assert [out["y"].shape for out in way(made)] == [(rows, 4)] * 3
    packed = [(one.model, engine.packing.alone([one])) for one in made[::2]]
    assert [out["y"].shape for (out,) in engine.calls.together(packed)] == [(rows, 4)] * 2
    assert [out["y"].shape for out in engine.alone([made[0], made[0]])] == [(rows, 4)] * 2
told["graphs"] = engine.calls.file.graphs
told["forms"] = sorted(key[0][-2] for key in engine.calls.own.get(0)._forms)
engine.close()
print(json.dumps(told))
"""
HOST = """
import sys
from netfuse_onnx.runtime.ort import Setup
from netfuse_onnx.runtime.placed import DeviceFile

for path in sys.argv[1:]:
    file = DeviceFile(path, Setup(("CUDAExecutionProvider", "CPUExecutionProvider")))
    print(file._open_sizes)
"""
CHOSEN = "g (float[n, 8] x, int64[1] k) => (float[n, m] y) { y, i = TopK(x, k) }"


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_all_ways_of_calling_run_on_cuda(io: str, tmp_path: Path) -> None:
    """Rows of own sessions are rounded up to powers of two, so that few graphs are captured."""
    stubs.needed()
    sources = family(tmp_path, count=3)
    done = stubs.python(tmp_path, "-c", SCRIPT, merged(tmp_path, sources, io), *sources)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["graphs"]
    assert {1, 2, 4, 8} <= {*told["forms"]} <= {1 << k for k in range(7)}
    assert told["workers"] == 1


def test_no_graph_of_a_file_whose_inputs_the_host_reads(tmp_path: Path) -> None:
    """ONNX Runtime captures such a file; each replay would have the k of the first call."""
    stubs.needed()
    (usual,) = family(tmp_path, count=1)
    chosen = save(tmp_path / "chosen.onnx", model(CHOSEN))
    done = stubs.python(tmp_path, "-c", HOST, usual, chosen)
    assert done.stdout.split()[-2:] == ["True", "False"], done.stderr[-3000:]


def test_the_device_thread_gives_answers_and_errors_to_those_who_asked() -> None:
    thread = DeviceThread()
    names = {thread.do(lambda: threading.current_thread().name) for _ in range(3)}
    assert len(names) == 1
    assert names != {threading.current_thread().name}
    assert thread.do(lambda: thread.do(lambda: 7)) == 7  # a job may ask for another
    with pytest.raises(ZeroDivisionError):
        thread.do(lambda: 1 // 0)
    answers: dict[int, int] = {}

    def ask(number: int) -> None:
        answers[number] = thread.do(lambda: number * number)

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert answers == {number: number * number for number in range(20)}
    thread.close()


class _Block:
    """Arrays that are their own copies on the device."""

    def __init__(self, likes: Mapping[str, Any], device: int) -> None:
        self.arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in likes.items()}

    def bind_inputs(self, binding: Any) -> None:
        binding.inputs = self.arrays

    def bind_outputs(self, binding: Any) -> None:
        binding.outputs = self.arrays

    def to_device(self) -> None: ...

    def to_host(self) -> None: ...


class _Session:
    """A session that doubles x. In a replay it adds the k that it has captured, as it does on CUDA where the
    host has read k; `reads` says that it is so."""

    def __init__(self, reads: bool) -> None:
        self.reads, self.captured = reads, None

    def io_binding(self) -> Any:
        binding = SimpleNamespace(inputs={}, outputs={}, bind_output=lambda *_: None)
        binding.clear_binding_outputs = binding.outputs.clear
        binding.get_outputs = lambda: [SimpleNamespace(numpy=lambda: self.result.copy())]
        return binding

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y")]

    def run_with_iobinding(self, binding: Any, graph: str) -> None:
        k = binding.inputs["k"]
        if graph != placed.NO_GRAPH and self.reads:
            k = self.captured = k.copy() if self.captured is None else self.captured
        self.result = 2 * binding.inputs["x"] + k
        if "y" in binding.outputs:
            binding.outputs["y"][...] = self.result


@pytest.mark.parametrize("reads", [False, True])
def test_a_graph_that_replays_old_values_is_not_used(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "Block", _Block)
    monkeypatch.setattr(placed, "_options", lambda graph, wait=True: graph)
    feeds = {"x": np.arange(4.0).reshape(2, 2), "k": np.array([3.0, 5.0])}
    form = placed.Placed(_Session(reads), feeds, "0", 0)
    assert form.graph is not reads
    form.fill({"x": feeds["x"], "k": np.array([7.0, 1.0])})
    np.testing.assert_array_equal(form.run()["y"], 2 * feeds["x"] + [7.0, 1.0])
