"""Model files for the tests of what reads and writes them: small, odd, and not meant to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.tensors import tensors


def model_of(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """A model around the tensors; it needs to parse, not to run."""
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    nodes = nodes or (helper.make_node("Relu", ["x"], ["y"]),)
    graph = helper.make_graph(list(nodes), "g", io[:1], io[1:], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def saved(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> str:
    path = str(folder / name)
    Path(path).write_bytes(model.SerializeToString())
    return path


def typed(dtype: int, values: Sequence[float], name: str = "w") -> TensorProto:
    """A tensor in its typed field, not in raw_data."""
    return helper.make_tensor(name, dtype, [len(values)], values)


def external_model(folder: Path, size: int = 3000) -> tuple[str, onnx.ModelProto]:
    """A saved model whose two tensors, of 4*size and 8 bytes, lie in `sub/w.bin`."""
    (folder / "sub").mkdir(exist_ok=True)
    big, small = np.arange(size, dtype=np.float32), np.array([1, 2], np.float32)
    (folder / "sub/w.bin").write_bytes(b"pad!" + big.tobytes() + small.tobytes())
    model = model_of(numpy_helper.from_array(big, "big"), numpy_helper.from_array(small, "small"))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    refer(changed.graph.initializer[0], location="sub/w.bin", offset=4, length=4 * size)
    refer(changed.graph.initializer[1], location="sub/w.bin", offset=4 + 4 * size)
    return saved(folder, changed), model


def refer(tensor: TensorProto, **entries: object) -> None:
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


def with_first(path: str, **entries: object) -> str:
    """The model file again, its first tensor referring to something else."""
    model = onnx.load(path, load_external_data=False)
    refer(model.graph.initializer[0], **entries)
    Path(path).write_bytes(model.SerializeToString())
    return path


def check_equal(path: str, original: onnx.ModelProto, threshold: int) -> wire.Scanned:
    """The skeleton with its references read back is the original."""
    scanned = wire.scan(path, threshold=threshold)
    pairs = list(zip(tensors(scanned.model), tensors(original), strict=True))
    for found, want in pairs:
        weight = weights.weight_of(found)
        inline = weights.nbytes(weight) <= 8 * threshold or want.data_type == TensorProto.STRING
        assert inline or found.data_location == TensorProto.EXTERNAL
        got, expected = weights.array(weight), exact(want)
        assert (
            got.dtype == expected.dtype
            and got.shape == expected.shape
            and got.tobytes() == expected.tobytes()
        )
        for tensor in (found, want):
            tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    assert scanned.model == original
    return scanned


def exact(tensor: TensorProto) -> np.ndarray:
    """The values bit for bit: before version 7, protobuf makes Python floats of float_data, and signalling NaNs
    become quiet."""
    if tensor.data_type != TensorProto.FLOAT or tensor.HasField("raw_data"):
        return numpy_helper.to_array(tensor)
    alone = TensorProto.FromString(tensor.SerializeToString())
    for name in ("dims", "data_type", "name"):
        alone.ClearField(name)
    wire = alone.SerializeToString()
    return np.frombuffer(wire[len(wire) - 4 * len(tensor.float_data) :], "<f4").reshape(tensor.dims)
