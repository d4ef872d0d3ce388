"""Symbolic dimensions of inputs: finds batches and spatial dims, and computes shapes for given sizes.

A symbol that stands first in the shape of an input is taken for a batch. Exporters also write sums and
products (`past + sequence`): those are computed from other dims of the inputs, see expressions.py. An unnamed
dynamic dim is called `INPUT.POSITION`. ladder.py has the sizes that are tried.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

from netfuse_onnx import expressions
from netfuse_onnx.ops import kinds
from netfuse_onnx.types import Dim

Dims = tuple[Dim, ...] | None


def meet(name: str, shapes: Sequence[Dims]) -> Dims:
    """Return the dims of one input that all sources take, in the first one's symbols. A static dim wins."""
    ranked = [dims for dims in shapes if dims is not None]
    return named(name, functools.reduce(kinds.accepted_dims, ranked)) if ranked else None


def named(name: str, dims: Dims, replaced: Collection[Dim] = (None,)) -> Dims:
    """Return the dims of an input, with `INPUT.POSITION` for those to be replaced: those without a name."""
    return dims and tuple(f"{name}.{i}" if dim in replaced else dim for i, dim in enumerate(dims))


def free(shapes: Iterable[Dims]) -> tuple[str, ...]:
    """Return the symbols that need a size, in order: all but those that are computed from others."""
    symbols = dict.fromkeys(dim for dims in shapes for dim in dims or () if isinstance(dim, str))
    names: list[str] = []
    for text in sorted(symbols, key=len):  # an expression is longer than its terms
        if not expressions.terms(text, names):
            names.append(text)
    return tuple(text for text in symbols if text in set(names))


def batches(shapes: Sequence[Dims]) -> tuple[str, ...]:
    """Return the symbols that stand first in the shape of some input."""
    names = set(free(shapes))
    return tuple(dict.fromkeys(str(dims[0]) for dims in shapes if dims and dims[0] in names))


def spatial(shapes: Sequence[Dims]) -> frozenset[str]:
    """Return the symbols of heights, widths and depths."""
    return frozenset(d for dims in shapes if dims and len(dims) >= 4 for d in dims[2:] if isinstance(d, str))


def sizes(dims: Sequence[Dim], values: Mapping[str, int]) -> tuple[int, ...]:
    """Return a concrete shape, from the sizes of all free symbols. An unknown symbol counts as 1."""
    return tuple(d if isinstance(d, int) else _value(str(d), values) for d in dims)


def _value(text: str, values: Mapping[str, int]) -> int:
    size = expressions.value(text, values)
    return 1 if size is None else max(0, size)
