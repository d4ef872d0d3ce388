"""The contract of a merged file: which models there are, and what a request for one of them may be.

`check` finds everything that can be found before a request waits: the model, names, types, ranks, sizes and
the limits of the session. A shape that was right once is looked up from then on, so that a request with one
input is checked in about a microsecond. Values are not looked at: NaN passes, and so does an index that is
out of range, on which the run of this request alone will fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.runtime import faults, ports
from netfuse_onnx.runtime.buckets import Buckets
from netfuse_onnx.runtime.bundle import Bundle
from netfuse_onnx.runtime.elements import Element, converted
from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.runtime.ports import File, Port
from netfuse_onnx.runtime.types import Array, Feeds, Request
from netfuse_onnx.runtime.wider import Wider

MOST_BYTES = 1 << 30
"""The default for the bytes of one request."""
MOST_ROWS = 64
"""The default for the rows of one request."""
OWN = "own"
"""The word before a model and its sizes, which are the one size of a form that only its own file takes."""
KEPT_SHAPES = 4096
"""Shapes of requests that are remembered as right, for each model."""
Size = int | tuple[Any, ...]
"""The size of an axis; the shape of an input of unknown rank; the outline of one that is no tensor."""


class Form(NamedTuple):
    """The form of a request: requests of one form may share a call.

    `sizes` are those of `Contract.axes`, padded to their buckets. `rows` is the number of rows where all
    requests of a call must have as many, and 0 where that is free. `once` has the bytes of inputs that a call
    takes once, and of those that have no rows where the rows of requests share a batch: one value then stands
    for all of them. The time of a call depends on `sizes` and `rows` alone: `form[:2]`.
    """

    sizes: tuple[Size, ...]
    rows: int = 0
    once: tuple[Any, ...] = ()

    @property
    def is_own(self) -> bool:
        """True for sizes that only the model's own file takes (wider.py): such requests run by themselves."""
        return any(isinstance(size, tuple) and size[:1] == (OWN,) for size in self.sizes[:1])


class Known(NamedTuple):
    """The facts that follow from the shapes of a request."""

    rows: int
    form: Form


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """One model of the contract: the names and types of its inputs in order, and the shapes seen so far,
    which it shares with all models that take the same ones. The type of an input is None where its values
    have to be looked at. `single` is the input of a model that has one, with a type."""

    place: int
    name: str
    wanted: tuple[tuple[str, np.dtype[Any] | None], ...]
    single: tuple[str, np.dtype[Any]] | None
    seen: dict[Any, Known]


