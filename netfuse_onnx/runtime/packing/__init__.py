"""Packs requests into the arrays of one call, and takes each request's outputs out of its results.

In: checked requests of one form. Out: feeds by merged names (or by a model's own names, for a call of its own
session), then, from the results, outputs by each model's own names. Layout algebra, for N models, R rows of a
model at most, K models that have requests, T rows in all:

    separate  r.. -> R.. for each model   stacked  r.. -> NR..   selected  r.. -> KR..   routed  r.. -> T..
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.errors import InternalError
from netfuse_onnx.runtime.contract import Contract, Form
from netfuse_onnx.runtime.packing import buffers as laid
from netfuse_onnx.runtime.packing.buffers import Buffers, Pool
from netfuse_onnx.runtime.packing.cut import Cutter
from netfuse_onnx.runtime.packing.express import Express, can_express
from netfuse_onnx.runtime.packing.fill import Filler, Seat, write
from netfuse_onnx.runtime.types import Feeds, Outputs, Pays, Request

KEPT = 32
"""Buffers that are kept between calls."""
KEPT_BYTES = 256 << 20
"""Bytes of the buffers that are kept between calls."""

__all__ = ["Buffers", "Packed", "Packing"]


class Packed:
    """One call. `feeds` are its inputs, and `wanted` the outputs that it needs, by the names of the session
    that runs it. `release` must be called once, whatever happens, when nothing reads `feeds` any more."""

    __slots__ = ("_packing", "_seats", "buffers", "feeds", "form", "models", "requests", "rows", "wanted")

    def __init__(
        self, packing: Packing, requests: Sequence[Request], feeds: Mapping[str, Any], wanted: Sequence[str],
        seats: Sequence[Seat] | None, rows: int, buffers: Buffers | None, models: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._packing, self.requests, self.feeds, self.wanted = packing, requests, feeds, wanted
        self._seats, self.rows, self.buffers, self.models = seats, rows, buffers, models
        self.form: Form | None = None

    def split(self, results: Mapping[str, Any], *, fresh: bool = True) -> list[Outputs]:
        """Return the outputs of each request, by its model's own names. `fresh` is False where the results
        lie in memory that the next call writes to: then everything is copied."""
        cut = self._packing.cutter
        if self.buffers is None:
            return cut.alone(self.requests, results, fresh)
        if self._packing.routed:
            return cut.rows(self.requests, self._seats or (), results, self.rows)
        if self._seats is None:
            views = None if fresh else self.buffers.views
            return cut.own_slots(self.models, results, fresh, self.requests, views)
        return cut.slots(self.requests, self._seats, results, self.rows, fresh)

    def release(self, *, failed: bool = False) -> None:
        """Give the buffers back to the next call; after a failure, new ones are filled."""
        buffers, self.buffers, self.feeds = self.buffers, None, {}
        if buffers is not None and not failed:
            if buffers.stand_ins:
                buffers.feeds.update(buffers.stand_ins)
            self._packing.pool.give(buffers)


class Packing:
    """Packs the requests of one merged file. Threads may share it."""

    def __init__(self, contract: Contract, *, keep: int = KEPT, keep_bytes: int = KEPT_BYTES) -> None:
        self.contract = contract
        self.pool = Pool(keep, keep_bytes)
        self.filler, self.cutter = Filler(contract), Cutter(contract)
        self.routed = edges.is_routed(contract.io)
        self._selected = edges.is_selected(contract.io)
        self._separate = edges.is_separate(contract.io)
        self._express = Express(contract) if can_express(contract) else None
        ports = [port for port in contract.outputs if not port.once]
        self.every = list(dict.fromkeys(name for port in ports for name in port.merged if name))
        self.combined = [port.merged[0] for port in contract.outputs if port.once]
        self._wanted = [
            [port.merged[m] for port in ports if port.own[m]] for m in range(len(contract.models))
        ]
        self._own_inputs = [[p.own[m] for p in contract.inputs] for m in range(len(contract.models))]
        self._own_outputs = [
            [p.own[m] for p in contract.outputs if p.own[m]] for m in range(len(contract.models))
        ]

    def merged(self, requests: Sequence[Request]) -> Packed:
        """Pack requests of one form into a merged call. Several of one model, or models with unequal rows,
        only come where the contract's rows are apart."""
        if self.routed:
            return self._rows(requests)
        most = requests[0].rows
        models = {request.model for request in requests}
        if not self.contract.apart and len(models) < len(requests):
            raise InternalError(f"Rows of requests would meet in a batch, and {self.contract.reason}.")
        equal = len(models) == len(requests) and all([request.rows == most for request in requests])  # noqa: C419
        return self._own_slots(requests, most) if equal and not self._selected else self._slots(requests)

    def express(self, pairs: Sequence[tuple[str, Feeds]], pays: Pays) -> Packed | None:
        """Pack requests for different models that are all alike, checked as `Contract.check` does, without
        making requests of them. None where they are not alike, or where there is anything to say about one:
        then `check` and `merged` are the way."""
        express = self._express
        found = express.alike(pairs) if express is not None else None
        if express is None or found is None:
            return None
        known, models, values = found
        if not pays(known.form, len(models), known.rows):
            return None
        key = (known.form.sizes, known.rows, len(self.contract.models))
        buffers = self.pool.take(key)
        if buffers is None or buffers.fresh:
            return None
        express.write(buffers.places, models, values)
        packed = Packed(self, (), buffers.feeds, self._of(models), None, known.rows, buffers, models)
        packed.form = known.form
        return packed

    def alone(self, requests: Sequence[Request]) -> Packed:
        """Pack requests of one model and one form into a call of the model's own session."""
        model = requests[0].model
        names, wanted = self._own_inputs[model], self._own_outputs[model]
        if len(requests) > 1 and not self.contract.side_by_side:
            raise InternalError("Requests that can't share a batch are in one call of their model.")
        if len(requests) == 1:
            feeds: dict[str, Any] = dict(zip(names, requests[0].inputs, strict=True))
            return Packed(self, requests, feeds, wanted, None, requests[0].rows, None)
        total, form = sum([request.rows for request in requests]), cast(Form, requests[0].form)
        feeds = {}
        for k, (name, port) in enumerate(zip(names, self.contract.inputs, strict=True)):
            if not port.rows:
                feeds[name] = requests[0].inputs[k]
                continue
            size = laid.shape(self.contract, port, model, form.sizes, total)
            feeds[name] = one = np.empty(size, requests[0].inputs[k].dtype)
            start = 0
            for request in requests:
                write(one[start : start + request.rows], request.inputs[k], self.filler.pads[k], True)
                start += request.rows
        return Packed(self, requests, feeds, wanted, None, total, None)

    # ------------------------------------------------------------------ merged calls

    def _own_slots(self, requests: Sequence[Request], rows: int) -> Packed:
        form = cast(Form, requests[0].form)
        count = len(self.contract.models)
        key = (form.sizes, rows, count)
        buffers = self.pool.take(key) or laid.slots(self.contract, form, rows, count, key)
        self.filler.into_own_slots(buffers, requests)
        models = [request.model for request in requests]
        return Packed(self, requests, buffers.feeds, self._of(models), None, rows, buffers, models)

    def _slots(self, requests: Sequence[Request]) -> Packed:
        slot: dict[int, int] = {}
        ends: dict[int, int] = {}
        seats = []
        for request in requests:
            start = ends.get(request.model, 0)
            ends[request.model] = start + request.rows
            place = slot.setdefault(request.model, len(slot)) if self._selected else request.model
            seats.append(Seat(place, start, request.rows))
        rows, form = max(ends.values()), cast(Form, requests[0].form)
        count = len(slot) if self._selected else len(self.contract.models)
        key = (form.sizes, rows, count)
        buffers = self.pool.take(key) or laid.slots(self.contract, form, rows, count, key)
        if self._selected:
            buffers.feeds[self.contract.file.ids][:] = list(slot)
        self.filler.into_slots(buffers, requests, seats)
        return Packed(self, requests, buffers.feeds, self._of(list(ends)), seats, rows, buffers)

    def _rows(self, requests: Sequence[Request]) -> Packed:
        seats, total = [], 0
        for request in requests:
            seats.append(Seat(0, total, request.rows))
            total += request.rows
        form = cast(Form, requests[0].form)
        key = (form.sizes, total)
        buffers = self.pool.take(key) or laid.flat(self.contract, form, total, key)
        self.filler.into_rows(buffers, requests, seats)
        return Packed(self, requests, buffers.feeds, self.every, seats, total, buffers)

    def _of(self, models: Sequence[int]) -> list[str]:
        """Return the outputs that requests for different models want: those of the models, or all models'."""
        if not self._separate or len(models) == len(self.contract.models):
            return self.every
        return [name for model in models for name in self._wanted[model]]
