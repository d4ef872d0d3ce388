"""Bases and LoRA adapters for tests, written by hand: neither torch nor peft is needed.

The network is y = relu(x W1 + b1) W2 + b2, with the modules `net.layer.0.q` and `net.layer.1.v`; each style writes it
as one exporter does. `expected` computes in float64 what an adapted network gives.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

MODULES = ("net.layer.0.q", "net.layer.1.v")
SIZES = {MODULES[0]: (6, 10), MODULES[1]: (10, 4)}
"""The features that come in and go out."""
STYLES = ("torchscript", "dynamo", "gemm", "conv1d", "transposed", "bias", "left")
NAMES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": ml_dtypes.bfloat16, "I64": np.int64}


# --------------------------------------------------------------------------- bases


def values(module: str, role: str) -> Array:
    """The base's tensor as torch has it: a weight [out, in], a bias [out]."""
    inputs, outputs = SIZES[module]
    rng = np.random.default_rng([len(module), MODULES.index(module), len(role)])
    shape = (outputs, inputs) if role == "weight" else (outputs,)
    return rng.standard_normal(shape).astype(np.float32)


def base(folder: Path, style: str = "torchscript", prefix: str = "", dtype: int = TensorProto.FLOAT) -> str:
    """Write the network and return its path. `prefix` stands before all names of modules."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    writer = _Writer(style, prefix, kind)
    hidden = writer.linear("x", MODULES[0])
    writer.nodes.append(helper.make_node("Relu", [hidden], ["r"], name="/Relu"))
    result = writer.linear("r", MODULES[1])
    dims: list[list[Any]] = [["n", 6], ["n", 4]]
    if style == "left":
        dims = [[6, "n"], [4, "n"]]
    graph = helper.make_graph(
        [*writer.nodes, helper.make_node("Identity", [result], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, dims[0])],
        [helper.make_tensor_value_info("y", dtype, dims[1])],
        writer.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{prefix}{style}.onnx"
    onnx.save(model, path)
    return str(path)


@dataclass
class _Writer:
    style: str
    prefix: str
    kind: Any
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def linear(self, x: str, module: str) -> str:
        """Write one module and return its result."""
        name, number = self.prefix + module, len(self.nodes)
        weight, bias = values(module, "weight"), values(module, "bias")
        path, out = "/" + "/".join(_parts(name)), f"h{number}"
        if self.style in ("gemm", "conv1d"):
            turned = self.style == "gemm"
            self._weight(weight if turned else weight.T, f"{name}.weight")
            self._weight(bias, f"{name}.bias")
            inputs = [x, f"{name}.weight", f"{name}.bias"]
            self._node("Gemm", inputs, out, f"{path}/Gemm", **({"transB": 1} if turned else {}))
            return out
        if self.style == "left":
            self._weight(weight, f"{name}.weight")
            self._weight(bias.reshape(-1, 1), f"{name}.bias")
            self._node("MatMul", [f"{name}.weight", x], f"m{number}", "")
        elif self.style == "transposed":
            self._weight(weight, f"{name}.weight")
            self._node("Transpose", [f"{name}.weight"], f"t{number}", "", perm=[1, 0])
            self._node("MatMul", [x, f"t{number}"], f"m{number}", f"{path}/MatMul")
        else:
            renamed = f"onnx::MatMul_{number}" if self.style == "torchscript" else f"val_{number}"
            self._weight(weight.T, renamed)
            own = f"{path}/MatMul" if self.style == "torchscript" else f"node_MatMul_{number}"
            self._node("MatMul", [x, renamed], f"m{number}", own)
            if self.style == "dynamo":
                scopes = str(["", name.rsplit(".", 1)[0], name, "linear"])
                self.nodes[-1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
        if self.style != "left":
            self._weight(bias, f"{name}.bias")
        self._node("Add", [f"m{number}", f"{name}.bias"], out, "")
        return out

    def _weight(self, array: Array, name: str) -> None:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array.astype(self.kind)), name))

    def _node(self, op: str, inputs: Sequence[str], out: str, name: str, **attrs: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attrs))


def _parts(name: str) -> list[str]:
    """The scopes of a module: an index belongs to the list that holds it."""
    parts: list[str] = []
    for part in name.split("."):
        if part.isdecimal():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return parts


# --------------------------------------------------------------------------- adapters


def safetensors(path: Path, tensors: Mapping[str, Array], kind: str = "F32") -> None:
    """Write a safetensors file whose tensors all have one type."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array.astype(NAMES[kind])).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q", "v"], "bias": "none"}


@dataclass
class Adapter:
    """An adapter on disk: the path of its folder, its pairs by module with their scales, its other tensors."""

    path: str
    pairs: dict[str, tuple[Array, Array, float]]
    replaced: dict[str, Array]


def adapter(
    folder: Path,
    name: str,
    rank: int = 2,
    modules: Sequence[str] = MODULES,
    replaced: Mapping[str, Array] | None = None,
    kind: str = "F32",
    prefix: str = "base_model.model.",
    seed: int = 0,
    **config: Any,
) -> Adapter:
    """Write an adapter of the network as peft saves it. The scale is 3 unless `config` says otherwise."""
    rng = np.random.default_rng([seed, *name.encode()])
    tensors, pairs = {}, {}
    for module in modules:
        inputs, outputs = SIZES[module]
        a, b = (rng.standard_normal(shape).astype(NAMES[kind]) for shape in ((rank, inputs), (outputs, rank)))
        tensors[f"{prefix}{module}.lora_A.weight"], tensors[f"{prefix}{module}.lora_B.weight"] = a, b
        pairs[module] = (a.astype(np.float64), b.astype(np.float64), 3.0)
    tensors |= {prefix + key: value for key, value in (replaced or {}).items()}
    where = folder / name
    where.mkdir()
    safetensors(where / "adapter_model.safetensors", tensors, kind)
    settings = {**CONFIG, "r": rank, "lora_alpha": 3 * rank, **config}
    (where / "adapter_config.json").write_text(json.dumps(settings))
    return Adapter(str(where), pairs, dict(replaced or {}))


def expected(x: Array, one: Adapter) -> Array:
    """The result of the network with one adapter, in float64. `x` and it are [n, features]."""
    hidden = x.astype(np.float64)
    for module in MODULES:
        weight, bias = (
            one.replaced.get(f"{module}.{role}", values(module, role)).astype(np.float64)
            for role in ("weight", "bias")
        )
        if module in one.pairs:
            a, b, scale = one.pairs[module]
            weight = weight + scale * (b @ a)
        hidden = hidden @ weight.T + bias
        if module == MODULES[0]:
            hidden = np.maximum(hidden, 0)
    return hidden