class Contract:
    """The requests that a merged file can serve.

    `apart` is True where the rows of a batch are computed one by one, so that several requests of a model may
    stand side by side in a merged call, and models may have different numbers of rows; else `reason` says why
    that is not known. `batched` is False where the batch has a fixed size. `side_by_side` is True where both
    hold, so that several requests may share an alone call, too. `axes` are the symbols that requests may give
    sizes to, the batch left out. `answers` is False where a merged call gives some outputs only as a
    combination of all models.
    """

    def __init__(
        self, file: File, *, apart: bool = False, reason: str = "", buckets: Buckets | None = None,
        max_rows: int = MOST_ROWS, max_bytes: int = MOST_BYTES,
    ) -> None:  # fmt: skip
        self.file, self.models, self.io = file, file.models, file.io
        self.inputs, self.outputs = file.inputs, file.outputs
        self.apart, self.reason = apart, reason
        self.batched = bool(file.batch)
        self.side_by_side = apart and self.batched
        self.axes = _axes(file)
        self.buckets = buckets or Buckets({})
        self.answers = not file.combined
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self._once = tuple(
            k for k, port in enumerate(file.inputs) if port.once or (self.side_by_side and not port.rows)
        )
        self._opaque = tuple(k for k, port in enumerate(file.inputs) if port.element is None)
        self.wider: Wider | None = None
        seen: dict[Any, dict[Any, Known]] = {}
        self.own = {name: self._own_of(place, name, seen) for place, name in enumerate(file.models)}

    @classmethod
    def read(
        cls, session: Any, bundle: Bundle | None = None, *, own: Any = None, rows_apart: bool | None = None,
        buckets: Buckets | None = None, max_rows: int = MOST_ROWS, max_bytes: int = MOST_BYTES,
    ) -> Contract:  # fmt: skip
        """Read the contract of the open session of a merged file. `own` is a session of the first model, and
        `bundle` the manifest, where there are any. `rows_apart` is the user's word, which goes before what
        the files say. Raises FileFault where no merge wrote the file."""
        file = ports.read(session, bundle, own, bool(rows_apart))
        apart, reason = _rows_apart(file, bundle, rows_apart)
        if buckets is not None:
            buckets.fit(file)
        return cls(file, apart=apart, reason=reason, buckets=buckets, max_rows=max_rows, max_bytes=max_bytes)

    @property
    def holds_bits(self) -> bool:
        """True where an input or output has a type that numpy lacks, so that arrays hold its bits."""
        return any(port.element and port.element.number for port in (*self.inputs, *self.outputs))

    def unpadded(self) -> Contract:
        """Return this contract without buckets."""
        return Contract(
            self.file, apart=self.apart, reason=self.reason, max_rows=self.max_rows, max_bytes=self.max_bytes
        )

    def place(self, model: str) -> int:
        """Return the place of a model in the order of the merge. Raises UnknownModel."""
        try:
            return self.own[model].place
        except (KeyError, TypeError):
            raise faults.unknown_model(model, self.models) from None

    def check(self, model: str, feeds: Feeds, *, copy: bool = False) -> Request:
        """Return a request that no check can find fault with. With `copy`, its inputs are arrays of their
        own, which no caller can change while they wait. Raises UnknownModel, BadInput or TooLarge."""
        try:
            own = self.own[model]
        except (KeyError, TypeError):
            raise faults.unknown_model(model, self.models) from None
        if own.single is not None and type(feeds) is dict and len(feeds) == 1 and not self._once:
            value = feeds.get(own.single[0])
            if type(value) is np.ndarray and (value.dtype is own.single[1] or value.dtype == own.single[1]):
                known = own.seen.get(value.shape)
                if known is not None:
                    if copy:
                        value = value.copy()
                    return Request(own.place, (value,), known[0], known[1])
        return self._request(own, feeds, copy)

    # ------------------------------------------------------------------ the way of what was not seen before

    def _request(self, own: Own, feeds: Feeds, copy: bool) -> Request:
        if type(feeds) is not dict and not isinstance(feeds, Mapping):
            raise faults.no_mapping(own.name, [name for name, _ in own.wanted], feeds)
        if len(feeds) != len(own.wanted):
            raise faults.names(own.name, [name for name, _ in own.wanted], feeds)
        arrays: list[Array] = []
        for k, (name, dtype) in enumerate(own.wanted):
            try:
                value = feeds[name]
            except KeyError:
                raise faults.names(own.name, [name for name, _ in own.wanted], feeds) from None
            if dtype is None or type(value) is not np.ndarray or value.dtype != dtype:
                value = self._converted(own, k, value)
            arrays.append(value)
        inputs = tuple(arrays)
        shapes = inputs[0].shape if own.single else shapes_of(inputs)
        if self._opaque:
            shapes = (shapes, *[outline(inputs[k]) for k in self._opaque])
        rows, form = own.seen.get(shapes) or self._measured(own, shapes, inputs)
        if copy:  # what is refused is not copied, and bytes are compared as they stay
            inputs = tuple(
                [value.copy() if type(value) is np.ndarray else deepcopy(value) for value in inputs]
            )
        if self._once:
            form = self._with_once(own, form, inputs, rows)
        return Request(own.place, inputs, rows, form)

    def _own_of(self, place: int, name: str, seen: dict[Any, dict[Any, Known]]) -> Own:
        usual = [p.element.dtype if p.element and not p.element.is_text else None for p in self.inputs]
        wanted = [(port.own[place], dtype) for port, dtype in zip(self.inputs, usual, strict=True)]
        dims = tuple(port.dims[place] for port in self.inputs)
        (first, dtype), *more = wanted or [("", None)]
        single = None if more or dtype is None else (first, dtype)
        return Own(place, name, tuple(wanted), single, seen.setdefault(dims, {}))

    def _converted(self, own: Own, k: int, value: Any) -> Any:
        port = self.inputs[k]
        if port.element is None:
            return value
        try:
            array = converted(value, port.element)
        except ValueError as error:
            raise faults.type_of(own.name, port.own[own.place], port.element.name, str(error)) from error
        if port.element.is_text:
            faults.limits(own.name, 1, sum(map(len, array.ravel().tolist())), 1, self.max_bytes)
        return array

    def _measured(self, own: Own, shapes: Any, inputs: Sequence[Array]) -> Known:
        """Check shapes that were not seen before, and remember them."""
        try:
            rows, sizes = self._sized(own, inputs, self.inputs)
        except BadInput as error:
            return self._wider(own, inputs, error)
        padded = tuple(self.buckets.padded(own.name, axis, sizes.get(axis, 0)) for axis in self.axes)
        known = Known(rows, Form(padded, 0 if self.apart else rows))
        if len(own.seen) >= KEPT_SHAPES:
            own.seen.clear()
        own.seen[shapes] = known
        return known

    def _wider(self, own: Own, inputs: Sequence[Array], error: BadInput) -> Known:
        """Check shapes that the merged file does not take by the model's own file. Nothing is remembered of
        them, since other models share what was seen. Raises BadInput, `error` where both files are alike."""
        ports = self.wider.ports(own.place) if self.wider is not None else None
        if ports is None:
            raise error
        rows, sizes = self._sized(own, inputs, ports)
        return Known(rows, Form(((OWN, own.name, *sorted(sizes.items())),), rows))

    def _sized(self, own: Own, inputs: Sequence[Array], ports: Sequence[Port]) -> tuple[int, dict[str, Size]]:
        """Return the rows of a request and the sizes of its symbols. Raises BadInput and TooLarge."""
        rows, sizes = 0, dict[str, Size]()
        for port, value in zip(ports, inputs, strict=True):
            if port.element is None:
                sizes[port.unknown] = outline(value)
                continue
            shape = value.shape
            faults.shape(own.name, port, own.place, shape, sizes)
            if port.rows:
                if rows and shape[0] != rows:
                    raise faults.rows(own.name, port.own[own.place], shape[0], rows)
                rows = shape[0]
        rows = rows or 1
        size = sum(value.nbytes for port, value in zip(ports, inputs, strict=True) if port.element)
        faults.limits(own.name, rows, size, self.max_rows, self.max_bytes)
        return rows, sizes

    def _with_once(self, own: Own, form: Form, inputs: Sequence[Array], rows: int) -> Form:
        """Return the form with the bytes of inputs of which all requests of a call have the same one."""
        values: list[Any] = []
        for k in self._once:
            port, value = self.inputs[k], inputs[k]
            if port.repeated and rows > 1:
                if not _are_equal(value, port.element):
                    if self.wider is not None:  # the own file takes them
                        return Form(((OWN, own.name, *form.sizes),), rows)
                    raise faults.repeated(own.name, port.own[own.place])
                value = value[:1]
            if port.element is None:
                values.append(id(value))
            else:
                text = port.element.is_text
                values.append((value.shape, tuple(value.ravel().tolist()) if text else value.tobytes()))
        return Form(form.sizes, form.rows, tuple(values))


