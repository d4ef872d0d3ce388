"""The cases of the oracle: small models from ONNX text, their values, and the roles of their inputs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

Array = np.ndarray

ROLES = ("input", "shared input", "weight", "shared weight")
IO = ("separate", "stacked")


def graph(inputs: str, body: str, opset: int = 17) -> onnx.ModelProto:
    """A model from ONNX text, such as `graph("float[2,3] x", "y = Relu(x)")`. Every value that no node
    reads is an output; its type is what onnx infers."""
    more = ', "ai.onnx.ml" : 3' if "ai.onnx.ml." in body else ""
    text = f'<ir_version: 10, opset_import: ["" : {opset}{more}]> g ({inputs}) => () {{ {body} }}'
    model = onnx.parser.parse_model(text)
    read = {name for node in model.graph.node for name in node.input}
    for name in (name for node in model.graph.node for name in node.output if name and name not in read):
        model.graph.output.add(name=name)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def draw(
    model: onnx.ModelProto,
    models: int,
    *,
    sizes: Mapping[str, int] | None = None,
    low: float = -2.0,
    high: float = 2.0,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Values [N, *shape] for every graph input, uniform in [low, high]; `sizes` binds symbols. An array in
    `given` is the value for every model."""
    rng = np.random.default_rng(7)
    values = {}
    for info in model.graph.input:
        kind = info.type.tensor_type
        shape = [(sizes or {})[d.dim_param] if d.dim_param else d.dim_value for d in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if given and info.name in given:
            value = np.stack([np.asarray(given[info.name], dtype)] * models)
        elif dtype.kind == "O":  # strings
            value = rng.choice(["a", "B", "ab", "abc", ""], (models, *shape))
        elif dtype == np.bool_:
            size = int(np.prod(shape))  # half of them true
            value = np.stack(
                [rng.permutation((np.arange(size) + m) % 2).reshape(shape) for m in range(models)]
            )
        elif np.issubdtype(dtype, np.integer):
            value = rng.integers(int(low), int(high), (models, *shape), endpoint=True)
        else:
            value = rng.uniform(low, high, (models, *shape))
        values[info.name] = value.astype(dtype)
    return values


def roles(names: Sequence[str], allowed: Sequence[str] = ROLES) -> Iterator[dict[str, str]]:
    """Every way to make each of `names` per model or shared, fed or stored; at least one is per model."""
    for combination in itertools.product(allowed, repeat=len(names)):
        if any(role in ("input", "weight") for role in combination):
            yield dict(zip(names, combination, strict=True))


def some_roles(names: Sequence[str]) -> list[dict[str, str]]:
    """The roles of up to two names; of more, enough that every two names meet in every pair of roles."""
    if len(names) < 3:
        return list(roles(names))
    return [dict(zip(names, row, strict=True)) for row in _meeting(len(names))]


@functools.cache
def _meeting(count: int) -> list[tuple[str, ...]]:
    """The roles of so many names, in rows; the names are their numbers here. Each row has most of the pairs that are
    left: a set of pairs is a number with a bit for each."""
    names, bits = [str(k) for k in range(count)], dict[object, int]()

    def pairs(role: Mapping[str, str]) -> int:
        met = itertools.combinations(role.items(), 2)
        return sum(1 << bits.setdefault(pair, len(bits)) for pair in met)

    every = {tuple(role.values()): pairs(role) for role in roles(names)}
    chosen = [tuple(_alone(names).values())]
    left = (1 << len(bits)) - 1 & ~every[chosen[0]]
    while left:
        chosen.append(max(every, key=lambda row: (every[row] & left).bit_count()))
        left &= ~every[chosen[-1]]
    return chosen


def few_roles(names: Sequence[str]) -> list[dict[str, str]]:
    """Every name in every role, and what is usual: an input, then weights, their own or shared. For tables
    with many rows."""
    cycle = [{name: ROLES[(turn + k) % 4] for k, name in enumerate(names)} for turn in range(4)]
    usual = {name: "weight" if k else "input" for k, name in enumerate(names)}
    found = [*cycle, usual, _alone(names)]
    found = [role for role in found if not {"input", "weight"}.isdisjoint(role.values())]
    return [role for k, role in enumerate(found) if role not in found[:k]]


def _alone(names: Sequence[str]) -> dict[str, str]:
    """The first differs between the models, and nothing else does."""
    return {name: "shared weight" if k else "input" for k, name in enumerate(names)}


def turns(models: Sequence[int], turn: int, count: int) -> list[tuple[int, str]]:
    """The N and I/O of case `turn` of `count`. Two cases get two N each; of more, every third gets an
    unusual one."""
    usual, others = models[0], models[1:] or models
    io = IO[turn.bit_count() % 2]  # in step with no role
    if count <= 2:
        return [(usual, io), (others[turn % len(others)], IO[1 - IO.index(io)])]
    return [(others[turn // 3 % len(others)] if turn % 3 == 0 else usual, io)]
