"""Takes nodes out of the graph of a family, and puts others in their place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.types import Correspondence, Node, Weight


def with_nodes(
    corr: Correspondence,
    fresh: Mapping[int, Node],
    dropped: Collection[int],
    weights: Mapping[str, tuple[Weight, ...]],
) -> Correspondence:
    """The correspondence with these weights, new nodes in the place of old ones, and nothing that nobody
    reads."""
    graph = corr.graph
    kept = {i: fresh.get(i, node) for i, node in enumerate(graph.nodes) if i in fresh or i not in dropped}
    read = set(graph.outputs)
    for i in sorted(kept, reverse=True):
        if read.isdisjoint(kept[i].outputs):
            del kept[i]
        else:
            read |= set(kept[i].reads)
    place = {old: new for new, old in enumerate(kept)}
    weights = {name: parts for name, parts in weights.items() if name in read}
    graph = replace(
        graph,
        nodes=tuple(kept.values()),
        weights={name: parts[0] for name, parts in weights.items()},
    )
    attrs = {place[i]: every for i, every in corr.attrs.items() if i in place}
    opsets = dict(corr.opsets)
    if any(node.domain == MICROSOFT for node in fresh.values()):
        opsets.setdefault(MICROSOFT, 1)
    return replace(corr, graph=graph, weights=weights, attrs=attrs, opsets=opsets)
