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
    """For any batch, what one row alone gives, row after row along `axis`."""

    axis: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The number of each row, 0 to B - 1, rowed at `axis`; other axes have size 1."""

    axis: int


@dataclass(frozen=True, slots=True)
class Indices:
    """Tuples of indices along the last axis, each of which begins with the number of its row at `axis`."""

    axis: int


State: TypeAlias = Rowed | Numbers | Indices | Sizes | None
"""None is a value that is the same for any batch."""


class Mixed(Exception):
    """A node may mix rows; the text says why."""


class Facts(Protocol):
    """What is known of values."""

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """A small constant."""

    def dims(self, name: str) -> tuple[Dim, ...]:
        """The dims for a batch of 1. Raises Mixed where the rank is unknown."""

    def sizes(self, name: str) -> Sizes | None:
        """The sizes in a value, also in one that is the same for any batch."""


def places(facts: Facts, names: Sequence[str], states: Sequence[State]) -> tuple[int, list[tuple[Dim, ...]]]:
    """The one place, counted from the back, at which operands that broadcast have their rows, and their dims.
    Raises Mixed where there are several, or an operand that is the same for any batch has a size there."""
    dims = [facts.dims(name) for name in names]
    rowed = [(d, s) for d, s in zip(dims, states, strict=True) if isinstance(s, Rowed)]
    behind = {len(d) - s.axis for d, s in rowed}
    if len(behind) != 1:
        raise Mixed("its operands have their rows along different axes")
    (place,) = behind
    widths = [d[-place] for d, _ in rowed]
    if any(width != widths[0] or width is None for width in widths):
        raise Mixed("its operands have different numbers of entries for each row")
    for d, s in zip(dims, states, strict=True):
        if s is None and len(d) >= place and d[-place] != 1:
            raise Mixed("an operand that is the same for any batch has a size where others have their rows")
    return place, dims
