"""Refuses graphs that need too much memory, or never end, whatever they are fed.

A file of some kilobytes can do both: ONNX Runtime computes all that depends on constants alone while it loads
the file. So before a graph from a file is loaded, its memory is estimated, and the trips of its loops are
counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import GraphProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.loader import load
from netfuse_onnx.ops import walk
from netfuse_onnx.ops.kinds import SHAPE_TYPES
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.run.footprint import PROCESS, REUSE, amount, constant_bytes, static_peak
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Graph, Node, Source, ValueType

FOLDING = 4.0
"""ONNX Runtime takes so many times the bytes that it computes from constants: its optimisers make copies."""
MOST_TRIPS = 1 << 17
"""The most trips of a loop, or of nested loops, whose number is in the file and that no condition ends."""

AFFORDABLE, OF_WEIGHTS = 1 << 30, 64
"""A graph may compute so many bytes from constants alone, plus so many times the bytes of its weights."""


def affordable(family: Correspondence) -> Correspondence:
    """Return the family, whose constants are folded. Raises FileFault where its graph computes more from
    constants alone than any model of its size needs: no runtime could load it."""
    source = family.sources[0]
    needed, own = constant_bytes(family.graph), sum(map(weights.nbytes, source.graph.weights.values()))
    if needed > AFFORDABLE + OF_WEIGHTS * own:
        raise FileFault(
            f"{source.path} computes {amount(needed)} from constants alone.",
            "No runtime loads that: export the model again.",
        )
    return family


def refusal(source: Source, limit: int, *, fed: bool) -> str:
    """Return the reason why a source must not be loaded where `limit` bytes are allowed; '' where it may. Its
    types must be inferred. With `fed`, a run with inputs of any size counts too."""
    return _Bounds(source, limit, fed).graph(source.graph, 1)


def of_merged(path: str, family: Correspondence, limit: int) -> str:
    """Return the reason why a file must not be loaded that should be the merge of a family, but may be
    anything.

    It may compute the weights of its sources from constants, beyond the limit: weights that are equal in all
    of them are stored once and repeated. Raises FileFault where the file is no valid model.
    """
    stored = sum(weights.nbytes(w) for source in family.sources for w in source.graph.weights.values())
    limit += int(FOLDING * stored)
    source = infer(unclaimed(load(path)))
    return refusal(replace(source, graph=fold(Correspondence.of_one(source)).graph), limit, fed=True)


@dataclass
class _Bounds:
    """Checks a source against a limit in bytes. `fed` is as in `refusal`."""

    source: Source
    limit: int
    fed: bool

    def graph(self, graph: Graph, trips: int) -> str:
        """Return the reason why a graph that runs `trips` times is refused; '' where it is not."""
        needed = int(PROCESS + FOLDING * constant_bytes(graph))
        if needed > self.limit:
            return f"what it computes from constants alone takes about {amount(needed)}"
        needed = int(PROCESS + REUSE * static_peak(graph))
        if self.fed and needed > self.limit:
            return f"a run takes about {amount(needed)}"
        for node in graph.nodes:
            for body in walk.bodies_of(node.attrs).values():
                count = trips * self._trips(node, body)
                if count > MOST_TRIPS:
                    return f"nothing ends its Loop {node.name or node.outputs[0]!r} before {MOST_TRIPS} trips"
                if reason := self.graph(self._inside(graph, body), count):
                    return reason
        return ""

    def _inside(self, graph: Graph, body: GraphProto) -> Graph:
        """Return a body as a graph with inferred types. It reads the weights of the main graph."""
        main_weights = self.source.graph.weights
        types = {name: ValueType(weight.dtype, weight.shape) for name, weight in main_weights.items()}
        types |= dict(graph.types)
        inputs = (
            *(value.name for value in body.input),
            *(name for name in types if name not in main_weights),
        )
        outputs = tuple(value.name for value in body.output)
        inner = Graph(body.name, inputs, outputs, tuple(map(walk.node_of, body.node)), main_weights, types)
        return infer(replace(self.source, graph=inner)).graph

    def _trips(self, node: Node, body: GraphProto) -> int:
        """Return the number of trips of a body where the file has it; else 1."""
        if node.op != "Loop" or node.domain or not self._goes_on(node, body):
            return 1
        if not node.inputs[0]:
            return MOST_TRIPS + 1
        count = self._value(node.inputs[0])
        return 1 if count is None else max(1, count)

    def _goes_on(self, node: Node, body: GraphProto) -> bool:
        """True where the condition is true from the first trip to the last."""
        start = node.inputs[1] if len(node.inputs) > 1 else ""
        if start and self._value(start) != 1:
            return False
        makers = {name: inner for inner in body.node for name in inner.output}
        maker = makers.get(body.output[0].name)
        if maker is None or maker.op_type != "Identity":
            return False
        return maker.input[0] == body.input[1].name or self._value(maker.input[0]) == 1

    def _value(self, name: str) -> int | None:
        """Return the integer in a small weight of one element; None for any other value."""
        weight = self.source.graph.weights.get(name)
        if weight is None or not isinstance(weight.data, bytes) or weight.dtype not in SHAPE_TYPES:
            return None
        values = weights.array(weight).reshape(-1)
        return int(values[0]) if values.size == 1 else None
