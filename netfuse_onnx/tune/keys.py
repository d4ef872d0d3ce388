"""Keys of measured times: text that is equal exactly where the same nodes would be measured.

A key has what a person looks for, the operator, the lowering, the models and the shapes, and a digest of the
nodes that a probe holds, by which it is told apart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto

from netfuse_onnx.ops.kinds import INDEX_TYPES
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.tune.cases import Case, ConversionCase
from netfuse_onnx.tune.filling import is_drawn
from netfuse_onnx.tune.probes import Probe
from netfuse_onnx.types import ValueType


def key(case: Case, probe: Probe) -> str:
    """The key of a case, whose probe has one copy."""
    return f"{_label(case)} #{_digest(probe)}"


def _label(case: Case) -> str:
    if isinstance(case, ConversionCase):
        return f"{case.src} to {case.dst}, {case.models} models, {_sizes([case.sized])}"
    lowering = case.head.lowering
    takes = ", ".join(str(layout or "-") for layout in lowering.takes)
    gives = ", ".join(map(str, lowering.gives))
    nodes = " + ".join(member.lowering.site.node.key for member in case.members)
    shapes = _sizes(case.head.sized.inputs)
    return f"{nodes} {shapes}, {case.models} models, {case.head.way}: {takes} -> {gives}"


def _sizes(kinds: Sequence[ValueType]) -> str:
    return " ".join("x".join(map(str, kind.dims or ())) or "1" for kind in kinds)


def _digest(probe: Probe) -> str:
    """The first half of the SHA-256 of all that decides the time of a probe: its nodes, the sizes of what
    they read, and the numbers of small constants; not their names, nor the values of weights."""
    names: dict[str, int] = {"": 0}
    digest = hashlib.sha256()
    for part in _parts(probe.model, probe, names):
        digest.update(repr(part).encode())
    return digest.hexdigest()[:32]


def _parts(model: ModelProto, probe: Probe, names: dict[str, int]) -> Iterator[Any]:
    yield sorted((entry.domain, entry.version) for entry in model.opset_import)
    graph = model.graph
    about: dict[str, Any] = {name: (fed.dtype, fed.shape) for name, fed in probe.inputs.items()}
    for tensor in graph.initializer:
        recipe = probe.recipes.get(tensor.name)
        if recipe is None:
            about[tensor.name] = tensor.data_type, tuple(tensor.dims), _elements(tensor)
        else:
            about[tensor.name] = tensor.data_type, tuple(tensor.dims), _values(recipe)
    for node in graph.node:
        yield _node(node, names)
        for name in node.input:
            if name in about:
                yield names[name], about.pop(name)


def _elements(constant: TensorProto) -> bytes:
    """The elements of a constant that a body made."""
    unnamed = TensorProto.FromString(constant.SerializeToString())
    unnamed.ClearField("name")
    return bytes(unnamed.SerializeToString(deterministic=True))


def _values(recipe: Recipe) -> bytes:
    """The numbers of a weight on which a kernel's time may depend: indices, and single numbers."""
    if is_drawn(recipe) or len(recipe.parts) > 1 or recipe.dtype == TensorProto.STRING:
        return b""
    decides = math.prod(recipe.shape) == 1 or recipe.dtype in INDEX_TYPES
    return b"".join(weights.stream(recipe)) if decides else b""


def _node(node: NodeProto, names: dict[str, int]) -> Any:
    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    attrs = sorted((attr.name, attr.SerializeToString(deterministic=True)) for attr in node.attribute)
    inputs, outputs = [*map(number, node.input)], [*map(number, node.output)]
    return node.op_type, node.domain, attrs, inputs, outputs
