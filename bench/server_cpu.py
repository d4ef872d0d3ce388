"""Measures the processor time and memory that `netfuse-onnx serve` takes for each request.

    python bench/server_cpu.py
    python bench/server_cpu.py --requests 5000 --models 8 -o server_cpu.json

A stock client (tritonclient) sends requests of about 6 kB, one after the other, to each model in turn. A call
of a model takes 0.04 ms, and 0.09 ms where other models ran before. The time is that of the whole server
process, user and system, the call included.
The client runs in this process. JSON goes to stdout or a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import tritonclient.grpc
import tritonclient.http
from onnx import numpy_helper

SIZE, INNER, OUT = 1500, 320, 16
"""Numbers of a request (6 kB), and sizes of the layers."""
TEXT = f"""<ir_version: 9, opset_import: ["": 17]> g (float[n, {SIZE}] x) => (float[n, {OUT}] y) {{
    h = MatMul(x, w1)
    r = Relu(h)
    y = MatMul(r, w2)
}}"""
WARM = 300
"""Requests before those that count."""
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = written(folder, arguments.models)
        merge = [sys.executable, "-m", "netfuse_onnx", "merge", *paths, "-o", str(folder / "bundle")]
        subprocess.run([*merge, "--io", "stacked", "--views"], check=True, capture_output=True)
        found = measured(folder / "bundle", [Path(path).stem for path in paths], arguments)
        found["call_us"] = called(paths[0])
    told = json.dumps(found, indent=2)
    if arguments.out:
        Path(arguments.out).write_text(told + "\n")
    else:
        print(told)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000, help="of each kind")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="of each kind; the median counts")
    parser.add_argument("-o", "--out", default="")
    return parser.parse_args()


def written(folder: Path, count: int) -> list[str]:
    """Write the models, with weights of their own."""
    paths = []
    for place in range(count):
        model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(place)
        for name, shape in (("w1", (SIZE, INNER)), ("w2", (INNER, OUT))):
            values = (rng.standard_normal(shape) / 40).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        paths.append(str(folder / f"m{place}.onnx"))
        onnx.save(model, paths[-1])
    return paths


def called(path: str) -> float:
    """Return the processor time of a call of ONNX Runtime by itself, in microseconds."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session, feeds = ort.InferenceSession(path, options), {"x": np.ones((1, SIZE), np.float32)}
    began = time.process_time()
    for _ in range(WARM):
        session.run(None, feeds)
    return round((time.process_time() - began) / WARM * 1e6, 1)


def measured(bundle: Path, models: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the bundle, and return the times of all kinds of requests."""
    command = [sys.executable, "-m", "netfuse_onnx", "serve", str(bundle), "--name", "family"]
    server = subprocess.Popen(
        [*command, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        told = dict(line.rstrip().split(": ", 1) for line in lines_until(server.stderr, "Serving"))
        http = tritonclient.http.InferenceServerClient(told["HTTP"].removeprefix("http://"))
        grpc = tritonclient.grpc.InferenceServerClient(told["gRPC"])
        found: dict[str, Any] = {"models": len(models), "start_mb": resident(server.pid), "cpu_us": {}}
        kinds = {
            "http_binary": (http, inputs(tritonclient.http, True)),
            "http_json": (http, inputs(tritonclient.http, False)),
            "grpc": (grpc, inputs(tritonclient.grpc, None)),
        }
        for kind, (client, given) in kinds.items():
            send(client, models, given, WARM)
            each = [one(server.pid, client, models, given, arguments) for _ in range(arguments.repeats)]
            found["cpu_us"][kind] = sorted(each)[len(each) // 2]
        return found | {"end_mb": resident(server.pid)}
    finally:
        server.terminate()
        server.wait(30)


def lines_until(stream: Any, word: str) -> list[str]:
    """Return the lines with a colon that come before one that begins with a word."""
    found = []
    for line in stream:
        if line.startswith(word):
            break
        if ": " in line:
            found.append(line)
    return found


def inputs(client: Any, binary: bool | None) -> list[Any]:
    """Return the inputs of a request."""
    one = client.InferInput("x", [1, SIZE], "FP32")
    values = np.linspace(-1, 1, SIZE, dtype=np.float32).reshape(1, SIZE)
    one.set_data_from_numpy(values, **({} if binary is None else {"binary_data": binary}))
    return [one]


def send(client: Any, models: list[str], given: list[Any], count: int) -> None:
    """Send requests to the models in turn, each after the answer to the one before."""
    for place in range(count):
        client.infer(models[place % len(models)], given)


def one(pid: int, client: Any, models: list[str], given: list[Any], arguments: argparse.Namespace) -> float:
    """Return the processor time of the server for one request, in microseconds."""
    before = spent(pid)
    send(client, models, given, arguments.requests)
    return round((spent(pid) - before) / arguments.requests * 1e6, 1)


def spent(pid: int) -> float:
    """Return the seconds that a process has computed, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
