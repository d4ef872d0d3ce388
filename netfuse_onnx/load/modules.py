"""The modules of the network that a file was exported from: which node applies the weight of which module.

Exporters rename weights: TorchScript writes `onnx::MatMul_712` for a transposed one, dynamo `val_38`. The
path of a module is told, in this order, by

- the scopes that dynamo writes beside each node (`pkg.torch.onnx.name_scopes`),
- the name of the node, `/encoder/layer.0/attention/self/query/MatMul`,
- the name of the weight, `encoder.layer.0.attention.self.query.weight`, where one node alone reads it,
- the name of the bias that is added to the result, where nothing else reads it.

A weight that two modules share has one name, and exporters store equal biases once: so what tells of the node
itself comes first.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from netfuse_onnx.load.branches import Form, Side, form
from netfuse_onnx.types import Graph, Node, Source

SCOPES = "pkg.torch.onnx.name_scopes"
MOST_SCOPES = 1 << 14
"""The longest text of scopes that is read. A module is seldom nested more than ten times."""
WEIGHT, BIAS = "weight", "bias"

Path = tuple[str, ...]
"""The names from the outermost module to the innermost one."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node that applies the weight of a module. `operand` is the input of the node, and `weight` the tensor
    of the file behind it, `reader` the node that reads that: a Transpose, or the node itself. `bias` is the
    tensor that is added to the result; '' for none. `evidence` says what told the path."""

    node: int
    reader: int
    operand: str
    weight: str
    form: Form
    bias: str = ""
    path: Path = ()
    evidence: str = ""

    @property
    def sizes(self) -> tuple[int, int]:
        """The features that come in and go out; channels, for a convolution."""
        first, last = self.form.shape[:2]
        return (first, last) if self.form.side is Side.RIGHT else (last, first)

    @property
    def turned(self) -> bool:
        """True where the file stores the weight as [in, out]; torch's Linear has [out, in]."""
        return (self.form.side is Side.RIGHT) is (self.node == self.reader)


def split(name: str) -> Path:
    """Return the path of a name with dots."""
    return tuple(name.split("."))


def places(source: Source, model: ModelProto) -> list[Place]:
    """Return every node that applies a weight, with the path of its module where something tells it. `model`
    is the file as it stands, or its skeleton."""
    return list(_Places(source.graph, source.opsets.get("", 0), _scopes(model)).all())


def _scopes(model: ModelProto) -> dict[str, Path]:
    """Return the path of the module of each node that has scopes, by its first output."""
    paths = {}
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES and node.output and (path := _scope(entry.value)):
                paths[node.output[0]] = path
    return paths


def _scope(text: str) -> Path:
    """Return the path in a list of scopes, whose last entry is the name of the node itself."""
    try:
        names = ast.literal_eval(text) if len(text) <= MOST_SCOPES else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ()
    if not isinstance(names, list) or len(names) < 2 or not isinstance(names[-2], str) or not names[-2]:
        return ()
    return split(names[-2])


def _of_node(name: str) -> Path:
    """Return the path in a node's name as the TorchScript exporter writes it; () for other names."""
    if not name.startswith("/"):
        return ()
    return split(".".join(name[1:].split("/")[:-1])) if name.count("/") > 1 else ()


class _Places:
    def __init__(self, graph: Graph, opset: int, scopes: Mapping[str, Path]) -> None:
        self.graph, self.opset, self.scopes = graph, opset, scopes
        self.readers: Mapping[str, list[int]] = defaultdict(list)
        self.makers: dict[str, int] = {}
        for i, node in enumerate(graph.nodes):
            for name in set(node.reads):
                self.readers[name].append(i)
            self.makers.update(dict.fromkeys(node.outputs, i))

    def all(self) -> Iterator[Place]:
        for i, node in enumerate(self.graph.nodes):
            for operand in node.inputs:
                if place := self._place(i, node, operand):
                    yield place

    def _place(self, i: int, node: Node, operand: str) -> Place | None:
        weight, reader = self._behind(i, operand)
        if not weight or len(node.outputs) != 1:
            return None
        shape = self.graph.weights[weight].shape
        how = form(node, operand, shape if reader == i else shape[::-1], self.opset)
        if not isinstance(how, Form):
            return None
        bias = self._bias(node)
        path, evidence = self._path(node, weight, bias)
        return Place(i, reader, operand, weight, how, bias, path, evidence)

    def _behind(self, i: int, operand: str) -> tuple[str, int]:
        """Return the weight that a node reads, directly or through the Transpose of a matrix, and its
        reader."""
        if operand in self.graph.weights:
            return operand, i
        maker = self.makers.get(operand)
        if maker is None:
            return "", i
        node = self.graph.nodes[maker]
        weight = (
            self.graph.weights.get(node.inputs[0]) if node.op == "Transpose" and not node.domain else None
        )
        plain = weight and len(weight.shape) == 2 and node.attrs.get("perm", [1, 0]) == [1, 0]
        return (node.inputs[0], maker) if plain else ("", i)

    def _bias(self, node: Node) -> str:
        """Return the weight that is added to the result of a node."""
        weights = self.graph.weights
        if node.op in ("Gemm", "Conv"):
            return node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] in weights else ""
        users = self.readers[node.outputs[0]]
        if len(users) != 1 or self.graph.nodes[users[0]].op != "Add":
            return ""
        others = [name for name in self.graph.nodes[users[0]].inputs if name != node.outputs[0]]
        return others[0] if len(others) == 1 and others[0] in weights else ""

    def _path(self, node: Node, weight: str, bias: str) -> tuple[Path, str]:
        """Return the path of the module whose weight a node applies, and what tells it."""
        if path := self.scopes.get(node.outputs[0]):
            return path, "scopes"
        if path := _of_node(node.name):
            return path, "node name"
        for name, last in ((weight, WEIGHT), (bias, BIAS)):
            parts = split(name)
            if len(parts) > 1 and parts[-1] == last and len(self.readers[name]) == 1:
                return parts[:-1], f"{last} name"
        return (), ""


def readers(graph: Graph, name: str) -> Sequence[int]:
    """Return the nodes that read a value."""
    return [i for i, node in enumerate(graph.nodes) if name in node.reads]
