"""Turns a request of Triton into requests of a session, and their outcomes into one answer.

A request names its model in one of two ways. Either it has the input `model`, with the place of each row's
model in the order of the merge; its answer has the family's outputs. Or it asks for outputs of one model
alone, as the ensembles do: `a/y`, `b/y`, .. Both have inputs by the first model's names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx.runtime.errors import BadInput, ServingError, UnknownModel
from netfuse_onnx.runtime.signature import Signature
from netfuse_onnx.runtime.types import Array, Feeds, Outputs

Asked = tuple[str, Feeds]
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """The requests of a session that one request of Triton amounts to. `joined` makes its answer of their
    outputs, in the same order."""

    asked: list[Asked]
    joined: Callable[[Sequence[Outputs]], Answer]


class Requests:
    """Reads requests for one family. `layout` is that which the export wrote beside the files: the name of
    the index, the rows of a request where they are fixed, the inputs that are scalars, and the names of the
    models' outputs."""

    def __init__(self, signatures: Sequence[Signature], layout: Mapping[str, Any]) -> None:
        """Raises ValueError where the files have other models than the layout."""
        self.signatures = signatures
        self.index, self.chunk = str(layout["index"]), int(layout["chunk"])
        self.batches, self.apart = bool(layout["batches"]), signatures[0].apart
        self.scalars = frozenset(layout["scalars"])
        named = [tuple(names) for names in layout["outputs"]]
        if [len(one.outputs) for one in signatures] != [len(names) for names in named]:
            raise ValueError("The files and the layout beside them name other models.")
        self.place = {name: place for place, names in enumerate(named) for name in names}
        self.outputs = named

    def read(self, inputs: Mapping[str, Array], wanted: Collection[str]) -> Work:
        """Return the work of a request. Raises UnknownModel and BadInput."""
        index = inputs.get(self.index)
        if index is not None:
            return self._by_row({name: v for name, v in inputs.items() if name != self.index}, index.ravel())
        places = {self.place[name] for name in wanted if name in self.place}
        if len(places) != 1:
            raise BadInput(
                f"The request does not say which model it is for: it has no input {self.index!r}, and asks "
                f"for outputs of {len(places)} models.", "Ask the endpoint of one model.",
            )  # fmt: skip
        (place,) = places
        one, named = self.signatures[place], self.outputs[place]

        def joined(answers: Sequence[Outputs]) -> Answer:
            (answer,) = answers
            own = zip(named, one.outputs, strict=True)
            return {name: answer[tensor.name] for name, tensor in own if name in wanted}

        return Work([(one.model, self._feeds(place, inputs))], joined)

    def _feeds(self, place: int, inputs: Mapping[str, Array]) -> Feeds:
        """Return a model's inputs by its own names. A scalar comes with an axis of 1: Triton has none."""
        feeds: dict[str, Array] = {}
        for first, own in zip(self.signatures[0].inputs, self.signatures[place].inputs, strict=True):
            value = inputs.get(first.name)
            if value is not None:
                is_scalar = first.name in self.scalars and value.size == 1
                feeds[own.name] = value.reshape(()) if is_scalar else value
        return feeds

    def _by_row(self, inputs: Mapping[str, Array], index: Array) -> Work:
        """Return the work of rows that name their models: one request for all rows of a model where rows
        don't mix, else one for each row, or for as many as the files demand."""
        known = (index >= 0) & (index < len(self.signatures))
        if not (len(index) and known.all()):
            wrong = index[~known].tolist()[:1]
            last = len(self.signatures) - 1
            raise UnknownModel(
                f"There is no model at place {wrong[0]}." if wrong else "The request has no rows.",
                f"Input {self.index!r} has a place from 0 to {last} for each row.",
            )
        parts = self._parts(index)
        asked: list[Asked] = []
        for place, rows in parts:
            own = inputs if rows is None else {name: value[rows] for name, value in inputs.items()}
            asked.append((self.signatures[place].model, self._feeds(place, own)))

        def joined(answers: Sequence[Outputs]) -> Answer:
            return self._joined(parts, answers)

        return Work(asked, joined)

    def _parts(self, index: Array) -> list[tuple[int, Array | None]]:
        """Return the places of models, each with its rows, or with None for all that the request has."""
        if not self.batches or (len(index) == (self.chunk or 1)):
            return [(self._one_model(index), None)]
        if self.apart and not self.chunk:
            return [(int(place), np.flatnonzero(index == place)) for place in np.unique(index)]
        step = self.chunk or 1
        starts = range(0, len(index), step)
        cuts = [np.arange(start, min(start + step, len(index))) for start in starts]
        return [(self._one_model(index[rows]), rows) for rows in cuts]

    def _one_model(self, index: Array) -> int:
        """Return the place that rows of one request of a model all name. Raises BadInput where they name
        several."""
        if (index != index[0]).any():
            several = f"{self.chunk} rows in a row" if self.batches else "all rows"
            raise BadInput(
                f"Input {self.index!r} names several models for rows that only one can compute together.",
                f"The models take batches of a fixed size: let {several} name one model.",
            )
        return int(index[0])

    def _joined(self, parts: Sequence[tuple[int, Array | None]], answers: Sequence[Outputs]) -> Answer:
        """Return the family's outputs, with rows in the order of the request."""
        found: Answer = {}
        for k, tensor in enumerate(self.signatures[0].outputs):
            values = [
                np.asarray(answer[self.signatures[place].outputs[k].name])
                for (place, _), answer in zip(parts, answers, strict=True)
            ]
            rows = [rows for _, rows in parts if rows is not None]
            if not rows:
                found[tensor.name] = values[0]
                continue
            if len({value.shape[1:] for value in values}) > 1:
                raise BadInput(
                    f"The rows of output {tensor.name!r} have different sizes.",
                    "Ask for each model, or each row, by itself.",
                )
            joined = np.concatenate(values)
            found[tensor.name] = joined[np.argsort(np.concatenate(rows), kind="stable")]
        return found


def outcome(work: Work, outcomes: Sequence[Outputs | ServingError]) -> Answer | ServingError:
    """Return the answer of a request, or the first error among the outcomes of its work."""
    for one in outcomes:
        if isinstance(one, ServingError):
            return one
    try:
        return work.joined([one for one in outcomes if not isinstance(one, ServingError)])
    except ServingError as error:
        return error
