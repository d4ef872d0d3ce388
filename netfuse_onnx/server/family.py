"""The family under one name: rows that name their models, or all models on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from netfuse_onnx.runtime import faults
from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.runtime.errors import BadInput, TooLarge
from netfuse_onnx.runtime.reduced import WORDS, reduced
from netfuse_onnx.runtime.signature import FREE, Signature, Tensor
from netfuse_onnx.runtime.types import Array, Feeds, Outputs
from netfuse_onnx.server.endpoints import BadParameter, Named, Parameters
from netfuse_onnx.server.session import Session
from netfuse_onnx.server.waiting import Bridge

MODEL = "model"
"""The input that has the model of each row."""
TYPES = {"INT64": np.int64, "INT32": np.int32, "BYTES": np.object_}
"""The types that this input may have: places of models, or their names."""
CHUNK = 8
"""Rows of one model that are one request: as many as a merged call takes of it by default."""
MOST_ROWS = 1024
"""Rows of one request for the family."""


class Family:
    """All models as one endpoint, by the names of the first model.

    With the input `model`, each row is answered by the model that it names by its place or name. Without it,
    all models get the same inputs, and the outputs have the models along a new first axis; the parameter
    `reduce` combines them.
    """

    platform = "netfuse_family"

    def __init__(self, name: str, session: Session, bridge: Bridge, signatures: Sequence[Signature]) -> None:
        self.name = name
        self._signatures = signatures
        self._submit, self._bridge = session.submit, bridge
        first = signatures[0]
        self._first = first
        self.rows_input = MODEL if all(one.name != MODEL for one in first.inputs) else f"{name}.{MODEL}"
        self._whole = first.batched and first.apart and all(one.rows for one in first.outputs)
        """Rows of one model may be one request."""
        self.takes = {one.name: one if first.batched else _with_rows(one) for one in first.inputs}
        self.takes[self.rows_input] = _model_input(self.rows_input, "INT64")
        self.also = {(self.rows_input, one): _model_input(self.rows_input, one) for one in TYPES}
        self.gives = {one.name: one if one.rows else _with_rows(one) for one in first.outputs}
        self._places = {one.model: place for place, one in enumerate(signatures)}
        self._own = [_renamed(first.inputs, one.inputs) for one in signatures]

    async def answer(self, feeds: Feeds, parameters: Parameters, timeout: float | None) -> Named:
        """Return the outputs of rows, or of all models."""
        feeds = dict(feeds)
        models = feeds.pop(self.rows_input, None)
        wanted = [one.name for one in self._first.inputs]
        if feeds.keys() != set(wanted):
            raise faults.names(self.name, wanted, feeds)
        reduce = parameters.get("reduce") or None
        if models is None:
            return await self._ensemble(feeds, reduce, timeout)
        if reduce is not None:
            raise BadParameter("reduce", reduce, "left out where rows name their models")
        return await self._rows(feeds, self._placed(models), timeout)

    # ----------------------------------------------------------------------- rows

    def _placed(self, models: Array) -> list[int]:
        """Return the place of the model of each row."""
        if models.ndim not in (1, 2) or models.shape[1:] not in ((), (1,)) or not models.size:
            given = list(models.shape)
            raise self._bad(f"takes [rows] or [rows, 1], and was given {given}", "one model for each row")
        if models.size > MOST_ROWS:
            raise TooLarge(
                f"The request for {self.name!r} has {models.size} rows; one request may have {MOST_ROWS}.",
                "Split it.", model=self.name, expected=f"at most {MOST_ROWS} rows",
            )  # fmt: skip
        count = len(self._signatures)
        found = list[int]()
        for one in models.ravel().tolist():
            place = self._places.get(one, -1) if isinstance(one, str) else one
            if not 0 <= place < count:
                if isinstance(one, str):
                    raise faults.unknown_model(one, list(self._places))
                raise self._bad(f"names model {one}; there are {count}", f"0 to {count - 1}")
            found.append(place)
        return found

    def _bad(self, said: str, expected: str) -> BadInput:
        return BadInput(
            f"Input {self.rows_input!r} of {self.name!r} {said}.",
            model=self.name, input=self.rows_input, expected=expected,
        )  # fmt: skip

    async def _rows(self, feeds: Feeds, places: list[int], timeout: float | None) -> Named:
        cuts = [one for one in self._first.inputs if one.rows or not self._first.batched]
        for one in cuts:
            shape = feeds[one.name].shape
            if shape[:1] != (len(places),):
                rows = shape[0] if shape else 0
                raise faults.rows(self.name, one.name, rows, len(places))
        futures, rows_of = list[Future[Outputs]](), list[list[int]]()
        try:
            for place, rows in self._groups(places):
                rows_of.append(rows)
                futures.append(self._sent(place, feeds, rows, timeout))
            every = await self._bridge.results(futures)
        finally:
            for future in futures:  # where one was refused: nobody wants the others
                future.cancel()
        return [self._gathered(name, rows_of, column) for name, column in self._columns(every)]

    def _groups(self, places: list[int]) -> list[tuple[int, list[int]]]:
        """Return the rows of each request: those of one model together, or one by one where rows that share
        a batch don't stay apart."""
        if not self._whole:
            return [(place, [row]) for row, place in enumerate(places)]
        of_model: dict[int, list[int]] = {}
        for row, place in enumerate(places):
            of_model.setdefault(place, []).append(row)
        return [
            (place, rows[at : at + CHUNK])
            for place, rows in of_model.items()
            for at in range(0, len(rows), CHUNK)
        ]

    def _sent(self, place: int, feeds: Feeds, rows: list[int], timeout: float | None) -> Future[Outputs]:
        own = dict[str, Any]()
        for tensor in self._first.inputs:
            value = feeds[tensor.name]
            if tensor.rows:
                value = value[rows]
            elif not self._first.batched:
                value = value[rows[0]]
            own[self._own[place][tensor.name]] = value
        return self._submit(self._signatures[place].model, own, timeout=timeout)

    def _columns(self, every: Sequence[Outputs]) -> list[tuple[str, list[Array]]]:
        """Return the values of each output, by the first model's names of them."""
        values = zip(*(outputs.values() for outputs in every), strict=True)
        return [(one.name, list(column)) for one, column in zip(self._first.outputs, values, strict=True)]

    def _gathered(self, name: str, rows_of: list[list[int]], column: list[Array]) -> tuple[Tensor, Array]:
        """Return one output with its rows in the order of the request."""
        tensor = self.gives[name]
        parts = column if self._joins(name) else [value[None] for value in column]
        self._refuse_unequal(name, [value.shape[1:] for value in parts])
        joined = np.concatenate(parts)
        order = np.empty(len(joined), np.intp)
        order[np.concatenate([np.asarray(rows, np.intp) for rows in rows_of])] = np.arange(len(joined))
        return tensor, joined[order]

    def _joins(self, name: str) -> bool:
        return next(one.rows for one in self._first.outputs if one.name == name)

    def _refuse_unequal(self, name: str, shapes: Sequence[tuple[int, ...]]) -> None:
        if len(set(shapes)) > 1:
            raise BadInput(
                f"Output {name!r} of {self.name!r} has other sizes in some rows or models: "
                f"{list(shapes[0])} and {list(next(one for one in shapes if one != shapes[0]))}.",
                "Ask the models by their own names.", model=self.name,
            )  # fmt: skip

    # ----------------------------------------------------------------------- ensembles

    async def _ensemble(self, feeds: Feeds, reduce: Any, timeout: float | None) -> Named:
        if reduce is not None and reduce not in WORDS:
            raise BadParameter("reduce", reduce, f"one of {', '.join(WORDS)}")
        futures = list[Future[Outputs]]()
        try:
            for signature, own in zip(self._signatures, self._own, strict=True):
                asked = {own[name]: value for name, value in feeds.items()}
                futures.append(self._submit(signature.model, asked, timeout=timeout))
            every = await self._bridge.results(futures)
        finally:
            for future in futures:
                future.cancel()
        columns = self._columns(every)
        if reduce is None:
            for name, column in columns:
                self._refuse_unequal(name, [value.shape for value in column])
            return [(self.gives[name], np.stack(column)) for name, column in columns]
        return [_typed(self.gives[name], value) for name, value in reduced(reduce, every).items()]


def _model_input(name: str, datatype: str) -> Tensor:
    dtype = np.dtype(TYPES[datatype])
    return Tensor(name, datatype, (FREE,), True, Element("str" if dtype.kind == "O" else dtype.name, dtype))


def _with_rows(tensor: Tensor) -> Tensor:
    """Return a tensor with an axis of rows before its own."""
    shape = None if tensor.shape is None else (FREE, *tensor.shape)
    return Tensor(tensor.name, tensor.datatype, shape, True, tensor.element)


def _renamed(first: Sequence[Tensor], own: Sequence[Tensor]) -> Mapping[str, str]:
    return {one.name: other.name for one, other in zip(first, own, strict=True)}


def _typed(tensor: Tensor, value: Any) -> tuple[Tensor, Array]:
    """Return an output with the type that it has now: a vote over scores gives labels."""
    array = np.asarray(value)
    if tensor.element is not None and array.dtype == np.int64 and tensor.datatype != "INT64":
        return Tensor(tensor.name, "INT64", None, False, Element("int64", array.dtype)), array
    return tensor, array
