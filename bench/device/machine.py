"""Says what machine this is, and if the provider multiplies two matrices: `machine.py cuda|cpu`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np

from netfuse_onnx.run import cuda

PACKAGES = (
    "numpy",
    "onnx",
    "onnx-graphsurgeon",
    "rich",
    "click",
    "torch",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
)
NAMES = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def main() -> int:
    provider = sys.argv[1]
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")
    for name in PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name}: no metadata")
    import onnxruntime as ort

    if provider == "cuda":
        _card()
        print(*(f"NOT FOUND: {name}" for name in cuda.missing(ort)), sep="\n")
    where = os.path.dirname(ort.__file__)
    print(f"onnxruntime {ort.__version__} in {where}: {ort.get_available_providers()}")
    return 0 if _works(ort, NAMES[provider]) else 1


def _card() -> None:
    query = "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit"
    try:
        said = subprocess.run(
            ["nvidia-smi", query, "--format=csv"], capture_output=True, text=True, check=False
        )
        print(said.stdout.strip() or said.stderr.strip())
    except FileNotFoundError:
        print("no nvidia-smi")


def _works(ort: Any, name: str) -> bool:
    from onnx import parser

    graph = "g (float[64,64] a, float[64,64] b) => (float[64,64] c) { c = MatMul(a, b) }"
    text = f'<ir_version: 8, opset_import: ["": 17]> {graph}'
    options = ort.SessionOptions()
    options.log_severity_level = 0 if os.environ.get("VERBOSE") else 2
    start = time.monotonic()
    try:
        session = ort.InferenceSession(
            parser.parse_model(text).SerializeToString(), options, providers=[name]
        )
        if name not in session.get_providers():
            print(f"{name} did not load")
            return False
        a, b = np.random.default_rng(0).standard_normal((2, 64, 64)).astype("f")
        (c,) = session.run(None, {"a": a, "b": b})
    except Exception as error:
        print(f"{name} failed: {error}")
        return False
    print(f"{name} works: error {np.abs(c - a @ b).max():.1e} of 64x64, {time.monotonic() - start:.1f} s")
    return True


if __name__ == "__main__":
    sys.exit(main())
