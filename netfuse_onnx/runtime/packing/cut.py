"""Takes the outputs of each request out of the results of a call.

Each output is an array of its own, never a view of what another request has: no request keeps another's
memory alive, or sees it change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.errors import InternalError
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.elements import from_bits
from netfuse_onnx.runtime.packing.fill import Seat
from netfuse_onnx.runtime.ports import Port
from netfuse_onnx.runtime.types import Outputs, Request

Back = tuple[tuple[int, int, int], ...]
"""Axes of an output that are cut back: the axis, and the input and axis that have its size."""


SMALL = 1 << 16
"""Bytes of a result up to which the outputs of all models are views of one copy: one copy of each costs more
time than the memory is worth that stays while any of them is held."""


class Cutter:
    """Takes the outputs of requests out of results."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.all = contract.outputs
        self.each = [port for port in contract.outputs if not port.once]
        every = range(len(contract.models))
        self.back = {port.own[0]: [_back(contract, port, m) for m in every] for port in contract.outputs}
        self.in_order = list(range(len(contract.models)))
        self.names = [[port.own[m] for port in self.each] for m in self.in_order]
        self.stacked = not edges.is_separate(contract.io)

    def own_slots(
        self, models: Sequence[int], results: Mapping[str, Any], fresh: bool, requests: Sequence[Request] = ()
    ) -> list[Outputs]:
        """Return the outputs of these models, each of which fills the slot of its model. `requests` are only
        looked at where axes are cut back."""
        columns = []
        for port in self.each:
            values = self._whole(port, models, results, fresh)
            if any(back := self.back[port.own[0]]):
                pairs = zip(values, requests, strict=True)
                values = [np.array(_cut(value, back[one.model], one.inputs)) for value, one in pairs]
            if port.element is not None and port.element.number:
                values = [from_bits(value, port.element) for value in values]
            columns.append(values)
        if len(columns) == 1:
            own: Any = self.each[0].own
            if models != self.in_order:
                own = [own[model] for model in models]
            return [{name: value} for name, value in zip(own, columns[0])]  # noqa: B905
        return [
            dict(zip(self.names[model], values, strict=True))
            for model, *values in zip(models, *columns, strict=True)
        ]

    def _whole(self, port: Port, models: Sequence[int], results: Mapping[str, Any], fresh: bool) -> list[Any]:
        """Return one output of each model, as it stands in its slot."""
        if not self.stacked:
            merged = port.merged
            values = [results[merged[model]] for model in models]
            return values if fresh or port.element is None else [value.copy() for value in values]
        result = results[port.merged[0]]
        self._sized(port, result, len(self.contract.models))
        if result.ndim == 1:
            return [np.array(result[model]) for model in models]
        if models != self.in_order:
            return [result[model].copy() for model in models]
        if result.nbytes <= SMALL:
            return list(result if fresh else result.copy())
        return [value.copy() for value in result]

    def slots(
        self, requests: Sequence[Request], seats: Sequence[Seat], results: Mapping[str, Any], rows: int,
        fresh: bool,
    ) -> list[Outputs]:  # fmt: skip
        """Return the outputs of requests that stand in slots of so many rows."""
        outputs: list[Outputs] = [{} for _ in requests]
        count = len({seat.slot for seat in seats})
        for port in self.each:
            for request, seat, out in zip(requests, seats, outputs, strict=True):
                value = results[port.merged[request.model]]
                if self.stacked:
                    self._sized(port, value, count if edges.is_selected(self.contract.io) else len(port.own))
                    value = value[seat.slot]
                if port.rows and self.contract.apart:
                    self._sized(port, value, rows)
                    value = value[seat.start : seat.start + seat.rows]
                value = _cut(value, self.back[port.own[0]][request.model], request.inputs)
                out[port.own[request.model]] = np.array(value) if port.element else value
        return self._known(requests, outputs)

    def rows(
        self, requests: Sequence[Request], seats: Sequence[Seat], results: Mapping[str, Any], total: int
    ) -> list[Outputs]:
        """Return the outputs of requests whose rows stand one below the other in arrays of so many rows."""
        outputs: list[Outputs] = [{} for _ in requests]
        for port in self.each:
            result, back = results[port.merged[0]], self.back[port.own[0]]
            self._sized(port, result, total)
            for request, seat, out in zip(requests, seats, outputs, strict=True):
                value = result[seat.start : seat.start + seat.rows]
                out[port.own[request.model]] = np.array(_cut(value, back[request.model], request.inputs))
        return self._known(requests, outputs)

    def alone(self, requests: Sequence[Request], results: Mapping[str, Any], fresh: bool) -> list[Outputs]:
        """Return the outputs of requests of one model, of which one stands below the other."""
        if len(requests) == 1 and fresh:
            return self._known(requests, [dict(results)])
        outputs: list[Outputs] = [{} for _ in requests]
        total = sum([request.rows for request in requests])
        model = requests[0].model
        for port in self.all:
            result, start = results[port.own[model]], 0
            for request, out in zip(requests, outputs, strict=True):
                value = result
                if len(requests) > 1:
                    self._sized(port, result, total)
                    value = _cut(
                        result[start : start + request.rows], self.back[port.own[0]][model], request.inputs
                    )
                    start += request.rows
                out[port.own[model]] = np.array(value) if port.element else value
        return self._known(requests, outputs)

    def _sized(self, port: Port, result: Any, size: int) -> None:
        """Raise InternalError where an output has another leading size than the call: who cut it would give
        rows to the wrong request."""
        found = len(result) if np.ndim(result) else 0
        if found != size:
            raise InternalError(
                f"Output {port.own[0]!r} has {found} entries along its first axis, and the call has {size}."
            )

    def _known(self, requests: Sequence[Request], outputs: list[Outputs]) -> list[Outputs]:
        """Return the outputs in types that callers know."""
        for port in self.contract.outputs:
            if port.element and port.element.number:
                for request, out in zip(requests, outputs, strict=True):
                    if (name := port.own[request.model]) in out:
                        out[name] = from_bits(out[name], port.element)
        return outputs


def cut_back(contract: Contract, port: Port, model: int, value: Any, inputs: Sequence[Any]) -> Any:
    """Return a model's output without what it has beyond the sizes of its inputs along padded axes."""
    return _cut(value, _back(contract, port, model), inputs)


def _cut(value: Any, back: Back, inputs: Sequence[Any]) -> Any:
    for axis, k, place in back:
        size = inputs[k].shape[place]
        if value.shape[axis] != size:
            value = value[(slice(None),) * axis + (slice(size),)]
    return value


def _back(contract: Contract, port: Port, model: int) -> Back:
    """Return the axes of a model's output that have the size of a padded axis of an input."""
    found = []
    for axis, dim in enumerate(port.dims[model] or ()):
        if isinstance(dim, str) and dim in contract.buckets.sizes:
            shapes = [one.dims[model] or () for one in contract.inputs]
            k = next(k for k, shape in enumerate(shapes) if dim in shape)
            found.append((axis, k, shapes[k].index(dim)))
    return tuple(found)
