"""A small family and its merged model, lowered by hand: what the tests of the writer write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from model_files import model_of, saved
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.lowered import Merged
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Graph, Source
from netfuse_onnx.write import writer

RNG = np.random.default_rng(3)
EMPTY = Graph("g", (), (), (), {}, {})


def source(path: str) -> Source:
    """As load makes one, but for the graph, which the writer never looks at."""
    return Source(path, EMPTY, {"": 17}, 8, {}, wire.scan(path).files)


def family(folder: Path, count: int = 3, rows: int = 300) -> list[str]:
    """Models y = x @ w + b with weights of their own; b is small enough to stand inline."""
    paths = []
    for index in range(count):
        w = numpy_helper.from_array(RNG.standard_normal((rows, 8)).astype(np.float32), "w")
        b = numpy_helper.from_array(RNG.standard_normal((1, 8)).astype(np.float32), "b")
        paths.append(saved(folder, model_of(w, b), f"s{index}.onnx"))
    return paths


def merged(paths: Sequence[str]) -> Merged:
    """The stacked family by hand: x [N, B, rows] -> y [N, B, 8]. One recipe has inline parts."""
    rows = onnx.load(paths[0]).graph.initializer[0].dims[0]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "c"], ["u"])]
    nodes.append(helper.make_node("Add", ["u", "b"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(paths), "B", rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(paths), "B", 8])
    shapes = {"w": (len(paths), rows, 8), "b": (len(paths), 1, 8)}
    heads = [
        TensorProto(name=name, data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
        for name, dims in shapes.items()
    ]
    heads.insert(1, numpy_helper.from_array(np.ones(8, np.float32), "c"))
    graph = helper.make_graph(nodes, "g", [x], [y], heads)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="kept", value="yes")
    held = [{t.name: weights.weight_of(t) for t in wire.scan(path).model.graph.initializer} for path in paths]
    recipes = {name: Recipe(name, tuple(h[name] for h in held), 1, dims) for name, dims in shapes.items()}
    return Merged(model, recipes, {})


def put(
    paths: Sequence[str], out: Path, mode: writer.Mode = "auto", metadata: writer.Metadata | None = None
) -> None:
    with writer.stage(
        merged(paths), str(out), [source(p) for p in paths], mode=mode, metadata=metadata or {}
    ) as s:
        s.commit()
