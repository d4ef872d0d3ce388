"""Measures one file of many tenants: an encoder with adapters of rank 4, and rows that find their tenant.

    python bench/tenants.py --tenants 1000 --folder /tmp/tenants

It writes the tenants (the base once, as external data that all of them name), merges them with `--io routed`,
and compares a call with 16 rows of 16 random tenants with a call of one tenant with a batch of 16.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import netfuse_onnx

HEADS, RANK = 4, 4
ADAPTED = ("query", "key", "value", "out")


class Encoder:
    """An encoder of some layers, whose attention matrices have adapters: x W + (x A) B."""

    def __init__(self, layers: int, width: int, sequence: int) -> None:
        self.layers, self.width, self.sequence = layers, width, sequence
        self.nodes: list[onnx.NodeProto] = []
        self.base: dict[str, np.ndarray[Any, Any]] = {}
        self.own: dict[str, tuple[int, int]] = {}
        rng = np.random.default_rng(0)
        self.random = lambda *shape: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    def node(self, op: str, *ins: str, **attrs: Any) -> str:
        out = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, ins, [out], out, **attrs))
        return out

    def stored(self, name: str, *shape: int) -> str:
        self.base[name] = self.random(*shape)
        return name

    def const(self, name: str, values: Any) -> str:
        self.base[name] = np.asarray(values)
        return name

    def linear(self, x: str, name: str, rows: int, columns: int, *, adapted: bool = False) -> str:
        y = self.node("MatMul", x, self.stored(f"{name}.weight", rows, columns))
        if not adapted:
            return y
        self.own[f"{name}.a"], self.own[f"{name}.b"] = (rows, RANK), (RANK, columns)
        return self.node("Add", y, self.node("MatMul", self.node("MatMul", x, f"{name}.a"), f"{name}.b"))

    def normal(self, x: str, name: str) -> str:
        self.base[f"{name}.scale"] = np.ones(self.width, np.float32)
        self.base[f"{name}.bias"] = np.zeros(self.width, np.float32)
        return self.node("LayerNormalization", x, f"{name}.scale", f"{name}.bias", axis=-1)

    def heads(self, x: str, perm: list[int]) -> str:
        size = self.width // HEADS
        split = self.node("Reshape", x, self.const("split", np.array([0, 0, HEADS, size], np.int64)))
        return self.node("Transpose", split, perm=perm)

    def layer(self, x: str, k: int) -> str:
        w = self.width
        q, key, v = (self.linear(x, f"{k}.{n}", w, w, adapted=True) for n in ADAPTED[:3])
        scores = self.node("MatMul", self.heads(q, [0, 2, 1, 3]), self.heads(key, [0, 2, 3, 1]))
        scale = self.const("scale", np.float32((w // HEADS) ** -0.5))
        weights = self.node("Softmax", self.node("Mul", scores, scale), axis=-1)
        mixed = self.node(
            "Transpose", self.node("MatMul", weights, self.heads(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3]
        )
        joined = self.node("Reshape", mixed, self.const("join", np.array([0, 0, w], np.int64)))
        x = self.normal(self.node("Add", x, self.linear(joined, f"{k}.out", w, w, adapted=True)), f"{k}.n1")
        inner = self.node("Relu", self.linear(x, f"{k}.up", w, 4 * w))
        return self.normal(self.node("Add", x, self.linear(inner, f"{k}.down", 4 * w, w)), f"{k}.n2")

    def write(self, folder: Path, tenants: int) -> list[str]:
        """Write the tenants. Returns their paths."""
        x = "x"
        for k in range(self.layers):
            x = self.layer(x, k)
        self.nodes.append(
            helper.make_node(
                "ReduceMean", [x, self.const("one", np.array([1], np.int64))], ["y"], "pool", keepdims=0
            )
        )
        value = helper.make_tensor_value_info
        inputs = [value("x", TensorProto.FLOAT, ["batch", self.sequence, self.width])]
        outputs = [value("y", TensorProto.FLOAT, ["batch", self.width])]
        shared, offset = [], 0
        with open(folder / "base.bin", "wb") as data:
            for name, array in self.base.items():
                tensor = numpy_helper.from_array(array, name)
                if array.nbytes > 1024:
                    onnx.external_data_helper.set_external_data(tensor, "base.bin", offset, array.nbytes)
                    tensor.ClearField("raw_data")
                    tensor.data_location = TensorProto.EXTERNAL
                    offset += data.write(array.tobytes())
                shared.append(tensor)
        paths = []
        for m in range(tenants):
            rng = np.random.default_rng(m)
            own = [
                numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) * 0.1, n)
                for n, s in self.own.items()
            ]
            graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, [*shared, *own])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
            paths.append(str(folder / f"tenant{m}.onnx"))
            Path(paths[-1]).write_bytes(model.SerializeToString())
        return paths


def best(*calls: Callable[[], Any], rounds: int) -> list[float]:
    """The shortest time of each call in microseconds, in turns."""
    times = [float("inf")] * len(calls)
    for _ in range(rounds):
        for k, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[k] = min(times[k], (time.perf_counter() - start) * 1e6)
    return times


def session(path: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sequence", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--routing", default="auto")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(given.layers, given.width, given.sequence)
    paths, out = encoder.write(given.folder, given.tenants), str(given.folder / "merged.onnx")
    start = time.perf_counter()
    report = netfuse_onnx.merge(
        paths, out, io="routed", routing=given.routing, target=given.target, verify=not given.no_verify,
        dims={"rows": given.rows},
    )  # fmt: skip
    merging = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    one, many = session(paths[0], given.threads), session(out, given.threads)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((given.rows, given.sequence, given.width)).astype(np.float32)
    ids = rng.permutation(given.tenants)[: given.rows].astype(np.int64)
    source, routed = best(
        lambda: one.run(None, {"x": x}), lambda: many.run(None, {"x": x, "model": ids}), rounds=given.rounds
    )
    (got,) = many.run(None, {"x": x, "model": ids})
    for row, tenant in enumerate(ids):
        (want,) = session(paths[tenant], 1).run(None, {"x": x[row : row + 1]})
        np.testing.assert_allclose(got[row], want[0], rtol=1e-3, atol=1e-4)
    print(json.dumps({
        "tenants": given.tenants, "rows": given.rows, "by": report.io, "file_mb": report.size / 1e6,
        "sources_mb": (sum(map(os.path.getsize, paths)) + os.path.getsize(given.folder / "base.bin")) / 1e6,
        "merge_seconds": round(merging, 1), "peak_mb": round(peak), "one_source_us": round(source, 1),
        "routed_us": round(routed, 1), "ratio": round(routed / source, 3),
        "routing": [(row.by, row.microseconds) for row in report.routing],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
