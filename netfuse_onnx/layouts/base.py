"""A layout says how the N values of one tensor, each d0..dk in its own model, are held in the merged graph.

Each layout is a class in a file of its own. It knows the dims of the tensor that holds the value, where an
axis of one model stands in it, how operands broadcast in it, how the writer lays out a weight in it, and its
hops: the conversions to and from its neighbours. One hop to a STACKED layout and one back are enough, since
every layout can be reached from there (`routes.route`). From PER_MODEL no other layout has a hop of its own:
the joins of per_model.py compare the shapes of the models, so that unequal ones fail.

Hops emit nodes through the methods of the emitter that they are given; this package imports none of `emit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor

Dims: TypeAlias = Sequence[Dim]


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of an operator that broadcasts. `mapped`: it differs between the models. `stored`: it is a
    weight. `whole`: it must have the shape of the result, model axis included, as PRelu's first input."""

    dims: tuple[Dim, ...]
    mapped: bool
    stored: bool
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The base of all layouts. `axis` is the per-model axis that a layout is about, 0 where there is none."""

    axis: int = 0

    name: ClassVar[str]
    order: ClassVar[int]
    """Layouts are sorted by this number, then by axis."""
    has_axis: ClassVar[bool] = True
    stacked: ClassVar[bool] = False
    folded: ClassVar[bool] = False
    tuned: ClassVar[bool] = False
    """True where options in this layout are on offer only to plans with measured costs."""
    only: ClassVar[str] = ""
    """The provider for whose targets alone options in this layout are on offer; none is all."""
    counted: ClassVar[bool] = False
    """True where its tensors are as many as the models, or their sizes need that number as a constant. It is
    not on offer where a call chooses the models."""
    common: ClassVar[bool] = True
    """False for a layout of few operators. Among plans of one price, those without it come first."""

    def __str__(self) -> str:
        return f"{self.name}({self.axis})" if self.has_axis else self.name

    def __lt__(self, other: Layout) -> bool:
        return (self.order, self.axis) < (other.order, other.axis)

    def __hash__(self) -> int:
        return 8 * self.axis + self.order

    # ------------------------------------------------------------------ shape

    def fits(self, dims: Dims | None) -> bool:
        """True where a value of these per-model dims can be held so; None stands for what is no tensor."""
        return True

    def told(self, dims: Dims) -> bool:
        """True where the tensor tells the sizes of all axes. Others are told by further tensors, with targets
        that Reshape takes from opset 14 on. On the CPU that was not measured: it is not on offer there."""
        return True

    def known(self, dims: Dims, read: Collection[Dim]) -> bool:
        """True where an operator that reads values with the dims `read` may give one of these `dims` so."""
        return True

    def merged_dims(self, dims: Dims, models: Dim) -> tuple[Dim, ...]:
        """Dims of the one tensor that holds the value, or of each of N. `models` is N, or a symbol."""
        return tuple(dims)

    def sizes(self, dims: Dims, models: Dim) -> Iterator[tuple[str, int, int]]:
        """Yields the symbols of `dims` that the tensor tells: its axis, and what that is to be divided by."""
        for axis, dim in enumerate(self.merged_dims(dims, models)):
            if isinstance(dim, str):
                yield dim, axis, 1

    def physical(self, axis: int) -> int:
        """The place of per-model axis `axis` in the merged tensor, for a layout that does not touch it."""
        return axis

    def shifted(self, axes: Sequence[int]) -> list[int]:
        return [self.physical(axis) for axis in axes]

    def touches(self, axes: Sequence[int]) -> bool:
        """True where an operator along `axes` would mix models, or finds them elsewhere."""
        return False

    def with_axis(self, axis: int) -> Layout:
        """The layout of this class about another axis."""
        return type(self)(axis)

    # ------------------------------------------------------------------ broadcasting

    def operands(self, given: Sequence[Operand], out: Dims) -> tuple[Layout, ...] | None:
        """The layouts in which operands are taken where the result, of per-model dims `out`, is in this one,
        as one of them must be. None where that can't be done."""
        takes = [self.operand(v, out) for v in given]
        whole = all(take == self for take, v in zip(takes, given, strict=True) if v.whole)
        return tuple(take for take in takes if take) if whole and self in takes and all(takes) else None

    def operand(self, v: Operand, out: Dims) -> Layout | None:
        """The layout in which one operand is taken, whatever the others are; None where it can't be."""
        return None

    def aligned(self, emit: Emitter, x: Tensor, take: Layout, dims: Dims, out: Dims) -> Tensor:
        """An operand that was taken as `operands` said, such that it broadcasts."""
        return x

    def padding(self, missing: int, at: int) -> Sequence[int]:
        """The axes of size 1 that a value gains before it broadcasts against one that has `missing` axes
        more and its model axis at `at`."""
        return ()

    # ------------------------------------------------------------------ weights

    def runs(self, dims: Sequence[int]) -> int | None:
        """A stored weight in this layout is run 0 of each model's bytes, run 1 of each, ..: the number of
        runs. None where the writer can't lay it out: then nodes do it, from STACKED(0)."""
        return 1

    # ------------------------------------------------------------------ hops

    def hop_to(self, dst: Layout, dims: Dims) -> Hop | None:
        """The hop from here to `dst`, where this class knows one."""
        return None

    def hop_from(self, src: Layout, dims: Dims) -> Hop | None:
        """The hop from `src` to here, where this class knows one."""
        return None

    def door(self, other: Layout, dims: Dims) -> Layout | None:
        """The neighbour by way of which `other` is reached where no hop leads there. None where each STACKED
        layout is a neighbour."""
        return None


