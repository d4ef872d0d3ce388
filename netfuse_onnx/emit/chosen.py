"""Models that a call chooses: the axis of models is as long as the list of their ids, which is an input.

A weight that differs between the models is stored once for each, [N, ..], and a node reads the rows of those
that were chosen: Gather(stored, ids). The Gather is emitted when a node first reads the weight in that form,
so that bodies may ask for another form of it before, for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netfuse_onnx.dims import CHOSEN
from netfuse_onnx.layouts import SHARED, STACKED, Layout
from netfuse_onnx.types import ValueType, Weight

if TYPE_CHECKING:
    from onnx_graphsurgeon import Node

    from netfuse_onnx.emit.emitter import Emitter, Tensor


NEEDS_COUNT = (
    "it is batched only for a number of models that is fixed in the file, and here each call has its own"
)
"""The reason of a rule that asks for the number of models where a call chooses them, for users."""


class NeedsCount(Exception):
    """A body needs the number of models as a constant, and only a call tells it."""

    def __init__(self) -> None:
        super().__init__(NEEDS_COUNT)


def stored_as(parts: Sequence[Weight], layout: Layout, *, chosen: bool) -> bool:
    """True where a weight with these parts is stored in a layout. Else nodes make it, from its home. Where a
    call has `chosen` the models, it is stored in no other layout than that."""
    return layout == home(parts) if chosen else layout.runs(parts[0].shape) is not None


def home(parts: Sequence[Weight]) -> Layout:
    """The layout of a weight from which nodes make others, where a call chooses the models."""
    return SHARED if len(parts) == 1 else STACKED(0)


class Chosen:
    """The ids of the models that a call chooses, and what was gathered by them."""

    def __init__(self, ids: Tensor, around: Chosen | None = None) -> None:
        """`around`: what is known in the graph around a body, which gathers for itself."""
        self.ids = ids
        """The ids, int64 [K], each from 0 to N-1: who creates them makes sure."""
        self.nodes: list[Node] = []
        """The nodes that gather. They belong to no single operator."""
        self._of_each: dict[int, Tensor] = around._of_each if around else {}
        self._gathered: dict[int, tuple[Tensor, Tensor]] = {}

    def mark(self, stored: Tensor) -> None:
        """Note that the first axis of a constant has a row for each of all N models."""
        self._of_each[id(stored)] = stored

    def marked(self, x: Tensor) -> bool:
        return id(x) in self._of_each

    def rows(self, x: Tensor, emit: Emitter) -> Tensor:
        """The rows of the models that were chosen; `x` itself, if it has not one for each of all models."""
        if not self.marked(x):
            return x
        if id(x) not in self._gathered:
            scope, emit.scope, before = emit.scope, f"{x.name}/chosen", len(emit.graph.nodes)
            del self._of_each[id(x)]  # this node alone reads the rows of all models
            rows = emit("Gather", x, self.ids, axis=0)
            self.mark(x)
            emit.scope = scope
            self.nodes += emit.graph.nodes[before:]
            kind = emit.kind(x)
            emit.note(rows, ValueType(kind.dtype, (CHOSEN, *(kind.dims or ())[1:])))
            self._gathered[id(x)] = x, rows
        return self._gathered[id(x)][1]
