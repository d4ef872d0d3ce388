"""Writes the inputs of requests into the buffers of a merged call."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.errors import InternalError
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.packing.buffers import Buffers
from netfuse_onnx.runtime.types import Array, Request


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one request: its slot, 0 where all rows of a call stand in one array, and its rows."""

    slot: int
    start: int
    rows: int


def write(place: Array, value: Array, pad: Any, rows: bool = False) -> None:
    """Write a value into a place of the same rank, `pad` where the place is larger; None is for values that
    are never padded. Raises InternalError for a value of another form than the call has."""
    if place.shape == value.shape:
        place[...] = value
        return
    larger = place.ndim == value.ndim and all(map(operator.ge, place.shape, value.shape))
    if pad is None or not larger or (place.ndim and place.shape[0] != value.shape[0] and rows):
        raise InternalError(f"A call of shape {place.shape} was given an input of shape {value.shape}.")
    place[...] = pad
    place[tuple([slice(size) for size in value.shape])] = value


class Filler:
    """Writes requests into buffers. `pads` are the values of padding, input by input."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.pads = [contract.buckets.value(port) for port in contract.inputs]
        self.separate = edges.is_separate(contract.io)
        ports = list(enumerate(contract.inputs))
        self.once = [(k, p.merged[0]) for k, p in ports if p.element and p.once]
        self.opaque = [(k, p) for k, p in ports if p.element is None]
        self.each = [k for k, p in ports if p.element and not p.once]

    def into_slots(self, buffers: Buffers, requests: Sequence[Request], seats: Sequence[Seat]) -> None:
        """Write each request at the start of its seat. The rest of new buffers copies the first one."""
        if buffers.fresh:
            self._first(buffers, requests[0])
        self._shared(buffers, requests)
        for k in self.each:
            places, rows, pad = buffers.places[k], self.contract.inputs[k].rows, self.pads[k]
            for request, seat in zip(requests, seats, strict=True):
                place = places[seat.slot]
                if rows:
                    place = place[seat.start : seat.start + seat.rows]
                value = request.inputs[k]
                if place.shape == value.shape:
                    place[...] = value
                else:
                    write(place, value, pad, rows)

    def into_own_slots(self, buffers: Buffers, requests: Sequence[Request]) -> None:
        """Write requests of different models, each of which fills the slot of its model."""
        if buffers.fresh:
            self._first(buffers, requests[0])
        self._shared(buffers, requests)
        for k in self.each:
            places, pad = buffers.places[k], self.pads[k]
            for request in requests:
                place, value = places[request.model], request.inputs[k]
                if place.shape == value.shape:
                    place[...] = value
                else:
                    write(place, value, pad, self.contract.inputs[k].rows)

    def into_rows(self, buffers: Buffers, requests: Sequence[Request], seats: Sequence[Seat]) -> None:
        """Write requests one below the other, and the model of each row."""
        self._shared(buffers, requests)
        ids = buffers.feeds[self.contract.file.ids]
        for request, seat in zip(requests, seats, strict=True):
            ids[seat.start : seat.start + seat.rows] = request.model
        for k in self.each:
            (place,), pad = buffers.places[k], self.pads[k]
            for request, seat in zip(requests, seats, strict=True):
                write(place[seat.start : seat.start + seat.rows], request.inputs[k], pad, True)
        buffers.fresh = False

    def _shared(self, buffers: Buffers, requests: Sequence[Request]) -> None:
        """Write the inputs that a call takes once, which are equal in all requests."""
        for k, name in self.once:
            value = requests[0].inputs[k]
            write(buffers.feeds[name], value[:1] if self.contract.inputs[k].repeated else value, self.pads[k])
        for k, port in self.opaque:
            for request in requests:
                buffers.feeds[port.merged[request.model]] = request.inputs[k]

    def _first(self, buffers: Buffers, request: Request) -> None:
        """Fill all slots with copies of a request's first row. A model that takes other sizes gets the same
        numbers, repeated or cut."""
        for k in self.each:
            port, value, pad = self.contract.inputs[k], request.inputs[k], self.pads[k]
            rows = port.rows
            for slot, place in enumerate(buffers.places[k]):
                row = np.empty((1, *place.shape[1:]) if rows else place.shape, place.dtype)
                if port.dims[slot if self.separate else 0] == port.dims[request.model]:
                    write(row, value[:1] if rows else value, pad)
                else:
                    row[...] = np.resize(value, row.shape)
                place[...] = row
        for k, port in self.opaque:
            stand_in = copy.deepcopy(request.inputs[k])
            for name in port.merged:
                buffers.feeds[name] = buffers.stand_ins[name] = stand_in
        buffers.fresh = False
