"""The dims of one model's value: which sizes are equal, and how many elements they come to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from netfuse_onnx.types import Dim

Sizes = Mapping[str, int | Sequence[int]]
"""Sizes of symbolic dims by name: one for each, or several for which a plan is to be good."""


MOST_POINTS = 16
"""The most combinations of sizes for which a plan is made."""


def combinations(sizes: Sizes) -> int:
    """The number of points."""
    return math.prod(1 if isinstance(size, int) else len(size) for size in sizes.values())


def points(sizes: Sizes) -> list[dict[str, int]]:
    """Every combination of sizes, the first of each name first; the last name changes fastest."""
    choices = [(size,) if isinstance(size, int) else tuple(size) for size in sizes.values()]
    return [dict(zip(sizes, some, strict=True)) for some in itertools.product(*choices)]


def same_dim(left: Dim, right: Dim) -> bool:
    """True where two dims are known to be equal: one size, or one symbol."""
    return left is not None and left == right


CHOSEN = "netfuse.models"
"""The symbol of the axis of models where a call chooses them, so that no file tells its size."""

APART = "~"
"""This stands before the number that tells axes of one name apart, as in `batch~2`."""

INFERRED = "unk__"
"""Symbols that onnx's inference makes up begin with this. Others are axes of the inputs."""


def same_name(left: Dim, right: Dim) -> bool:
    """True where a file says that two dims are equal: then they are meant to be, but only a check at run time
    makes them so."""
    one, two = (str(dim).split(APART)[0] if isinstance(dim, str) else dim for dim in (left, right))
    return one is not None and one == two


def static_size(dim: Dim) -> int:
    """The size of a dim that a rule has made sure is static."""
    assert isinstance(dim, int), "a size is dynamic that a rule took for static"
    return dim


def folded_size(dim: Dim, models: Dim) -> Dim:
    """The size of an axis that holds `dim` of each model; None where it is neither a number nor a symbol."""
    if isinstance(dim, int) and isinstance(models, int):
        return models * dim
    return models if dim == 1 else None


def product(dims: Sequence[Dim]) -> int | None:
    """Elements of a tensor, None where a size is not static."""
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(sizes) if len(sizes) == len(dims) else None


def volume(dims: Sequence[Dim], unknown: int) -> int:
    """Elements of a tensor, with `unknown` standing in for every dim that is not static."""
    return math.prod(dim if isinstance(dim, int) else unknown for dim in dims)


def broadcast(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """Dims of the result of operands that broadcast; None for a size that they do not make certain."""
    places = range(max(map(len, shapes)), 0, -1)  # counted from the back
    return tuple(_widest([dims[-place] for dims in shapes if len(dims) >= place]) for place in places)


def _widest(dims: Sequence[Dim]) -> Dim:
    wide = [dim for dim in dims if dim != 1]
    if not wide:
        return 1
    return wide[0] if all(same_dim(dim, wide[0]) for dim in wide) else None


def reshape_target(dims: Sequence[Dim]) -> list[int] | None:
    """A target for Reshape that says all of `dims`, or None. One dim may be dynamic, which becomes -1, and
    then no other may turn out 0: -1 is undefined beside it."""
    target = [dim if isinstance(dim, int) else -1 for dim in dims]
    return None if 0 in target or target.count(-1) > 1 else target
