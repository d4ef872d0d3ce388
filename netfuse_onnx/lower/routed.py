"""The edge of a routed graph: inputs and outputs are rows, `[R, ..]`; `model` `[R]` has the model of each.

slots: rows of one model are put side by side, `[R, ..] -> [N, B, ..]`, where B is the most rows of one model.
A slot that no row fills holds a copy of some row of the call, and nothing reads its result.

index: each row is in the place of a model that the call chooses, [R, ..] is FOLDED(0) of one row [1, ..].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from netfuse_onnx import edges
from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.errors import NotRoutable
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.lower.boundary import Boundary, Fetch, Keep, value_info
from netfuse_onnx.lower.guards import choose, kept_checks, unequal
from netfuse_onnx.ops import kinds
from netfuse_onnx.routing import ROWS, routing
from netfuse_onnx.types import Correspondence, ValueType

LEAST_OPSET = 12
"""The first opset that has all operators of the front, for integers."""
NOWHERE = 1 << 40
"""The place of a row among those of another model: behind all that there may be."""


@dataclass(frozen=True, slots=True)
class Slots:
    """`order` [N, B] is the row in each slot, `slot` [R] the slot of each row, `most` [1] is B."""

    order: Tensor
    slot: Tensor
    most: Tensor


def slots(emit: Emitter, route: Tensor, rows: Sequence[Tensor]) -> Slots:
    """Emit the places of rows. `route` has the model of each. A run fails before anything is computed where
    it names no model, where some of `rows` have another number, and where there is no row."""
    mine = emit("Equal", emit.const([[m] for m in range(emit.total)]), route)  # [N, R]
    ones = emit("Cast", mine, to=TensorProto.INT64)
    counts = emit.reduce("ReduceSum", ones, [1])
    named = emit.reduce("ReduceSum", counts, [0], keepdims=1)
    faults = unequal(emit, [route, *rows], named, least=1)
    most = emit.require(emit.reduce("ReduceMax", counts, [0], keepdims=1), faults)
    before = emit("CumSum", ones, emit.const(1), exclusive=1)
    place = emit("Where", mine, before, emit.const(NOWHERE))
    _, order = emit.node("TopK", [place, most], {"axis": 1, "largest": 0}, outs=[True, True])
    slot = emit("Add", emit("Mul", route, most), emit.reduce("ReduceMin", place, [0]))
    return Slots(order, slot, most)


class Routed(Boundary):
    """The edge of rows, by slots or by index."""

    def __init__(
        self, corr: Correspondence, io: str, share: frozenset[str], ragged: frozenset[str] = frozenset()
    ) -> None:
        self.routing = routing(corr)
        self.by_index = edges.is_by_index(io)
        super().__init__(corr, io, share, ragged)
        if corr.opsets.get("", 1) < LEAST_OPSET:
            raise NotRoutable(
                f"{corr.sources[0].path} has opset {corr.opsets.get('', 1)}. Rows are routed by operators of "
                f"opset {LEAST_OPSET}.",
                "Export it at a later opset.",
            )

    def feed(self, emit: Emitter, keep: Keep) -> None:
        """Create the graph inputs, and put the rows into slots, or gather weights for them."""
        self.given = given = {name: emit.input(name) for name in self.corr.graph.inputs}
        route = emit.input(self.labels.ids)
        emit.scope = self.labels.ids
        own = [name for name in given if name not in self.share]
        if self.by_index:
            choose(emit, route, [given[name] for name in own])
            for name, tensor in given.items():
                keep(name, FOLDED(0) if name in own else SHARED, tensor)
            return
        self.slots = slots(emit, route, [given[name] for name in own])
        for name, tensor in given.items():
            emit.scope = f"{name}/rows"
            if name in own:
                keep(name, STACKED(0), self._gather(emit, name, tensor, self.slots.order, 2))
            else:
                keep(name, SHARED, self._for_each_row(emit, name, tensor))

    def drain(self, emit: Emitter, fetch: Fetch, made: object) -> None:
        """Create the graph outputs, a row for each row of the inputs."""
        if self.by_index:
            self._drain_rows(emit, fetch)
            return
        for name in self.corr.graph.outputs:
            if name in self.corr.graph.inputs:
                emit.output(self.given[name], name, itself=True)
                continue
            value = fetch(name, FOLDED(0))
            assert not isinstance(value, tuple)
            emit.scope = f"{name}/rows"
            emit.output(self._gather(emit, name, value, self.slots.slot, 1), name)

    def _drain_rows(self, emit: Emitter, fetch: Fetch) -> None:
        graph = self.corr.graph
        values = {name: fetch(name, FOLDED(0)) for name in graph.outputs}
        made = {n: v for n, v in values.items() if not isinstance(v, tuple) and n not in graph.inputs}
        checked = kept_checks(emit, made)
        for name, value in values.items():
            tensor = checked.get(name) or value
            assert not isinstance(tensor, tuple)
            emit.output(tensor, name, itself=name in graph.inputs)

    def _gather(self, emit: Emitter, name: str, x: Tensor, places: Tensor, rank: int) -> Tensor:
        """The rows of x at places of this rank."""
        if self.corr.edge_type(name).dtype == TensorProto.STRING:  # gaps.GATHER_LOSES_STRINGS
            return emit("GatherND", x, emit.unsqueeze(places, [rank]))
        return emit("Gather", x, places, axis=0)

    def _for_each_row(self, emit: Emitter, name: str, x: Tensor) -> Tensor:
        """An input that is fed once: where the sources want it for each row, it is one row, which is
        repeated."""
        if name not in self.labels.repeated or not self.routing.batch:
            return x
        if self.corr.edge_type(name).dtype == TensorProto.BFLOAT16:  # gaps.TILE_STAYS
            return emit("Gather", x, emit("Expand", emit.const([0]), self.slots.most), axis=0)
        rank = self.corr.graph.types[name].rank or 1
        ones = [emit.const([1] * (rank - 1))] if rank > 1 else []
        return emit("Expand", x, emit("Concat", self.slots.most, *ones, axis=0) if ones else self.slots.most)

    # ------------------------------------------------------------------ types

    def input_infos(self) -> Iterator[onnx.ValueInfoProto]:
        for name in self.corr.graph.inputs:
            kind = self.corr.edge_type(name)
            size = 1 if name in self.labels.repeated else None if name in self.share else ROWS
            yield value_info(name, kind if size is None else _leading(kind, size))
        yield kinds.declared(self.labels.ids, ValueType(TensorProto.INT64, (ROWS,)))

    def output_infos(self) -> Iterator[onnx.ValueInfoProto]:
        for name in self.corr.graph.outputs:
            yield value_info(name, _leading(self.corr.edge_type(name), ROWS))


def _leading(kind: ValueType, size: int | str) -> ValueType:
    return kind if kind.dims is None else replace(kind, dims=(size, *kind.dims[1:]))
