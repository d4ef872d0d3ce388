"""Runtimes that convert a file before they run it, and those of JavaScript, for bench/portability.py.

Each is a function as in other_runtimes.py. MNN's own Python tools install packages and report to a server when
they are imported: its converter is called without them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from other_runtimes import RUNTIMES, Arrays, Run, output_names

NODE = os.environ.get("NODE_PATH", "")
"""The folder node_modules in which npm has put onnxruntime-web and onnxruntime-node."""
SCRIPT = """
const fs = require('fs'), ort = require(process.argv[1]);
const [model, given, out] = process.argv.slice(2);
(async () => {
  const session = await ort.InferenceSession.create(model), feeds = {};
  for (const {name, type, dims, file} of JSON.parse(fs.readFileSync(given))) {
    const raw = fs.readFileSync(file), kind = {float32: Float32Array, int64: BigInt64Array, int32: Int32Array,
      bool: Uint8Array}[type];
    feeds[name] = new ort.Tensor(type, new kind(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length)), dims);
  }
  const found = await session.run(feeds), rows = [];
  let k = 0;
  for (const name of session.outputNames) {
    const {type, data, dims} = found[name], file = `${out}.${k++}`;
    fs.writeFileSync(file, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    rows.push({name, type, dims: dims.map(Number), file});
  }
  fs.writeFileSync(out, JSON.stringify(rows));
  process.exit(0);
})().catch(error => { console.error(String(error)); process.exit(1); });
"""


def _javascript(package: str) -> Callable[[str], Run]:
    def load(path: str) -> Run:
        def run(feeds: Arrays) -> dict[str, np.ndarray]:
            with tempfile.TemporaryDirectory() as folder:
                rows = []
                for k, (name, value) in enumerate(feeds.items()):
                    file = f"{folder}/in{k}"
                    Path(file).write_bytes(np.ascontiguousarray(value).tobytes())
                    rows.append({"name": name, "type": str(value.dtype), "dims": value.shape, "file": file})
                Path(f"{folder}/in").write_text(json.dumps(rows))
                command = ["node", "-e", SCRIPT, package, path, f"{folder}/in", f"{folder}/out"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])
                found = json.loads(Path(f"{folder}/out").read_text())
                return {
                    row["name"]: np.frombuffer(Path(row["file"]).read_bytes(), row["type"]).reshape(
                        row["dims"]
                    )
                    for row in found
                }

        return run

    return load


def mnn(path: str) -> Run:
    """MNN, whose converter writes a file of its own."""
    import _tools
    import MNN

    out = f"{tempfile.mkdtemp()}/model.mnn"
    _tools.mnnconvert(["", "-f", "ONNX", "--modelFile", path, "--MNNModel", out, "--bizCode", "x"])
    names = [info.name for info in onnx.load(path, load_external_data=False).graph.input]
    outputs = output_names(path)
    net = MNN.nn.load_module_from_file(out, names, outputs)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        given = []
        for name in names:
            value = feeds[name].astype(np.int32) if feeds[name].dtype == np.int64 else feeds[name]
            given.append(
                MNN.expr.const(
                    value,
                    list(value.shape),
                    MNN.expr.NCHW,
                    MNN.expr.dtype.int if value.dtype.kind == "i" else MNN.expr.dtype.float,
                )
            )
        found = net.forward(given)
        return {
            name: np.array(MNN.expr.convert(value, MNN.expr.NCHW).read())
            for name, value in zip(outputs, found, strict=True)
        }

    return run


def onnx2torch(path: str) -> Run:
    """onnx2torch, which makes a module of PyTorch. It wants torchvision for operators of detectors alone."""
    import torch

    try:
        import torchvision  # noqa: F401
    except ImportError:
        import types

        for name in ("torchvision", "torchvision.ops"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.ops"].roi_align = None  # type: ignore[attr-defined]
    import onnx2torch as library

    model = onnx.load(path)
    net, names = library.convert(model).eval(), [info.name for info in model.graph.input]
    outputs = output_names(path)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = net(*[torch.from_numpy(np.array(feeds[name])) for name in names])
        each = found if isinstance(found, list | tuple) else [found]
        return {name: value.numpy() for name, value in zip(outputs, each, strict=True)}

    return run


def iree(path: str) -> Run:
    """IREE: its importer, its compiler for the CPU, its runtime."""
    import iree.compiler.tools as tools
    import iree.runtime as runtime

    folder = tempfile.mkdtemp()
    command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", path, "-o", f"{folder}/m.mlir"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])
    binary = tools.compile_file(f"{folder}/m.mlir", target_backends=["llvm-cpu"], input_type="onnx")
    module = runtime.load_vm_flatbuffer(binary, driver="local-sync")
    model = onnx.load(path, load_external_data=False)
    names, outputs = [info.name for info in model.graph.input], output_names(path)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        found = getattr(module, model.graph.name)(*[np.ascontiguousarray(feeds[name]) for name in names])
        each = found if isinstance(found, list | tuple) else [found]
        return {name: np.asarray(value.to_host()) for name, value in zip(outputs, each, strict=True)}

    return run


EVERY: dict[str, Callable[[str], Run]] = {
    **RUNTIMES,
    "onnxruntime-web": _javascript("onnxruntime-web"),
    "onnxruntime-node": _javascript("onnxruntime-node"),
    "mnn": mnn,
    "onnx2torch": onnx2torch,
    "iree": iree,
}
