"""A random family: one graph, the values of its inputs and weights in every model, and how to merge it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from fuzzing import bodies, elementwise, networks, shapes  # these register their operators
from fuzzing.build import Array, Builder, Leaf, Value, World, imports, reads
from netfuse_onnx.ops import walk

__all__ = ["Case", "bodies", "draw", "elementwise", "networks", "shapes"]

OPSETS = (13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 21, 22, 23, 24)

UNCHECKED = {
    "InstanceNormalization", "GroupNormalization", "RandomUniform", "RandomNormalLike", "RotaryEmbedding",
}  # fmt: skip
"""Operators that read past their scale or weights where there are more channels, one that leaves the last of
an odd number unwritten, and those that draw other numbers when a session runs twice: sizes stay as they are."""

FRAGILE = {"Concat", "Einsum", "GRU", "LSTM", "RNN", "Scan"}
"""Operators on which ONNX Runtime 1.32 may abort the process, or that it runs on sizes that do not fit together,
where a size is 0."""


@dataclass
class Case:
    """`values[name]` are one array per model, `known` those of every value that a node gives. `other` are
    values of other sizes, where the graph has open dims, and `torn` those where axes with one name differ."""

    model: onnx.ModelProto
    values: dict[str, list[Array]]
    role: dict[str, str]
    models: int
    io: str = "separate"
    keep_opset: bool = False
    seed: int = 0
    other: dict[str, list[Array]] | None = None
    torn: dict[str, list[Array]] | None = None
    known: Mapping[str, list[Array]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [onnx.printer.to_text(self.model)]
        lines.append(f"N={self.models} io={self.io} keep_opset={self.keep_opset}")
        for name, role in self.role.items():
            shapes = sorted({array.shape for array in self.values[name]})
            other = f" or {self.other[name][0].shape}" if self.other else ""
            lines.append(f"  {name}: {role} {self.values[name][0].dtype} {shapes[0]}{other}")
        return "\n".join(lines)


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(seed)
    models = rng.choice([1, 2, 2, 3, 3, 3, 4, 5])
    world = World(
        rng, models, rng.choice(OPSETS),
        float=rng.choices([np.float32, np.float16, np.float64], (8, 1, 1))[0],
        rough=rng.random() < 0.3, zeros=rng.random() < 0.1, odd=rng.random() < 0.1, symbols={},
    )  # fmt: skip
    if rng.random() < 0.4:
        world.symbols = {
            name: rng.choice([models, 1, 2, 3, 4]) for name in rng.sample(["n", "s"], rng.choice([1, 2]))
        }
    builder = Builder(world)
    for _ in range(rng.choice([1, 2, 3])):
        builder.leaf(builder.dims(rng.randint(1, 4)), role="input")
    builder.grow(rng.randint(2, 11))
    model = _model(builder, rng)
    leaves = [world.leaves[info.name] for info in model.graph.input]
    return Case(
        model,
        {leaf.name: leaf.arrays for leaf in leaves},
        {leaf.name: leaf.role for leaf in leaves},
        models,
        io=rng.choice(["separate", "stacked"]),
        # Below opset 15 a Reshape cannot say all sizes of what may be empty (convert.py): it fails, loudly.
        keep_opset=rng.random() < 0.5 and (world.opset >= 15 or not _empty(world)),
        seed=seed,
        other=_other(world, leaves, model),
        torn=_other(world, leaves, model, torn=True),
        known={name: value.arrays for name, value in world.known.items()},
    )


def _empty(world: World) -> bool:
    return any(array.size == 0 for value in world.known.values() for array in value.arrays)


def _model(builder: Builder, rng: random.Random) -> onnx.ModelProto:
    """Everything that nothing reads is an output, and some of the rest."""
    world, nodes = builder.world, builder.nodes
    read = {name for node in nodes for name in reads(node)}
    made = [n for node in nodes if node.op_type != "Constant" for n in node.output if n and n in world.known]
    outputs = [name for name in made if name not in read or rng.random() < 0.12]
    rng.shuffle(outputs)
    leaves = [leaf for name, leaf in world.leaves.items() if name in read]
    naming = rng.choice(["one name", "one name", "own names", "no names", "either"])
    inputs = [_info(leaf, tuple(_called(leaf, a, naming, rng) for a in range(leaf.rank))) for leaf in leaves]
    graph = helper.make_graph(nodes, "g", inputs, [])
    for name in outputs:
        graph.output.append(_info(world.known[name], None))
    model = helper.make_model(graph, opset_imports=imports(world.opset), ir_version=10)
    used = {node.domain for node in _every(graph)} | {""}
    for entry in [e for e in model.opset_import if e.domain not in used]:
        model.opset_import.remove(entry)
    return typed(model, {name: world.known[name].arrays[0].shape for name in outputs})


def _called(leaf: Leaf, axis: int, naming: str, rng: random.Random) -> int | str | None:
    """The dim as the file declares it: by a name for all axes of its kind, by one of its own, or by none."""
    dim = leaf.dims[axis]
    if isinstance(dim, int):
        return dim
    how = rng.choice(["one name", "own names", "no names"]) if naming == "either" else naming
    return {"one name": dim, "own names": f"{dim}_{leaf.name}_{axis}", "no names": None}[how]


def _every(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in dict(walk.bodies(node)).values():
            yield from _every(body)


def typed(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Every output with what onnx infers of its shape, where that is what a run gives (`shapes`), or its rank
    alone."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError:
        inferred = model
    found = {info.name: info for info in inferred.graph.output}
    for output in model.graph.output:
        inferred_dims = found[output.name].type.tensor_type.shape.dim
        known = len(inferred_dims) == len(shapes[output.name])
        for k, size in enumerate(shapes[output.name]):
            dim = output.type.tensor_type.shape.dim.add()
            if known and _true(inferred_dims[k], size):
                dim.CopyFrom(inferred_dims[k])
        output.type.tensor_type.shape.SetInParent()
    return model


def _true(dim: onnx.TensorShapeProto.Dimension, size: int) -> bool:
    return dim.dim_value == size if dim.HasField("dim_value") else not dim.dim_param.startswith("unk__")


def _info(value: Value, dims: tuple[int | str | None, ...] | None) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.arrays[0].dtype)
    return helper.make_tensor_value_info(value.name, kind, dims)


def _other(
    world: World, leaves: list[Leaf], model: onnx.ModelProto, *, torn: bool = False
) -> dict[str, list[Array]] | None:
    """Values for other sizes of the open dims; `torn`: some axes do not have the size of others of their name."""
    operators = {node.op_type for node in _every(model.graph)}
    if not operators.isdisjoint(UNCHECKED):
        return None
    if not any(isinstance(dim, str) for leaf in leaves for dim in leaf.dims):
        return None
    least = 0 if operators.isdisjoint(FRAGILE) and world.opset >= 15 else 1
    choices = [least, 1, 1, 2, 2, 3, 3, 5, 5, world.models]
    sizes = dict(world.symbols) if torn else {s: world.rng.choice(choices) for s in world.symbols}
    found: dict[str, list[Array]] = {}
    for leaf in leaves:
        odd = torn and world.rng.random() < 0.5
        shape = tuple(
            (world.rng.choice(choices) if odd else sizes[dim]) if isinstance(dim, str) else dim
            for dim in leaf.dims
        )
        if leaf.draw is None or shape == leaf.shape:
            found[leaf.name] = leaf.arrays
            continue
        arrays = [leaf.draw(shape) for _ in range(world.models)]
        found[leaf.name] = arrays[:1] * world.models if leaf.role.startswith("shared") else arrays
    return found