def _are_equal(rows: Array, element: Element | None) -> bool:
    """Return True where all rows are equal, bit for bit: -0.0 is not 0.0, and NaN is NaN."""
    if element is None or element.is_text:
        return bool((rows == rows[:1]).all())
    return rows.tobytes() == rows[:1].tobytes() * len(rows)


def shapes_of(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Return the shapes of the inputs of a request, by which it is looked up; None for what is no tensor."""
    return tuple([getattr(value, "shape", None) for value in inputs])


def outline(value: Any) -> tuple[Any, ...]:
    """Return the sizes in a value that is no tensor, which are equal in all requests of a call: a symbol in
    its type is one size for all models, as in other inputs. Arrays have their shapes."""
    if isinstance(value, list | tuple):
        return ("sequence", *map(outline, value))
    if isinstance(value, Mapping):
        return ("map", *sorted(map(repr, value)))
    shape = getattr(value, "shape", None)
    return shape if isinstance(shape, tuple) else (type(value).__name__,)


def _axes(file: File) -> tuple[str, ...]:
    """Return the symbols of all inputs but the batch, in order; `NAME.*` for an input of unknown rank, or one
    that is no tensor. A model that does not have one of them has the size 0 for it."""
    found: dict[str, None] = {}
    for port in file.inputs:
        for dims in port.dims:
            axes = [port.unknown] if dims is None or port.element is None else dims[port.rows :]
            found |= dict.fromkeys(axis for axis in axes if isinstance(axis, str))
    return tuple(found)


def _rows_apart(file: File, bundle: Bundle | None, word: bool | None) -> tuple[bool, str]:
    """Return True where rows are computed one by one, or the reason why that is not known."""
    if word is False:
        return False, "rows_apart=False was given"
    proven = edges.is_routed(file.io) or (bundle is not None and bundle.rows_apart)
    if not proven and not word:
        return False, bundle.mixes if bundle else "the file does not say if rows of a batch are apart"
    if any(port.rows and port.once and not port.repeated for port in file.inputs):
        return False, "an input with a batch axis is fed once for all models"
    if not file.batch and not edges.is_routed(file.io):
        return False, "no input has a batch axis"
    for port in (*file.inputs, *file.outputs):
        if port.element is None:
            return False, f"{port.name!r} is not a tensor"
    for port in file.outputs:
        if not port.rows:
            return False, f"output {port.name!r} has no batch axis"
    return True, ""
