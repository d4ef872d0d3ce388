"""Small models of ONNX Runtime's own operators, typed by the compiler's shape functions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort

from netfuse_onnx.ops.shapes_contrib import known_to_onnx

DOMAINS = [("com.microsoft", 1), ("com.microsoft.nchwc", 1)]


def graph(inputs: str, body: str, opset: int = 17) -> onnx.ModelProto:
    """As oracle.graph, with com.microsoft imported: `graph("float[2,3] x", "y = com.microsoft.Gelu(x)")`."""
    opsets = ", ".join(f'"{domain}" : {version}' for domain, version in [("", opset), *DOMAINS])
    text = f"<ir_version: 10, opset_import: [{opsets}]> g ({inputs}) => () {{ {body} }}"
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name in (name for node in model.graph.node for name in node.output if name and name not in read):
        model.graph.output.add(name=name)
    with known_to_onnx(model.graph):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    untyped = [out.name for out in model.graph.output if not out.type.WhichOneof("value")]
    assert not untyped, f"no shape function tells the type of {untyped}"
    return model


def told(model: onnx.ModelProto) -> dict[str, tuple[int, list[int | str | None]]]:
    """Element type and dims of each output, as the shape functions tell them."""
    found = {}
    for out in model.graph.output:
        tensor = out.type.tensor_type
        dims = [_dim(d) for d in tensor.shape.dim]
        found[out.name] = (tensor.elem_type, dims)
    return found


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return None if dim.dim_param.startswith("unk__") else dim.dim_param or None  # onnx made that one up


def shapes_agree(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
    """Runs the model and compares every output with what the shape functions said of it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    for name, value in zip(
        names, session.run(None, {k: np.asarray(v) for k, v in feeds.items()}), strict=True
    ):
        dtype, dims = told(model)[name]
        assert onnx.helper.tensor_dtype_to_np_dtype(dtype) == value.dtype, name
        bound = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in dims]
        assert len(bound) == value.ndim, f"{name}: {dims}, not {value.shape}"
        for said, is_ in zip(bound, value.shape, strict=True):
            assert said is None or said == is_, f"{name}: {dims}, not {value.shape}"
