"""The sizes of a value that the file leaves open, at run time, from a tensor that has them.

A layout that joins axes no longer tells their sizes. Equal symbols are equal sizes (rewrite/believed.py), so
the shape of any tensor with an axis of that symbol tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netfuse_onnx.errors import InternalError
from netfuse_onnx.types import Dim

if TYPE_CHECKING:
    from onnx_graphsurgeon import Node

    from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
    from netfuse_onnx.layouts import Layout


class Sizes:
    """The tensors of one graph that tell sizes, and the shapes that were made of them."""

    def __init__(self) -> None:
        self._axes: dict[str, tuple[Tensor, int, int]] = {}
        self._of_one_model: dict[str, tuple[Tensor, int, int]] = {}
        self._made: dict[tuple[Dim, ...], Tensor] = {}
        self.nodes: list[Node] = []
        """The nodes that compute the shapes. They belong to no single operator."""

    def learn(self, held: Held, layout: Layout, dims: Sequence[Dim], models: Dim) -> None:
        """Note the tensor that holds a value of per-model `dims`. One of all models is asked before one of a
        single model."""
        axes, tensor = (self._of_one_model, held[0]) if isinstance(held, tuple) else (self._axes, held)
        for symbol, axis, times in layout.sizes(dims, models):
            axes.setdefault(symbol, (tensor, axis, times))

    def tell(self, symbol: str, tensor: Tensor) -> None:
        """Note that the first axis of a tensor has the size of a symbol."""
        self._axes[symbol] = tensor, 0, 1

    def shape(self, dims: Sequence[Dim], emit: Emitter) -> Tensor:
        """A shape with the sizes of symbols in it, emitted once; numbers stand for themselves."""
        if all(isinstance(dim, int) for dim in dims):
            return emit.const(list(dims))
        key = tuple(dims)
        if key not in self._made:
            scope, emit.scope, before = emit.scope, "sizes", len(emit.graph.nodes)
            parts = [self._size(dim, emit) if isinstance(dim, str) else emit.const([dim]) for dim in key]
            self._made[key] = emit("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
            emit.scope = scope
            self.nodes += emit.graph.nodes[before:]
        return self._made[key]

    def _size(self, symbol: str, emit: Emitter) -> Tensor:
        if (symbol,) not in self._made:
            known = self._axes.get(symbol) or self._of_one_model.get(symbol)
            if known is None:
                raise InternalError(f"no tensor tells the size {symbol}", "Please report this.")
            tensor, axis, times = known
            if emit.opset >= 15:
                size = emit("Shape", tensor, start=axis, end=axis + 1)
            else:
                size = emit("Gather", emit("Shape", tensor), emit.const([axis]), axis=0)
            self._made[symbol,] = size if times == 1 else emit("Div", size, emit.const([times]))
        return self._made[symbol,]
