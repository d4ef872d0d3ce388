"""Families that share most of their weights: copies of one base model in which some weights are others.

A copy is made of the file's bytes: the file is copied whole, then the weights that change are written over
the base's in place. 64 copies of a BERT-base are 28 GB; writing them takes the time of the disk.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from netfuse_onnx.storage import wire

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)

DELTA = 0.3
"""The size of a low-rank difference, relative to that of the weight."""

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

Change = Callable[[int, str, Array], Array]
"""Number of the model, name of the weight, the base's values -> the model's values."""


class NothingMatchesError(Exception):
    """No weight has a name that matches a pattern."""


def product_weights(model: ModelProto, pattern: str) -> list[str]:
    """Names of the matrices of products where the name of the weight or of the node matches."""
    sizes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    found = [
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and sizes.get(node.input[1]) == 2
        and re.search(pattern, f"{node.name} {node.input[1]}")
    ]
    return _some(dict.fromkeys(found), pattern)


def _some(names: Iterable[str], pattern: str) -> list[str]:
    found = list(names)
    if not found:
        raise NothingMatchesError(pattern)
    return found


def trained_tail(base: Path, pattern: str, backbones: int, seed: int) -> dict[str, Change]:
    """The weights whose name matches differ in all models; of several backbones, all others by backbone."""
    floats = [t.name for t in _skeleton(base).graph.initializer if t.data_type in FLOATS]
    tail = _some((name for name in floats if re.search(pattern, name)), pattern)
    changes = {name: shared_backbones(backbones, seed) for name in floats if backbones > 1}
    return changes | {name: redrawn(seed) for name in tail}


def merged_adapters(base: Path, pattern: str, rank: int, seed: int) -> dict[str, Change]:
    """The products that match differ by a product of low rank, added to their weights."""
    return {name: low_rank(rank, seed) for name in product_weights(_skeleton(base), pattern)}


def _skeleton(base: Path) -> ModelProto:
    return wire.scan(str(base)).model


def low_rank(rank: int, seed: int) -> Change:
    """`W + A B`, computed in float32 and rounded, as an adapter is merged before the export."""

    def change(model: int, name: str, base: Array) -> Array:
        a, b = factors(base.shape, rank, seed, model, name)
        merged: Array = base + (a @ b).astype(base.dtype)
        return merged

    return change


def factors(shape: Sequence[int], rank: int, seed: int, model: int, name: str) -> tuple[Array, Array]:
    """A [in, r] and B [r, out] of one model's difference: the same in every run, in files and in graphs."""
    draw = np.random.default_rng([seed, model, *name.encode()])
    a = draw.standard_normal((shape[0], rank), np.float32)
    b = draw.standard_normal((rank, shape[1]), np.float32)
    return a * np.float32(DELTA * (shape[0] * rank) ** -0.5), b


def redrawn(seed: int) -> Change:
    """Other numbers of the same spread: a layer that was trained."""

    def change(model: int, name: str, base: Array) -> Array:
        draw = np.random.default_rng([seed, model, *name.encode()])
        values = draw.permutation(base.reshape(-1)) + 0.1 * draw.standard_normal(base.size) * base.std()
        return np.asarray(values.reshape(base.shape), base.dtype)

    return change


def shared_backbones(backbones: int, seed: int) -> Change:
    """Model k has backbone k % `backbones`; the first of these is the base's."""
    draw = redrawn(seed)

    def change(model: int, name: str, base: Array) -> Array:
        backbone = model % backbones
        return draw(-backbone % 2**31, name, base) if backbone else base

    return change


