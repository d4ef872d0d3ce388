"""Symbolic dimensions of inputs: which are batches, which are spatial, and what a shape is for given sizes.

A symbol that stands first in the shape of an input is taken for a batch. Exporters also write sums and
products (`past + sequence`): those are computed. An unnamed dynamic dim is called `INPUT.POSITION`.
Which sizes are tried is in ladder.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence

from netfuse_onnx.types import Dim

Dims = tuple[Dim, ...] | None


def meet(name: str, shapes: Sequence[Dims], static: dict[str, int]) -> Dims:
    """The dims of one input that all sources take, in the first one's symbols.

    Static wins; a symbol that some source has static is entered in `static`.
    """
    known = [dims for dims in shapes if dims is not None]
    if not known:
        return None
    first = known[0]
    result: list[Dim] = []
    for i, dim in enumerate(first):
        fixed = [d[i] for d in known if len(d) == len(first) and isinstance(d[i], int)]
        symbol = dim if dim is not None else _unnamed(name, i)
        if fixed and isinstance(symbol, str):
            static[symbol] = int(fixed[0] or 0)
        result.append(fixed[0] if fixed else symbol)
    return tuple(result)


def named(name: str, dims: Dims) -> Dims:
    """The dims of an input, those without a name called `INPUT.POSITION`."""
    return dims and tuple(_unnamed(name, i) if dim is None else dim for i, dim in enumerate(dims))


def _unnamed(name: str, position: int) -> str:
    return f"{name}.{position}"


def free(shapes: Iterable[Dims]) -> tuple[str, ...]:
    """The symbols that need a size, each once, in order; those inside of sums and products included."""
    found: dict[str, None] = {}
    for dims in shapes:
        for dim in dims or ():
            if isinstance(dim, str):
                found.update(dict.fromkeys(_terms(dim)))
    return tuple(found)


def batches(shapes: Sequence[Dims]) -> tuple[str, ...]:
    """The symbols that stand first in some input's shape."""
    heads = [dims[0] for dims in shapes if dims]
    return tuple(dict.fromkeys(h for h in heads if isinstance(h, str) and _terms(h) == (h,)))


def spatial(shapes: Sequence[Dims]) -> frozenset[str]:
    """The symbols of heights, widths and depths."""
    return frozenset(d for dims in shapes if dims and len(dims) >= 4 for d in dims[2:] if isinstance(d, str))


def sizes(dims: Sequence[Dim], values: Mapping[str, int]) -> tuple[int, ...]:
    """A concrete shape. An unknown symbol counts as 1."""
    return tuple(d if isinstance(d, int) else max(0, _value(str(d), values)) for d in dims)


def _parse(text: str) -> ast.expr | None:
    """The expression that a dim is, or None where its name is just a name."""
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    plain = (ast.BinOp, ast.Name, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Load)
    known = all(isinstance(part, plain) for part in ast.walk(body))
    return body if isinstance(body, ast.BinOp) and known else None


def _terms(text: str) -> tuple[str, ...]:
    body = _parse(text)
    return (text,) if body is None else tuple(n.id for n in ast.walk(body) if isinstance(n, ast.Name))


def _value(text: str, values: Mapping[str, int]) -> int:
    if text in values:
        return values[text]
    body = _parse(text)
    return 1 if body is None else _evaluate(body, values)


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> int:
    if isinstance(node, ast.Name):
        return values.get(node.id, 1)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) else 1
    if not isinstance(node, ast.BinOp):
        return 1
    left, right = _evaluate(node.left, values), _evaluate(node.right, values)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    if isinstance(node.op, ast.Mult):
        return left * right
    return left // right if right else 1
