"""The shapes that one step gives, with these weights: for weights that may steer a shape, and need not."""

from __future__ import annotations

from collections.abc import Mapping

from netfuse_onnx.load.infer import infer
from netfuse_onnx.match.flat import Step
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType, Weight


def outcome(
    step: Step, held: Mapping[int, Weight], graph: Graph, opsets: Mapping[str, int]
) -> tuple[tuple[Dim, ...], ...] | None:
    """The dims of all outputs of a step of the main graph, whose operands `held` are these weights; None
    where a size is not known, as a number or as a size of an input of the graph."""
    kinds = {name: graph.types.get(name, ValueType()) for name in step.ins if name}
    fed = {name for k, name in enumerate(step.ins) if name and k not in held}
    names = [f"weight {k}" if k in held else name for k, name in enumerate(step.ins)]
    alone = Graph(
        name="step",
        inputs=tuple(sorted(fed)),
        outputs=tuple(name for name in step.outs if name),
        nodes=(Node(step.op, step.domain, "", tuple(names), step.outs, step.attrs),),
        weights={f"weight {k}": weight for k, weight in held.items()},
        types={name: kinds[name] for name in fed},
    )
    typed = infer(
        Source(path="", graph=alone, opsets=opsets, ir_version=8, metadata={}, files=())
    ).graph.types
    symbols = {dim for name in graph.inputs for dim in graph.types.get(name, ValueType()).dims or ()}
    dims = [typed.get(name, ValueType()).dims for name in alone.outputs]
    if any(
        shape is None or not all(isinstance(d, int) or (d and d in symbols) for d in shape) for shape in dims
    ):
        return None
    return tuple(shape for shape in dims if shape is not None)
