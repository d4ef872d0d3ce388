"""A family as one row sees it: its batch is 1, so that all that is computed from its size is known."""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.load.infer import infer
from netfuse_onnx.rewrite.passes import rewritten
from netfuse_onnx.routing import routing
from netfuse_onnx.types import Correspondence, Graph


def of_one_row(family: Correspondence) -> Graph:
    """The first source's graph, with the types that its values have for a batch of 1."""
    graph = family.graph
    kinds = {name: graph.types[name] for name in graph.inputs}
    for name in routing(family).rows:
        kinds[name] = replace(kinds[name], dims=(1, *(kinds[name].dims or ())[1:]))
    source = replace(family.sources[0], graph=replace(graph, types=kinds), opsets=family.opsets)
    return infer(source).graph


def per_row(family: Correspondence, provider: str = "") -> Correspondence:
    """The family with a batch of 1, rewritten again."""
    return rewritten(
        replace(family, graph=of_one_row(family), believed={}, rows=routing(family).rows), provider
    )
