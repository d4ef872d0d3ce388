"""Random single edits of a model that merges with one written in another way: each must be refused, or the
merged file must give what the edited file gives.

What an edit leaves invalid, as ONNX Runtime says, is drawn again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from netfuse_onnx import api, opened, sources
from netfuse_onnx.errors import NetfuseError, NotEquivalent

Array = NDArray[Any]
OTHERS = {
    "Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul", "Relu": "Sigmoid", "Sigmoid": "Tanh", "Tanh": "Erf",
    "Erf": "Tanh", "Sqrt": "Exp", "Softmax": "LogSoftmax", "HardSwish": "Relu", "HardSigmoid": "Sigmoid",
    "ReduceMean": "ReduceSum", "GlobalAveragePool": "GlobalMaxPool", "Gelu": "Mish", "Max": "Min", "Cos": "Sin",
    "Clip": "Relu", "Pow": "Mul", "Neg": "Abs", "And": "Or", "LessOrEqual": "Less", "Reciprocal": "Sqrt",
}  # fmt: skip
"""Operator -> one that takes the same inputs and means something else."""
ORDERED = ("Sub", "Div", "Pow", "MatMul", "Concat", "Less", "LessOrEqual", "Greater", "Where")
"""Operators whose inputs have an order."""
KINDS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
SEEDS = 2
"""The number of random inputs on which a merged file is compared."""


class NoPlace(Exception):
    """An edit found nothing in a model that it could change."""


Edit = Callable[[ModelProto, random.Random], str]


def _pick(draw: random.Random, items: Sequence[Any]) -> Any:
    if not items:
        raise NoPlace
    return draw.choice(items)


def attribute(model: ModelProto, draw: random.Random) -> str:
    """Change a number of an attribute by 1, or a float by half."""
    places = [
        (n, a)
        for n in model.graph.node
        for a in n.attribute
        if a.type in (1, 2, 7) and n.op_type != "Constant"
    ]
    node, chosen = _pick(draw, places)
    if chosen.type == 1:
        chosen.f = chosen.f * 1.5 + 0.25
    elif chosen.type == 2:
        chosen.i += draw.choice((-1, 1))
    elif chosen.ints:
        chosen.ints[draw.randrange(len(chosen.ints))] += draw.choice((-1, 1))
    return f"{node.op_type}.{chosen.name}"


def epsilon(model: ModelProto, draw: random.Random) -> str:
    """Make an epsilon a thousand times as large: an attribute, or a constant of at most 1e-3."""
    attrs = [a for n in model.graph.node for a in n.attribute if a.name == "epsilon"]
    small = [t for t in _constants(model, TensorProto.FLOAT) if 0 < abs(float(_values(t).min())) <= 1e-3]
    chosen = _pick(draw, [*attrs, *[t for t in small if _values(t).size == 1]])
    if isinstance(chosen, TensorProto):
        _put(chosen, _values(chosen) * 1000)
    else:
        chosen.f *= 1000
    return "epsilon"


def operator(model: ModelProto, draw: random.Random) -> str:
    node = _pick(draw, [n for n in model.graph.node if n.op_type in OTHERS])
    before, node.op_type = node.op_type, OTHERS[node.op_type]
    del node.attribute[:]
    return f"{before} to {node.op_type}"


def rewired(model: ModelProto, draw: random.Random) -> str:
    """Let a node read another value that was computed before it."""
    place = draw.randrange(len(model.graph.node))
    node, earlier = model.graph.node[place], [n for n in model.graph.node[:place] if n.op_type != "Constant"]
    values = [name for n in earlier for name in n.output if name and name not in node.input]
    k = draw.randrange(len(node.input)) if node.input else _pick(draw, [])
    if not node.input[k] or node.input[k] in {t.name for t in model.graph.initializer}:
        raise NoPlace
    node.input[k] = _pick(draw, values)
    return f"input {k} of {node.op_type}"


def shape(model: ModelProto, draw: random.Random) -> str:
    """Cut the last row of a weight, or of all but the first: what broadcasts or is looked up stays valid."""
    tensor = _pick(draw, [t for t in _constants(model, TensorProto.FLOAT) if t.dims and t.dims[0] > 1])
    _put(tensor, _values(tensor)[: draw.choice((1, -1))])
    return "a row"


def steering(model: ModelProto, draw: random.Random) -> str:
    """Change a whole number by 1."""
    tensor = _pick(draw, [t for t in _constants(model, TensorProto.INT64) if 0 < _values(t).size <= 16])
    values = _values(tensor).copy()
    values.flat[draw.randrange(values.size)] += draw.choice((-1, 1))
    _put(tensor, values)
    return "a whole number"


def number(model: ModelProto, draw: random.Random) -> str:
    """Change a float constant of one element by a tenth."""
    tensor = _pick(draw, [t for t in _constants(model, TensorProto.FLOAT) if _values(t).size == 1])
    _put(tensor, np.clip(_values(tensor), -1e30, 1e30) * 1.1 + 0.01)
    return "a number"


def swapped(model: ModelProto, draw: random.Random) -> str:
    node = _pick(draw, [n for n in model.graph.node if n.op_type in ORDERED and len(n.input) > 1])
    node.input[0], node.input[-1] = node.input[-1], node.input[0]
    return f"inputs of {node.op_type}"


def dropped(model: ModelProto, draw: random.Random) -> str:
    """Let all nodes that read a node read its first input."""
    outputs = {value.name for value in model.graph.output}
    places = [
        n for n in model.graph.node if n.input and n.output[0] not in outputs and n.op_type != "Identity"
    ]
    node = _pick(draw, places)
    for reader in model.graph.node:
        for k, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[k] = node.input[0]
    return node.op_type


EDITS: dict[str, Edit] = {
    edit.__name__: edit
    for edit in (attribute, epsilon, operator, rewired, shape, steering, number, swapped, dropped)
}


def _constants(model: ModelProto, dtype: int) -> list[TensorProto]:
    """Return the constants of a type: initializers, and those of Constant nodes."""
    held = [
        a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    ]
    return [tensor for tensor in (*model.graph.initializer, *held) if tensor.data_type == dtype]


def _values(tensor: TensorProto) -> Array:
    return numpy_helper.to_array(tensor)


def _put(tensor: TensorProto, values: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(_values(tensor).dtype), tensor.name))


# --------------------------------------------------------------------------- trials


@dataclass
class Tally:
    """The outcomes of edits by kind. `wrong` has a line for each that merged and gave other values."""

    refused: Counter[str] = field(default_factory=Counter)
    merged: Counter[str] = field(default_factory=Counter)
    unnamed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.refused.total() + self.merged.total()


def trial(a: Path, b: Path, kind: str, draw: random.Random, folder: Path, tally: Tally) -> bool:
    """Make one edit of b and try to merge it with a. Return False where the edit could not be made."""
    model = onnx.load(b)
    try:
        what = EDITS[kind](model, draw)
    except NoPlace:
        return False
    edited, merged = folder / "edited.onnx", folder / "merged.onnx"
    onnx.save(model, edited)
    results = _results(edited)
    if results is None:
        return False
    line = f"{kind} of {b.name}: {what}"
    paths, names = [str(a), str(edited)], ["a", "b"]
    try:
        opened.matched(sources.read(paths), names, partial=False)  # a merge would match again, to say more
        api.merge(paths, str(merged), names=names, verify=False)
    except NotEquivalent as error:
        tally.refused[kind] += 1
        if "edited.onnx" not in error.message:
            tally.unnamed.append(f"{line}: {error.message}")
        return True
    except NetfuseError as error:
        tally.refused[kind] += 1
        tally.unnamed += [] if error.message else [line]
        return True
    tally.merged[kind] += 1
    if not _same(merged, a, results):
        tally.wrong.append(line)
    return True


Results = tuple[Sequence[Mapping[str, Array]], Sequence[list[Array]]]


def _results(path: Path) -> Results | None:
    """Return random inputs of a model and its results; None for a model that does not run."""
    try:
        session = _session(path)
        feeds = [_feeds(session, seed) for seed in range(SEEDS)]
        return feeds, [session.run(None, feed) for feed in feeds]
    except Exception:  # ONNX Runtime raises many kinds for what is not valid
        return None


def _session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feeds(session: Any, seed: int) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    sizes = {"batch": 2 + seed, "sequence": 5 + seed}
    feeds: dict[str, Array] = {}
    for value in session.get_inputs():
        dims = [sizes.get(dim, 3) if isinstance(dim, str) else dim for dim in value.shape]
        if value.type == "tensor(int64)":
            feeds[value.name] = draw.integers(0, 2, dims)
            if "mask" in value.name:
                feeds[value.name][:, 0] = 1
        else:
            feeds[value.name] = draw.standard_normal(dims).astype(KINDS[value.type])
    return feeds


def _same(merged: Path, a: Path, results: Results) -> bool:
    """Return True where a merged file gives what both files give."""
    session, own = _session(merged), _session(a)
    names = [value.name for value in session.get_outputs()]
    for feeds, wanted in zip(*results, strict=True):
        given = session.run(None, {f"{name}/{key}": value for name in "ab" for key, value in feeds.items()})
        for name, wants in (("a", own.run(None, feeds)), ("b", wanted)):
            found = [value for key, value in zip(names, given, strict=True) if key.startswith(f"{name}/")]
            if len(found) != len(wants) or not all(map(_close, found, wants)):
                return False
    return True


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    scale = float(np.nanmax(np.abs(other[np.isfinite(other)]), initial=1e-6)) if other.size else 1.0
    near = 1e-2 if other.dtype == np.float16 else 2e-4
    return bool(np.allclose(one, other, rtol=near, atol=near * scale, equal_nan=True))


def run(pairs: Sequence[tuple[Path, Path]], count: int, seed: int, folder: Path) -> Tally:
    """Make random edits of random pairs until `count` could be made."""
    draw, tally = random.Random(seed), Tally()
    while tally.count < count:
        a, b = draw.choice(pairs)
        trial(a, b, draw.choice(list(EDITS)), draw, folder, tally)
    return tally
