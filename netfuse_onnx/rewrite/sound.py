"""The sizes that a plan may believe: those that a runtime compares, whatever names a file gives them.

ONNX Runtime does not compare two axes that a file gives one name. So each axis of an input gets a symbol of
its own here, and of other values ranks and numbers count alone; load/claims.py has set aside what a file
merely says of these. What inference makes of that is true of every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from netfuse_onnx.dims import APART
from netfuse_onnx.load.infer import infer
from netfuse_onnx.ops.kinds import has_rank, sizes_only
from netfuse_onnx.types import Correspondence, Dim, Graph, ValueType


def sound(corr: Correspondence) -> Correspondence:
    """The correspondence with `believed`, the types of its values by which it may be planned."""
    graph = corr.graph
    start = {name: sizes_only(kind) for name, kind in graph.types.items()} | _own_symbols(graph)
    types = infer(replace(corr.sources[0], graph=replace(graph, types=start))).graph.types
    ranked = {name: kind for name, kind in types.items() if name in start and has_rank(kind)}
    return replace(corr, believed={name: ranked.get(name, start[name]) for name in start if name in types})


def _own_symbols(graph: Graph) -> dict[str, ValueType]:
    """The types of the inputs. The first axis with a symbol keeps it; the next ones are told apart."""
    seen: set[str] = set()
    return {name: _apart(graph.types[name], seen) for name in graph.inputs}


def _apart(kind: ValueType, seen: set[str]) -> ValueType:
    if kind.dims is None:
        return kind

    def names() -> Iterator[Dim]:
        for dim in kind.dims or ():
            found, count = dim, 2
            while isinstance(found, str) and found in seen:
                found, count = f"{dim}{APART}{count}", count + 1
            if isinstance(found, str):
                seen.add(found)
            yield found

    return replace(kind, dims=tuple(names()))
