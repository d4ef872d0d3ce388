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
from netfuse_onnx.types import Correspondence, Dim, Graph, ValueType


def sound(corr: Correspondence) -> Correspondence:
    """The correspondence with `believed`, the types of its values by which it may be planned."""
    graph = corr.graph
    start = {name: _nameless(kind) for name, kind in graph.types.items()} | _own_symbols(graph)
    found = infer(replace(corr.sources[0], graph=replace(graph, types=start))).graph.types
    believed = {name: _ranked(found[name], start[name]) for name in start if name in found}
    return replace(corr, believed=believed)


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


def _nameless(kind: ValueType) -> ValueType:
    if kind.dims is None:
        return kind
    return replace(kind, dims=tuple(dim if isinstance(dim, int) else None for dim in kind.dims))


def _ranked(found: ValueType, known: ValueType) -> ValueType:
    """The type that inference finds, or the known one where it finds nothing."""
    return known if found.dims is None and found.proto is None else found
