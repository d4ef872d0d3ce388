"""The arrays of one merged call, laid out once for its sizes, used by one call at a time and kept.

Slots: a model has a slot, `[N, rows, ..]` or an array of its own, and a call leaves alone the slots of models
that have no request. So what stands there are rows of calls that went well, or, in new buffers, copies of the
first request: never made-up numbers. Buffers of a call that failed are not used again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.runtime.contract import Contract, Form, Size
from netfuse_onnx.runtime.ports import Port


class Buffers:
    """The arrays of one merged call.

    `feeds` are the inputs by merged names, at places in memory that stay. `places[k][s]` is the part of input
    k that slot s has: `[rows, ..]`. `bound` is for the engine, which may keep what is bound to these
    places; `views` is for the cutter.
    """

    __slots__ = ("bound", "bytes", "feeds", "fresh", "key", "places", "stand_ins", "used", "views")

    def __init__(self, key: Any, feeds: dict[str, Any], places: list[Sequence[Any]]) -> None:
        self.key, self.feeds, self.places = key, feeds, places
        self.bytes = sum(one.nbytes for one in feeds.values() if isinstance(one, np.ndarray))
        self.bound: Any = None
        self.views: dict[str, tuple[Any, list[Any]]] = {}
        self.fresh = True
        self.used = 0
        self.stand_ins: dict[str, Any] = {}


class Pool:
    """Buffers that no call uses, by their keys: `most` of them and `most_bytes`, but always the last.

    Threads may share it: taking and giving are single operations on a list; only what makes room has a lock.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.free: dict[Any, list[Buffers]] = {}
        self._lock = threading.Lock()

    def take(self, key: Any) -> Buffers | None:
        """Return buffers that are free, and now taken."""
        try:
            return self.free[key].pop()
        except (KeyError, IndexError):
            return None

    def give(self, buffers: Buffers) -> None:
        """Take buffers back. New ones make room for themselves: those unused for the longest are dropped."""
        new, buffers.used = not buffers.used, next(_TICKS)
        try:
            self.free[buffers.key].append(buffers)
        except KeyError:
            self.free.setdefault(buffers.key, []).append(buffers)
        if new:
            self._make_room()

    def _make_room(self) -> None:
        with self._lock:
            kept = [b for free in list(self.free.values()) for b in list(free)]
            count, size = len(kept), sum(b.bytes for b in kept)
            last = {b.key: b.used for b in kept}
            for key in sorted(last, key=last.__getitem__)[:-1]:
                if count > self.most or size > self.most_bytes:
                    for gone in self.free.pop(key, []):
                        count, size = count - 1, size - gone.bytes
            for key in [key for key, free in list(self.free.items()) if not free][: -self.most]:
                self.free.pop(key, None)


_TICKS = itertools.count(1)


def shape(contract: Contract, port: Port, model: int, sizes: Sequence[Size], rows: int) -> tuple[int, ...]:
    """Return the shape of one model's input at these sizes of `contract.axes`, with so many rows."""
    named = dict(zip(contract.axes, sizes, strict=True))
    dims = port.dims[model]
    if dims is None:
        rest = named[port.unknown]
        return (*((rows,) if port.rows else ()), *(rest if isinstance(rest, tuple) else ()))
    front = (rows,) if port.rows else ()
    return (*front, *(d if isinstance(d, int) else int(named[d]) for d in dims[port.rows :]))  # type: ignore[arg-type]


def slots(contract: Contract, form: Form, rows: int, count: int, key: Any) -> Buffers:
    """Return buffers with `count` slots of so many rows: arrays apart, or one with a leading axis."""
    feeds: dict[str, Any] = {}
    places: list[Sequence[Any]] = []
    apart = edges.is_separate(contract.io)
    for port in contract.inputs:
        sizes = [shape(contract, port, m, form.sizes, rows) for m in range(count)] if port.element else []
        if port.element is None:
            feeds |= dict.fromkeys(port.merged)
            places.append([None] * count)
        elif port.once:
            feeds[port.merged[0]] = one = np.empty(sizes[0], port.element.dtype)
            places.append([one] * count)
        elif apart:
            own = [np.empty(size, port.element.dtype) for size in sizes]
            feeds |= dict(zip(port.merged, own, strict=True))
            places.append(own)
        else:
            feeds[port.merged[0]] = one = np.empty((count, *sizes[0]), port.element.dtype)
            places.append([one[s, ...] for s in range(count)])  # a view for scalars, too
    if edges.is_selected(contract.io):
        feeds[contract.file.ids] = np.empty(count, np.int64)
    return Buffers(key, feeds, places)


def flat(contract: Contract, form: Form, rows: int, key: Any) -> Buffers:
    """Return buffers of a routed call with so many rows in all."""
    feeds: dict[str, Any] = {}
    for port in contract.inputs:
        if port.element is None:
            feeds[port.merged[0]] = None
            continue
        count = 1 if port.repeated else rows
        feeds[port.merged[0]] = np.empty(shape(contract, port, 0, form.sizes, count), port.element.dtype)
    feeds[contract.file.ids] = np.empty(rows, np.int64)
    return Buffers(key, feeds, [[feeds[port.merged[0]]] for port in contract.inputs])
