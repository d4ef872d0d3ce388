"""Facts of a merged graph as it was written. The metadata hold them, so that a later change shows.

The digest is over operators, the names of values and the types of weights, in no order. Values of weights
and of attributes do not count: the proofs of bytes and graph are for those.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from netfuse_onnx.ops import walk


@dataclass(frozen=True, slots=True)
class Written:
    """`operators` counts the nodes of each operator, those in bodies too, and `types` the weights of each
    element type, by its number in ONNX."""

    sha256: str
    operators: Mapping[str, int]
    types: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Written:
        """Return the facts of a model."""
        operators = Counter(walk.key(node) for node in walk.nodes(model.graph))
        types = Counter(str(tensor.data_type) for tensor in model.graph.initializer)
        text = "\n".join(sorted(_lines(model.graph)))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(digest, dict(sorted(operators.items())), dict(sorted(types.items())))

    def value(self) -> dict[str, Any]:
        """Return them as metadata hold them."""
        return {"sha256": self.sha256, "operators": dict(self.operators), "types": dict(self.types)}


def _lines(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield a line for each node, weight, input and output of a graph and of those inside of it."""
    for inner in walk.graphs(graph):
        for node in inner.node:
            names = sorted(attribute.name for attribute in node.attribute)
            yield repr((walk.key(node), list(node.input), list(node.output), names))
        for tensor in inner.initializer:
            yield repr((tensor.name, tensor.data_type, list(tensor.dims)))
        for what, infos in (("in", inner.input), ("out", inner.output)):
            yield from (repr((what, info.name, info.type.tensor_type.elem_type)) for info in infos)
