"""Symbolic dimensions of inputs: which are batches, which are spatial, and what a shape is for given sizes.

A symbol that stands first in the shape of an input is taken for a batch. Exporters also write sums and
products (`past + sequence`): those are computed from other dims of the inputs, see expressions.py. An unnamed
dynamic dim is called `INPUT.POSITION`. Which sizes are tried is in ladder.py.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

from netfuse_onnx.ops import kinds
from netfuse_onnx.run import expressions
from netfuse_onnx.types import Dim

Dims = tuple[Dim, ...] | None


def meet(name: str, shapes: Sequence[Dims]) -> Dims:
    """The dims of one input that all sources take, in the first one's symbols. Static wins."""
    known = [dims for dims in shapes if dims is not None]
    return named(name, functools.reduce(kinds.accepted_dims, known)) if known else None


def named(name: str, dims: Dims) -> Dims:
    """The dims of an input, those without a name called `INPUT.POSITION`."""
    return dims and tuple(_unnamed(name, i) if dim is None else dim for i, dim in enumerate(dims))


def apart(name: str, dims: Dims, shared: Collection[str]) -> Dims:
    """The dims of an input, those whose symbols are `shared` called `INPUT.POSITION`, too."""
    return dims and tuple(_unnamed(name, i) if dim in shared else dim for i, dim in enumerate(dims))


def _unnamed(name: str, position: int) -> str:
    return f"{name}.{position}"


def free(shapes: Iterable[Dims]) -> tuple[str, ...]:
    """The symbols that need a size, each once, in order: all but those that are computed from others."""
    found = dict.fromkeys(dim for dims in shapes for dim in dims or () if isinstance(dim, str))
    names: list[str] = []
    for text in sorted(found, key=len):  # an expression is longer than what it is made of
        if not expressions.terms(text, names):
            names.append(text)
    return tuple(text for text in found if text in set(names))


def batches(shapes: Sequence[Dims]) -> tuple[str, ...]:
    """The symbols that stand first in some input's shape."""
    names = set(free(shapes))
    return tuple(dict.fromkeys(str(dims[0]) for dims in shapes if dims and dims[0] in names))


def spatial(shapes: Sequence[Dims]) -> frozenset[str]:
    """The symbols of heights, widths and depths."""
    return frozenset(d for dims in shapes if dims and len(dims) >= 4 for d in dims[2:] if isinstance(d, str))


def sizes(dims: Sequence[Dim], values: Mapping[str, int]) -> tuple[int, ...]:
    """A concrete shape, from the sizes of all free symbols. An unknown symbol counts as 1."""
    return tuple(d if isinstance(d, int) else _value(str(d), values) for d in dims)


def _value(text: str, values: Mapping[str, int]) -> int:
    found = expressions.value(text, values)
    return 1 if found is None else max(0, found)
