"""The sizes for which a plan is made: those that a file leaves open, given or assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.load.infer import infer
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rules import Site
from netfuse_onnx.run import symbols
from netfuse_onnx.types import Correspondence, Graph, ValueType

OPEN = 128
"""Of any open axis of an input but its first, which is the batch, and 1."""


def assumed(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes of the symbols of a graph's inputs, and of what is computed from these."""
    shapes = [graph.types[name].dims or () for name in graph.inputs]
    names, found = symbols.free(shapes), dict[str, int]()
    for axis, dim in ((axis, dim) for dims in shapes for axis, dim in enumerate(dims)):
        if isinstance(dim, str) and dim in names:
            found.setdefault(dim, given.get(dim, 1 if axis == 0 else OPEN))
    every = [dim for dims in shapes for dim in dims if isinstance(dim, str)]
    return dict(zip(every, symbols.sizes(every, found), strict=True))


def sized(corr: Correspondence, sizes: Mapping[str, int]) -> Correspondence:
    """The same family with types as they are when its inputs have these sizes. A Shape that is known then
    makes others known, so that folding and inference take turns; the nodes stay all there."""
    types = {name: _bound(kind, sizes) for name, kind in corr.graph.types.items()}
    found = replace(corr, graph=replace(corr.graph, types=types), believed={})
    while True:
        found = replace(found, graph=infer(replace(corr.sources[0], graph=found.graph)).graph)
        less = fold(found)
        types |= {
            name: _bound(kind, sizes) for name, kind in less.graph.types.items() if kind.dims is not None
        }
        if less is found:
            return replace(corr, graph=replace(corr.graph, types=types), believed={})
        found = less


def retyped(sites: Sequence[Site], corr: Correspondence) -> list[Site]:
    """The sites by which a family is priced, with the types that its values have in `corr`. A body of a rule
    never gets them: it would write these sizes into the graph."""
    return [
        replace(
            site,
            inputs=tuple(map(corr.type_of, site.node.inputs)),
            outputs=tuple(map(corr.type_of, site.node.outputs)),
        )
        for site in sites
    ]


def _bound(kind: ValueType, sizes: Mapping[str, int]) -> ValueType:
    if kind.dims is None:
        return kind
    return replace(kind, dims=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in kind.dims))