def write_copies(
    base: Path, out: Path, name: str, count: int, changes: Mapping[str, Change]
) -> Iterator[Path]:
    """Write `count` copies of `base` as `out`/NAME-0.onnx and on, each with its own values of the weights in
    `changes`, yielding each path when it is complete. Weights must lie inline in `base`."""
    scanned = wire.scan(str(base), threshold=0)
    types = {tensor.name: tensor for tensor in scanned.model.graph.initializer}
    spots = {weight: scanned.extents[weight] for weight in changes}
    for number in range(count):
        path = out / f"{name}-{number}.onnx"
        half = path.with_suffix(".part")
        shutil.copyfile(base, half)
        with base.open("rb") as source, half.open("r+b") as target:
            for weight, change in changes.items():
                dtype = helper.tensor_dtype_to_np_dtype(types[weight].data_type)
                source.seek(spots[weight].offset)
                values = np.frombuffer(source.read(spots[weight].length), dtype)
                target.seek(spots[weight].offset)
                target.write(change(number, weight, values.reshape(types[weight].dims)).tobytes())
        half.rename(path)
        yield path


# --------------------------------------------------------------------------- tenants


def write_tenants(base: Path, out: Path, count: int, pattern: str, rank: int, seed: int) -> Iterator[Path]:
    """Write `count` models with a low-rank branch beside each product, `out`/tenant-K.onnx. All of them read
    the frozen weights from one file beside them, so that each takes the bytes of its adapter."""
    model = onnx.load(base)
    targets = product_weights(model, pattern)
    sizes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.name in targets}
    data = out / f"{base.stem}.data"
    onnx.save_model(model, out / ".part", save_as_external_data=True, location=data.name, size_threshold=1024)
    (out / ".part").unlink()  # the model now refers to `data`; every tenant does the same
    _branch(model, targets)
    for number in range(count):
        own = ModelProto()
        own.CopyFrom(model)
        for name in targets:
            a, b = factors(sizes[name], rank, seed, number, name)
            own.graph.initializer.append(numpy_helper.from_array(a, f"{name}.lora_A"))
            own.graph.initializer.append(numpy_helper.from_array(b, f"{name}.lora_B"))
        path = out / f"tenant-{number}.onnx"
        path.write_bytes(own.SerializeToString())
        yield path


def _branch(model: ModelProto, targets: Sequence[str]) -> None:
    """Put `x A B` beside each product `x W`: the graph of a model whose adapter was not merged."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "MatMul" or node.input[1] not in targets:
            continue
        x, weight = node.input
        y, name = node.output[0], node.name
        node.output[0] = f"{y}_base"
        low, high = f"{y}_low", f"{y}_high"
        nodes.append(helper.make_node("MatMul", [x, f"{weight}.lora_A"], [low], name=f"{name}_low"))
        nodes.append(helper.make_node("MatMul", [low, f"{weight}.lora_B"], [high], name=f"{name}_high"))
        nodes.append(helper.make_node("Add", [f"{y}_base", high], [y], name=f"{name}_sum"))
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def write_adapters(base: Path, out: Path, count: int, pattern: str, rank: int, seed: int) -> Iterator[Path]:
    """Write `count` adapters as PEFT does, `out`/tenant-K.safetensors, with one adapter_config.json."""
    model = onnx.load(base)
    targets = product_weights(model, pattern)
    sizes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.name in targets}
    modules = sorted({name.removesuffix(".weight").rsplit(".", 1)[-1] for name in targets})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules, "bias": "none",
              "fan_in_fan_out": False, "use_rslora": False}  # fmt: skip
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for number in range(count):
        tensors: dict[str, Array] = {}
        for name in targets:
            a, b = factors(sizes[name], rank, seed, number, name)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{module}.lora_A.weight": a.T, f"{module}.lora_B.weight": b.T}
        path = out / f"tenant-{number}.safetensors"
        path.write_bytes(safetensors(tensors))
        yield path


def safetensors(tensors: Mapping[str, Array]) -> bytes:
    """The bytes of a safetensors file of float32 tensors: the length of the header, the header, the data."""
    header, offset = {}, 0
    for name, array in sorted(tensors.items()):
        shape, end = list(array.shape), offset + array.nbytes
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for _, array in sorted(tensors.items()))
    return struct.pack("<Q", len(text)) + text + data
