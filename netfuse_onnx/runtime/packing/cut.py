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
Views = dict[str, tuple[Any, list[Any]]]
"""Stacked results by the first model's names, and the view of each model's slot: making them takes as long as
copying small ones."""


class Cutter:
    """Takes the outputs of requests out of results."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.all = contract.outputs
        self.each = [port for port in contract.outputs if not port.once]
        every = range(len(contract.models))
        self.back = {port.own: [_back(contract, port, m) for m in every] for port in contract.outputs}
        self.in_order = list(range(len(contract.models)))
        self.names = [[port.own[m] for port in self.each] for m in self.in_order]
        self.lacking = not all(map(all, (port.own for port in self.each)))
        """True where not every model has each output."""
        self.stacked = not edges.is_separate(contract.io)

    def own_slots(
        self, models: Sequence[int], results: Mapping[str, Any], fresh: bool,
        requests: Sequence[Request] = (),
        views: Views | None = None,
    ) -> list[Outputs]:  # fmt: skip
        """Return the outputs of these models, each of which fills the slot of its model. `requests` are only
        looked at where axes are cut back. `views` are kept with results that stay in their place."""
        if self.lacking:
            return self._own_slots(models, results, fresh, requests)
        views = {} if views is None else views
        ordered = models == self.in_order
        columns = []
        for port in self.each:
            values = self._views(port, results, views)
            if not ordered:
                values = [values[model] for model in models]
            if any(back := self.back[port.own]):
                pairs = zip(values, requests, strict=True)
                values = [np.array(_cut(value, back[one.model], one.inputs)) for value, one in pairs]
            elif port.element is not None and (self.stacked or not fresh):
                values = [value.copy() for value in values]
            if port.element is not None and port.element.number:
                values = [from_bits(value, port.element) for value in values]
            columns.append(values)
        if len(columns) == 1:
            own: Any = self.each[0].own if ordered else [self.each[0].own[model] for model in models]
            return [{name: value} for name, value in zip(own, columns[0])]  # noqa: B905
        return [
            dict(zip(self.names[model], values, strict=True))
            for model, *values in zip(models, *columns, strict=True)
        ]

    def _own_slots(
        self, models: Sequence[int], results: Mapping[str, Any], fresh: bool, requests: Sequence[Request]
    ) -> list[Outputs]:
        """Return the outputs that each of these models has."""
        outputs: list[Outputs] = [{} for _ in models]
        for port in self.each:
            for place, (model, out) in enumerate(zip(models, outputs, strict=True)):
                if name := port.own[model]:
                    value = results[port.merged[model]]
                    if back := self.back[port.own][model]:
                        value = np.array(_cut(value, back, requests[place].inputs))
                    elif port.element is not None and not fresh:
                        value = value.copy()
                    held = port.element is not None and port.element.number
                    out[name] = from_bits(value, port.element) if held and port.element else value
        return outputs

    def _views(self, port: Port, results: Mapping[str, Any], views: Views) -> list[Any]:
        """Return one output of all models, as it stands in their slots; None for a model without one."""
        if not self.stacked:
            return [results.get(name) for name in port.merged]
        result = results[port.merged[0]]
        known = views.get(port.own[0])
        if known is not None and known[0] is result:
            return known[1]
        self._sized(port, result, len(self.contract.models))
        views[port.own[0]] = result, [result[m, ...] for m in self.in_order]
        return views[port.own[0]][1]

    def slots(
        self, requests: Sequence[Request], seats: Sequence[Seat], results: Mapping[str, Any], rows: int,
        fresh: bool,
    ) -> list[Outputs]:  # fmt: skip
        """Return the outputs of requests that stand in slots of so many rows."""
        outputs: list[Outputs] = [{} for _ in requests]
        count = len({seat.slot for seat in seats}) if edges.is_selected(self.contract.io) else None
        for port in self.each:
            names, back, is_array = port.own, self.back[port.own], port.element is not None
            side_by_side = port.rows and self.contract.apart
            if self.stacked:
                self._sized(port, results[port.merged[0]], count or len(names))
            slots: dict[int, Any] = {}
            for request, seat, out in zip(requests, seats, outputs, strict=True):
                model = request.model
                if not names[model]:
                    continue
                value = slots.get(seat.slot)
                if value is None:
                    value = results[port.merged[model]]
                    value = slots[seat.slot] = value[seat.slot] if self.stacked else value
                    if side_by_side:
                        self._sized(port, value, rows)
                if side_by_side:
                    value = value[seat.start : seat.start + seat.rows]
                if back[model]:
                    value = _cut(value, back[model], request.inputs)
                out[names[model]] = np.array(value) if is_array else value
        return self._known(requests, outputs)

    def rows(
        self, requests: Sequence[Request], seats: Sequence[Seat], results: Mapping[str, Any], total: int
    ) -> list[Outputs]:
        """Return the outputs of requests whose rows stand one below the other in arrays of so many rows."""
        outputs: list[Outputs] = [{} for _ in requests]
        for port in self.each:
            result, back = results[port.merged[0]], self.back[port.own]
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
        for port in (port for port in self.all if port.own[model]):
            result, start = results[port.own[model]], 0
            for request, out in zip(requests, outputs, strict=True):
                value = result
                if len(requests) > 1:
                    self._sized(port, result, total)
                    value = _cut(
                        result[start : start + request.rows], self.back[port.own][model], request.inputs
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
