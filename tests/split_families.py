"""Families of many forms, as files: what split must give back byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from families import MLP, MLP_TEXT, WIDE, WIDE_WEIGHTS, family, merged, model, save
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.write import origins, packing

Options = Mapping[str, Any]
Made = tuple[list[str], Options]
BODIES = """g (float[n, 8] x, bool[1] c) => (float[n, 8] y) {
    y = If (c) <then_branch = t () => (float[n, 8] a) { a = MatMul(x, w1) },
                else_branch = e () => (float[n, 8] b) { h = MatMul(x, w2) b = Relu(h) }>
}"""
GEMMS = """g (float[n, 24] x) => (float[n, 20] y) {
    h = Gemm<transB=1>(x, w1, b1)
    r = Relu(h)
    y = Gemm<transB=1, alpha=0.5>(r, w2, b2)
}"""
FILTERS = """g (float[n, 8, 6, 6] x) => (float[n, 12, 4, 4] y) {
    h = Conv<pads=[1, 1, 1, 1]>(x, w1, b1)
    p = PRelu(h, s)
    y = Conv(p, w2)
}"""
TIED = "g (float[n, 24] x) => (float[n, 24] y) { h = MatMul(x, w1) r = Tanh(h) y = MatMul(r, w1) }"


def _plain(text: str, weights: Mapping[str, tuple[int, ...]], **options: Any) -> Callable[[Path], Made]:
    return lambda folder: (family(folder, text, weights, count=3), options)


def _changed(change: Callable[[onnx.ModelProto, int], None], **options: Any) -> Callable[[Path], Made]:
    """A wide MLP of three models, each after `change`."""

    def write(folder: Path) -> Made:
        paths = []
        for k in range(3):
            proto = model(WIDE, WIDE_WEIGHTS, seed=k)
            change(proto, k)
            paths.append(save(folder / f"{'abc'[k]}.onnx", proto))
        return paths, options

    return write


def _described(proto: onnx.ModelProto, k: int) -> None:
    proto.producer_name, proto.producer_version, proto.model_version = "a tool", "1.2", 7 + k
    proto.doc_string = f"model {k}"
    proto.metadata_props.add(key="trained on", value=f"day {k}")
    for node in proto.graph.node:
        node.doc_string = "line 12, in forward"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File net.py, line 12\n" * 5)


def _typed(proto: onnx.ModelProto, k: int) -> None:
    """Values in the typed field, of which one is given twice, and an initializer that nothing reads."""
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.reshape(-1).tolist())
    idle = np.random.default_rng(k).integers(0, 9, 400)
    proto.graph.initializer.append(helper.make_tensor("idle", TensorProto.INT64, [400], idle))


def _equal(proto: onnx.ModelProto, k: int) -> None:
    """One weight is equal in all models, another one in two of them."""
    for name, seed in (("w1", 9), ("w2", min(k, 1))):
        tensor = next(each for each in proto.graph.initializer if each.name == name)
        values = np.random.default_rng(seed).standard_normal(tuple(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name))


def _constants(proto: onnx.ModelProto, k: int) -> None:
    """Weights in Constant nodes, and operators that compute nothing."""
    tensor = proto.graph.initializer.pop(0)
    node = helper.make_node("Constant", [], [tensor.name], value=tensor)
    proto.graph.node.insert(0, node)
    proto.graph.node.append(helper.make_node("Identity", ["y"], ["z"]))
    proto.graph.output[0].name = "z"


def _function(proto: onnx.ModelProto, k: int) -> None:
    nodes = [helper.make_node("Tanh", ["a"], ["t"]), helper.make_node("Relu", ["t"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Act", ["a"], ["b"], nodes, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Act", "own"


def _cast(dtype: int) -> Callable[[onnx.ModelProto, int], None]:
    def change(proto: onnx.ModelProto, k: int) -> None:
        """The first weight in another type, behind a Cast."""
        tensor = proto.graph.initializer[0]
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(values, "w1_"))
        proto.graph.node.insert(0, helper.make_node("Cast", ["w1_"], ["w1"], to=TensorProto.FLOAT))

    return change


def _packed(proto: onnx.ModelProto, k: int) -> None:
    """The first weight as packed INT4 with scales."""
    proto.opset_import[0].version = 21
    raw = np.random.default_rng(k).integers(0, 256, 512, np.uint8).tobytes()
    proto.graph.initializer[0].CopyFrom(
        TensorProto(name="q", data_type=TensorProto.INT4, dims=[64, 16], raw_data=raw)
    )
    scale = np.random.default_rng(k).random(16, np.float32) + np.float32(0.1)
    proto.graph.initializer.append(numpy_helper.from_array(scale, "s"))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["w1"], axis=1))


def _words(proto: onnx.ModelProto, k: int) -> None:
    words = helper.make_tensor("words", TensorProto.STRING, [2], [f"yes {k}".encode(), b"no"])
    proto.graph.initializer.append(words)
    proto.graph.node.append(helper.make_node("Identity", ["words"], ["said"]))
    proto.graph.output.append(helper.make_tensor_value_info("said", TensorProto.STRING, [2]))


def _external(folder: Path) -> Made:
    """Models with data files; those of two are in folders of their own, under one name."""
    paths = []
    for k in range(3):
        home = folder / f"m{k}"
        (home / "data").mkdir(parents=True)
        path, location = home / "model.onnx", ("data/w.bin", "model.data", "model.data")[k]
        proto = model(WIDE, WIDE_WEIGHTS, seed=k)
        onnx.save_model(proto, path, save_as_external_data=True, location=location, size_threshold=0)
        paths.append(str(path))
    return paths, {"names": ["p", "q", "r"]}


FAMILIES: Mapping[str, Callable[[Path], Made]] = {
    "separate": _plain(MLP_TEXT, MLP),
    "stacked": _plain(WIDE, WIDE_WEIGHTS, io="stacked"),
    "routed": _plain(WIDE, WIDE_WEIGHTS, io="routed"),
    "combined": _plain(WIDE, WIDE_WEIGHTS, combine="mean"),
    "for the CPU": _plain(
        FILTERS, {"w1": (16, 8, 3, 3), "b1": (16,), "s": (16, 1, 1), "w2": (12, 16, 3, 3)}, target="cpu"
    ),
    "for CUDA": _plain(
        FILTERS, {"w1": (16, 8, 3, 3), "b1": (16,), "s": (16, 1, 1), "w2": (12, 16, 3, 3)}, target="cuda"
    ),
    "transposed": _plain(GEMMS, {"w1": (32, 24), "b1": (32,), "w2": (20, 32), "b2": (20,)}, target="cpu"),
    "data file": _plain(WIDE, WIDE_WEIGHTS, data="external"),
    "views": _plain(WIDE, WIDE_WEIGHTS, views=True),
    "bodies": _plain(BODIES, {"w1": (8, 8), "w2": (8, 8)}),
    "tied": _plain(TIED, {"w1": (24, 24)}),
    "old opset": lambda folder: (family(folder, WIDE, WIDE_WEIGHTS, count=3, opset=11), {}),
    "described": _changed(_described),
    "typed fields": _changed(_typed),
    "equal weights": _changed(_equal),
    "constants": _changed(_constants),
    "functions": _changed(_function),
    "float16": _changed(_cast(TensorProto.FLOAT16)),
    "bfloat16": _changed(_cast(TensorProto.BFLOAT16)),
    "int4": _changed(_packed),
    "words": _changed(_words),
    "external data": _external,
}


def wide(folder: Path) -> tuple[list[str], str]:
    """The paths of three models, and of the merged one."""
    paths = family(folder, WIDE, WIDE_WEIGHTS, count=3)
    return paths, merged(folder, paths)


def record(out: str) -> packing.Packed:
    """The record of the sources in a merged file."""
    props = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    return packing.unpacked(props[origins.KEY])
