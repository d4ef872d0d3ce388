"""Runs one model in ONNX Runtime's CUDA provider over the stub libraries and tells what it did.

trace.py starts it with the stubs on LD_LIBRARY_PATH: `observe.py SETTINGS.json OUT.json`. ORT's own log
(level verbose) goes to stderr, which trace.py keeps; the rest is written to OUT.json:

    nodes     what the executor ran, in order: operator, provider, shapes in and out
    log       every launch, product, copy and synchronisation of one call, each with the node it belongs to
    graph     whether a session with enable_cuda_graph is accepted: "accepted" or ORT's reason
    error     if it can't be loaded or run
"""

from __future__ import annotations

import bisect
import ctypes
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

WARM_UP = 2
CUDART = "libcudart.so.13"
BATCH = ("batch", "n", "b")
KINDS = {"float": "float32", "float16": "float16", "double": "float64", "bfloat16": "uint16"}
NAMED = {"int64", "int32", "int8", "uint8", "uint16", "uint32", "uint64", "bool", "int16"}


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    out: dict = {}
    try:
        out |= _call(settings)
    except Exception as error:  # ORT's own errors have no common base
        out["error"] = _short(error)
    if settings["graph"]:
        out["graph"] = _graph(settings)
    Path(sys.argv[2]).write_text(json.dumps(out))


def _call(settings: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        session = _session(settings, profile=f"{folder}/profile")
        out = {"inputs": {}, "outputs": {}}
        feeds = _feeds(session, settings["dims"])
        out["inputs"] = {name: list(value.shape) for name, value in feeds.items()}
        binding = _bind(session, feeds)
        library = ctypes.CDLL(CUDART)
        for _ in range(WARM_UP):
            session.run_with_iobinding(binding)
        library.fakecuda_start()
        session.run_with_iobinding(binding)
        log = Path(folder) / "log"
        library.fakecuda_dump(str(log).encode())
        start = session.get_profiling_start_time_ns()
        profile = json.loads(Path(session.end_profiling()).read_text())
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    nodes = _nodes(profile)
    _attribute(entries, nodes, start)
    return out | {"nodes": nodes, "log": entries}


def _session(settings: dict, profile: str = "", graph: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 0
    options.intra_op_num_threads = 1
    if settings["fixed"]:
        for name in _symbols(settings["path"]):
            options.add_free_dimension_override_by_name(name, _size(name, settings["dims"]))
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    cuda = {"use_tf32": str(int(settings["tf32"])), **settings["options"]}
    if graph:
        cuda["enable_cuda_graph"] = "1"
    providers = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    session = ort.InferenceSession(settings["path"], options, providers=providers)
    if "CUDAExecutionProvider" not in session.get_providers():
        raise RuntimeError("the CUDA provider did not load; see the log (--log)")
    return session


def _symbols(path: str) -> list[str]:
    """Returns the names of the inputs' symbolic dimensions."""
    graph = onnx.load(path, load_external_data=False).graph
    dims = [dim for item in graph.input for dim in item.type.tensor_type.shape.dim]
    return sorted({dim.dim_param for dim in dims if dim.dim_param})


def _feeds(session: ort.InferenceSession, dims: dict[str, int]) -> dict[str, np.ndarray]:
    """Returns ones for inputs that may be indices, lengths or masks, else random numbers."""
    numbers = np.random.default_rng(0)
    feeds = {}
    for item in session.get_inputs():
        shape = [dim if isinstance(dim, int) else _size(str(dim), dims) for dim in item.shape]
        kind = item.type.removeprefix("tensor(").removesuffix(")")
        if kind in NAMED:
            feeds[item.name] = np.ones(shape, kind)
        else:
            feeds[item.name] = numbers.standard_normal(shape).astype(KINDS[kind])
    return feeds


def _size(name: str, dims: dict[str, int]) -> int:
    return dims.get(name, dims["batch"] if name.lower() in BATCH else dims["*"])


def _bind(session: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> ort.IOBinding:
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    for item in session.get_outputs():
        binding.bind_output(item.name, "cuda", 0)
    return binding


def _graph(settings: dict) -> str:
    try:
        session = _session(settings, graph=True)
        binding = _bind(session, _feeds(session, settings["dims"]))
        for _ in range(WARM_UP):
            session.run_with_iobinding(binding)
    except Exception as error:
        return _short(error)
    return "accepted"


def _nodes(profile: list[dict]) -> list[dict]:
    """Returns the nodes that ran in the last call."""
    ran = [e for e in profile if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    calls = [e["ts"] for e in profile if e.get("cat") == "Session" and e["name"] == "model_run"]
    found = []
    for event in sorted(ran, key=lambda e: e["ts"]):
        if calls and event["ts"] < max(calls):
            continue
        said = event["args"]
        node = {"name": event["name"].removesuffix("_kernel_time"), "op": said["op_name"], "ts": event["ts"]}
        node["provider"] = said["provider"]
        node["in"] = said.get("input_type_shape", [])
        node["out"] = said.get("output_type_shape", [])
        found.append(node)
    return found


def _attribute(entries: list[dict], nodes: list[dict], start: int) -> None:
    """Gives each log entry the node that had begun last: ORT runs nodes one after the other."""
    begun = [node["ts"] for node in nodes]
    for entry in entries:
        entry["node"] = bisect.bisect_right(begun, (entry.pop("ns") - start) / 1000) - 1


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


if __name__ == "__main__":
    main()
