"""Binds the sizes that a file leaves open, so that a plan for a target can be priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.load.infer import infer
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rules import Site
from netfuse_onnx.run import symbols
from netfuse_onnx.types import Correspondence, Graph, ValueType

ASSUMED_SIZE = 128
"""Size assumed for a dynamic input axis. The first axis is the batch and is assumed to be 1."""


def assumed(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes of the symbols of a graph's inputs, and of the symbols that are computed from these."""
    shapes = [graph.types[name].dims or () for name in graph.inputs]
    names, sizes = symbols.free(shapes), dict[str, int]()
    for axis, dim in ((axis, dim) for dims in shapes for axis, dim in enumerate(dims)):
        if isinstance(dim, str) and dim in names:
            sizes.setdefault(dim, given.get(dim, 1 if axis == 0 else ASSUMED_SIZE))
    every = [dim for dims in shapes for dim in dims if isinstance(dim, str)]
    return dict(zip(every, symbols.sizes(every, sizes), strict=True))


def sized(corr: Correspondence, sizes: Mapping[str, int]) -> Correspondence:
    """The same family with the types that its values have when its inputs have these sizes. A Shape that
    becomes constant makes other shapes known, so folding and inference take turns. All nodes stay."""
    types = {name: _bound(kind, sizes) for name, kind in corr.graph.types.items()}
    current = replace(corr, graph=replace(corr.graph, types=types), believed={})
    while True:
        current = replace(current, graph=infer(replace(corr.sources[0], graph=current.graph)).graph)
        folded = fold(current)
        types |= {
            name: _bound(kind, sizes) for name, kind in folded.graph.types.items() if kind.dims is not None
        }
        if folded is current:
            return replace(corr, graph=replace(corr.graph, types=types), believed={})
        current = folded


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


def resized(site: Site, corr: Correspondence) -> Site:
    """The same for one site, which may be that of a body: what `corr` does not have keeps its type."""

    def is_known(name: str) -> bool:
        return name in corr.weights or name in corr.graph.types

    def types(names: Sequence[str], own: Sequence[ValueType]) -> tuple[ValueType, ...]:
        pairs = zip(names, own, strict=True)
        return tuple(corr.type_of(name) if is_known(name) else kind for name, kind in pairs)

    node = site.node
    return replace(site, inputs=types(node.inputs, site.inputs), outputs=types(node.outputs, site.outputs))


def _bound(kind: ValueType, sizes: Mapping[str, int]) -> ValueType:
    if kind.dims is None:
        return kind
    return replace(kind, dims=tuple(sizes.get(d, d) if isinstance(d, str) else d for d in kind.dims))
