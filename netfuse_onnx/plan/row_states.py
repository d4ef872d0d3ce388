"""The states of values in the proof that rows stay apart (rows_apart.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from netfuse_onnx.plan.row_sizes import Sizes
from netfuse_onnx.types import Dim


@dataclass(frozen=True, slots=True)
class Rowed:
    """For any batch, what one row alone gives, row after row along `axis`, of which each takes `width`."""

    axis: int
    width: Dim = 1


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number of each row, 0 to B - 1, everywhere in that row along `axis`."""

    axis: int
    width: Dim = 1


@dataclass(frozen=True, slots=True)
class Shaped:
    """Rows along `axis` of which only the shape is what one row alone gives."""

    axis: int
    width: Dim = 1


@dataclass(frozen=True, slots=True)
class Indices:
    """Tuples of indices along the last axis, each of which begins with the number of its row at `axis`."""

    axis: int
    width: Dim = 1


State: TypeAlias = Rowed | Numbers | Shaped | Indices | Sizes | None
HAVE_ROWS = (Rowed, Numbers, Shaped, Indices)
"""None is a value that is the same for any batch."""


class Mixed(Exception):
    """A node may mix rows; the text says why."""


class Facts(Protocol):
    """What is known of values."""

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """A small constant."""

    def dims(self, name: str) -> tuple[Dim, ...]:
        """The dims for a batch of 1. Raises Mixed where the rank is unknown."""

    def note(self, name: str, dims: tuple[Dim, ...]) -> None:
        """Remember the dims of a value for a batch of 1."""

    def sizes(self, name: str) -> Sizes | None:
        """The sizes in a value, also in one that is the same for any batch."""


def places(facts: Facts, names: Sequence[str], states: Sequence[State]) -> tuple[int, Dim, int]:
    """The one place, counted from the back, at which operands that broadcast have their rows, the width of a
    row there, and the rank of the result. Raises Mixed where there are several, or where an operand that is
    the same for any batch has a size there."""
    dims = [facts.dims(name) for name in names]
    rowed = [(d, s) for d, s in zip(dims, states, strict=True) if isinstance(s, HAVE_ROWS)]
    behind = {len(d) - s.axis for d, s in rowed}
    if len(behind) != 1:
        raise Mixed("its operands have their rows along different axes")
    (place,) = behind
    widths = [s.width for _, s in rowed]
    if any(width != widths[0] or width is None for width in widths[1:]):
        raise Mixed("its operands have different numbers of entries for each row")
    for d, s in zip(dims, states, strict=True):
        if s is None and len(d) >= place and d[-place] != 1:
            raise Mixed("an operand that is the same for any batch has a size where others have their rows")
    return place, widths[0], max(map(len, dims))
