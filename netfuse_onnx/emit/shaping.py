"""The nodes that move, add, drop and regroup axes: their spelling in each opset, and what the writer does for
a weight instead.

A target of Reshape may name the number of models, `count`. Where only a call tells it, that is a symbol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from netfuse_onnx.dims import CHOSEN
from netfuse_onnx.emit.chosen import NeedsCount
from netfuse_onnx.layouts import Layout
from netfuse_onnx.storage.transforms import AS_IS, SwapAt, SwapLast
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from netfuse_onnx.emit.chosen import Chosen
    from netfuse_onnx.emit.emitter import Tensor
    from netfuse_onnx.storage.recipe import Recipe


class Shaping:
    """The part of the emitter that knows shapes."""

    opset: int
    recipes: dict[str, Recipe]
    total: int
    chosen: Chosen | None

    @abstractmethod
    def __call__(self, op: str, /, *ins: Tensor | None, **attrs: Any) -> Tensor: ...

    @abstractmethod
    def node(
        self, op: str, ins: Sequence[Tensor | None], attrs: Any = None, *, outs: Sequence[bool]
    ) -> list[Tensor]: ...

    @abstractmethod
    def const(self, values: Any) -> gs.Constant: ...

    @abstractmethod
    def shape(self, dims: Sequence[Dim]) -> Tensor: ...

    @abstractmethod
    def is_weight(self, tensor: Tensor) -> bool: ...

    @abstractmethod
    def reform(self, tensor: Tensor, **changes: Any) -> gs.Constant: ...

    # ------------------------------------------------------------------ the number of models

    @property
    def models(self) -> int:
        """The number of models N. Raises NeedsCount where only a call tells how many there are."""
        if self.chosen is not None:
            raise NeedsCount
        return self.total

    @property
    def count(self) -> Dim:
        """The size of the axis of models, for targets of `reshape` and `shape`: N, or a symbol."""
        return self.total if self.chosen is None else CHOSEN

    @property
    def kept(self) -> int:
        """The same for a Reshape that leaves the axis of models in its place: N, or 0, which copies it."""
        return self.total if self.chosen is None else 0

    def times(self, size: int) -> int:
        """The size of an axis that holds `size` of each model, for a target without another -1."""
        return self.total * size if self.chosen is None else -1

    def number_of_models(self) -> Tensor:
        """The number of models as a scalar."""
        return self.const(self.total) if self.chosen is None else self.reshape(self.shape([self.count]), [])

    def places(self, rank: int) -> Tensor:
        """0, 1, 2, .. along the axis of models, with `rank` axes of 1 behind it."""
        if self.chosen is None:
            return self.const(np.arange(self.total).reshape([-1] + [1] * rank))
        every = self("Range", self.const(0), self.number_of_models(), self.const(1))
        return self.reshape(every, [self.count, *[1] * rank])

    # ------------------------------------------------------------------ shapes, by opset

    def reshape(self, x: Tensor, target: Sequence[Dim]) -> Tensor:
        """Reshape; a weight with a static target only changes its dims. A symbol in it is -1 where nothing
        else is, and else a size that is read at run time."""
        sizes = [dim for dim in target if isinstance(dim, int)]
        if self.is_weight(x) and (shape := self._stored_shape(x, target)) is not None:
            return self.reform(x, shape=shape)
        if len(sizes) == len(target):
            return self("Reshape", x, self.const(sizes))
        if len(sizes) == len(target) - 1 and -1 not in sizes:
            return self("Reshape", x, self.const([d if isinstance(d, int) else -1 for d in target]))
        return self("Reshape", x, self.shape(target))

    def _stored_shape(self, x: Tensor, target: Sequence[Dim]) -> tuple[int, ...] | None:
        """The shape in which a weight is stored so that it has a target. None where a node must reshape it:
        then a size is not static, or a weight of all models would lose its axis of models."""
        first, own = list(target[:1]), [dim for dim in target if isinstance(dim, int)]
        if self.chosen is not None and self.chosen.marked(x):
            own = [dim for dim in target[1:] if isinstance(dim, int)]
            static = len(own) == len(target) - 1 and first in ([self.count], [self.kept])
            return (self.total, *own) if static and min(own, default=1) > 0 else None
        return tuple(own) if len(own) == len(target) and min(own, default=1) > 0 else None

    def unsqueeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Insert axes of size 1; `axes` count in the result, from the front."""
        if not axes:
            return x
        if self.is_weight(x) and not (0 in axes and self.chosen is not None and self.chosen.marked(x)):
            shape = list(self.recipes[x.name].shape)
            for axis in sorted(axes):
                shape.insert(axis, 1)
            return self.reform(x, shape=tuple(shape))
        return self._axes_op("Unsqueeze", x, axes)

    def squeeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return self._axes_op("Squeeze", x, axes) if axes else x

    def _axes_op(self, op: str, x: Tensor, axes: Sequence[int]) -> Tensor:
        if self.opset < 13:
            return self(op, x, axes=list(axes))
        return self(op, x, self.const(list(axes)))

    def split(self, x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        outs = [True] * len(sizes)
        if self.opset < 13:
            return self.node("Split", [x], {"axis": axis, "split": list(sizes)}, outs=outs)
        return self.node("Split", [x, self.const(list(sizes))], {"axis": axis}, outs=outs)

    def reduce(self, op: str, x: Tensor, axes: Sequence[int], *, keepdims: int = 0) -> Tensor:
        """A reduction over `axes`, none of which leaves x as it is."""
        if not axes:
            return x
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self(op, x, self.const(list(axes)), keepdims=keepdims)
        return self(op, x, axes=list(axes), keepdims=keepdims)

    def require(self, x: Tensor, faults: Tensor) -> Tensor:
        """`x`, if all `faults` (int64, one per axis of x) are 0. One of -2 or less makes the run fail, in
        ONNX Runtime on the CPU and on CUDA and in OpenVINO.

        ONNX has no assertion. A Reshape keeps an axis whose target is 0 and refuses targets below -1; it
        copies no data and reads its target on the host."""
        return self("Reshape", x, faults)

    def require_size(self, x: Tensor, rank: int, like: Tensor) -> Tensor:
        """`x`, of this rank, if its first axis is as long as that of `like`; else the run fails."""
        first = self.const([0])
        sizes = [self("Gather", self("Shape", tensor), first, axis=0) for tensor in (x, like)]
        less = self("Sub", self("Min", *sizes), self("Max", *sizes))
        faults = self("Add", less, less)
        return self.require(
            x, self("Concat", faults, self.const([0] * (rank - 1)), axis=0) if rank > 1 else faults
        )

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        return x if list(perm) == sorted(perm) else self("Transpose", x, perm=list(perm))

    def swap_last(self, x: Tensor, rank: int) -> Tensor:
        """Swap the last two of `rank` axes. A stacked weight is written that way instead."""
        if self.is_weight(x):
            recipe, swap = self.recipes[x.name], SwapLast()
            if recipe.outer == 1 and recipe.transform in (AS_IS, swap) and swap.fits(recipe.parts[0].shape):
                shape = (*recipe.shape[:-2], recipe.shape[-1], recipe.shape[-2])
                return self.reform(x, shape=shape, transform=AS_IS if recipe.transform == swap else swap)
        return self.transpose(x, [*range(rank - 2), rank - 1, rank - 2])

    def swap_at(self, x: Tensor, axis: int, rows: int, columns: int) -> Tensor:
        """A stacked weight as [N, columns, rows]: the per-model axes before `axis` come to `rows`, the others
        to `columns`."""
        if self.is_weight(x):
            recipe, swap = self.recipes[x.name], SwapAt(axis)
            if recipe.transform == AS_IS and recipe.outer == 1 and swap.fits(recipe.parts[0].shape):
                return self.reform(x, shape=(self.total, columns, rows), transform=swap)
        return self.transpose(self.reshape(x, [self.count, rows, columns]), [0, 2, 1])

    def prepend(self, head: Dim, shape: Tensor, values: np.ndarray[Any, Any] | None) -> Tensor:
        """The shape [head, *shape], a constant where `values`, those of `shape`, are known."""
        if values is not None and isinstance(head, int):
            return self.const([head, *values.reshape(-1).tolist()])
        return self("Concat", self.shape([head]), shape, axis=0)

    def pad_rank(self, x: Tensor, layout: Layout, rank: int, to: int, at: int) -> Tensor:
        """Make a value of per-model rank `rank` broadcast against one of rank `to` whose model axis
        stands at `at`: [N, d..] -> [N, 1.., d..], and an axis of 1 for the models in a SHARED value."""
        return self.unsqueeze(x, layout.padding(to - rank, at))
