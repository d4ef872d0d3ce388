"""Writes models from a graph without weights: `files(graph, folder, count)`.

Such a graph is some ten kilobytes (graphs.py makes them), so that it can be brought to a machine without
network and without torch. A weight is an initializer without data; its `doc_string` says how to draw it:
"normal MEAN SPREAD" or "uniform LOW HIGH". The same graph and seed give the same bytes. Data lies beside
the model, in NAME.data, as exporters write large models.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

ALIGNED = 4096
"""Weights begin at multiples of so many bytes."""
DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
PROCESSES = 16


def files(graph: Path, folder: Path, count: int) -> list[Path]:
    """`count` models of one graph, written where they are not there yet, by several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{graph.stem}-{model}.onnx" for model in range(count)]
    todo = [(graph, seed, path) for seed, path in enumerate(paths) if not path.exists()]
    if todo:
        with multiprocessing.get_context("spawn").Pool(
            min(PROCESSES, os.cpu_count() or 1, len(todo))
        ) as pool:
            pool.starmap(write, todo)
    return paths


def write(graph: Path, seed: int, out: Path) -> None:
    """Write one model. The model file gets its name when its data is complete."""
    model = onnx.load(graph)
    with out.with_suffix(".data").open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.doc_string:
                file.seek(-(-file.tell() // ALIGNED) * ALIGNED)
                offset, array = file.tell(), draw(tensor, seed)
                file.write(memoryview(array).cast("B"))
                _point(tensor, out.with_suffix(".data").name, offset, array.nbytes)
    part = out.with_suffix(".part")
    onnx.save_model(model, part)
    part.rename(out)


def draw(tensor: TensorProto, seed: int) -> np.ndarray[Any, Any]:
    """Draw a weight by the recipe in its `doc_string`."""
    kind, first, second = tensor.doc_string.split()
    numbers = np.random.Generator(np.random.SFC64([seed, zlib.crc32(tensor.name.encode())]))
    shape = tuple(tensor.dims)
    if kind == "uniform":
        array = numbers.random(shape, dtype=np.float32) * np.float32(float(second) - float(first))
    else:
        array = numbers.standard_normal(shape, dtype=np.float32) * np.float32(second)
    array += np.float32(first)
    return np.ascontiguousarray(array.astype(DTYPES[tensor.data_type], copy=False))


def _point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("doc_string")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