class Counts(NamedTuple):
    """Counts of what a hop emits: `launches` are kernels, `views` nodes that copy nothing, `parts` tensors
    that one Concat reads or one Split writes, `copies` and `transposes` kernels that read and write the whole
    value, `reorders` changes to and from blocks of channels that ONNX Runtime adds."""

    launches: int = 0
    views: int = 0
    parts: int = 0
    copies: int = 0
    transposes: int = 0
    reorders: int = 0


GROUP = {"cuda": 32}
"""By provider: the most tensors that one Concat reads or one Split writes. ONNX Runtime 1.31 on CUDA copies
the addresses of more from the host with every call. A CUDA graph repeats that copy from memory that was given
back when it was captured."""


def groups(count: int, provider: str) -> list[range]:
    """`count` tensors in as few groups of equal size, or one less, as the provider takes."""
    pieces = -(-count // GROUP.get(provider, max(count, 1)))
    ends = [count * k // max(pieces, 1) for k in range(pieces + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]


NOTHING, VIEW = Counts(), Counts(views=1)
COPY, TRANSPOSE = Counts(launches=1, copies=1), Counts(launches=1, transposes=1)
Walk: TypeAlias = "Callable[[Emitter, Held, int], Held]"
"""Emits a hop for a tensor, or one per model, of an ONNX element type."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A conversion from one layout to its neighbour, for a value of certain dims. `once` is emitted once,
    `each` for every model on top. `joins` and `parts`: a Concat reads one tensor per model, a Split writes
    one; where a provider takes fewer at once (GROUP), several do."""

    src: Layout
    dst: Layout
    walk: Walk
    once: Counts
    each: Counts = NOTHING
    joins: bool = False
    parts: bool = False

    def emit(self, emit: Emitter, x: Held, dtype: int = 0) -> Held:
        """The value in its new layout; `dtype` is its ONNX element type, 0 where unknown."""
        return self.walk(emit, x, dtype)

    def counts(self, models: int, provider: str = "") -> Counts:
        """The nodes of this hop for N models, in a file for `provider`."""
        total = self.once
        if self.each != NOTHING:
            pairs = zip(self.once, self.each, strict=True)
            total = Counts(*(once + models * each for once, each in pairs))
        pieces = len(groups(models, provider))
        if pieces == 1 or not (self.joins or self.parts):
            return total
        more = pieces if self.joins else 2 * pieces - 1
        return total._replace(launches=total.launches + more, copies=total.copies + 1)
