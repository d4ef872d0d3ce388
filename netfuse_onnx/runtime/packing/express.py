"""The check of many requests at once: one for each of several models, of equal shapes and the usual types.

Each costs a fraction of a microsecond, since no request is made of it. What is not as usual is left to the
contract, which says what is wrong with it or converts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.runtime.contract import Contract, Known, shapes_of
from netfuse_onnx.runtime.types import Array, Feeds


def can_express(contract: Contract) -> bool:
    """Return True where each model has a slot of its own, all inputs are tensors that each model has, and
    nothing is padded."""
    slots = edges.is_separate(contract.io) or edges.is_stacked(contract.io)
    usual = all(port.element and not port.element.is_text and not port.once for port in contract.inputs)
    return slots and usual and bool(contract.inputs) and not contract.buckets


class Express:
    """Finds out if requests are all alike, and writes them into the slots of their models."""

    def __init__(self, contract: Contract) -> None:
        self.dtypes = [port.element.dtype for port in contract.inputs if port.element]
        self.own = {
            name: (own.place, [name for name, _ in own.wanted], own.seen)
            for name, own in contract.own.items()
        }
        self.in_order = list(range(len(contract.models)))
        self.name, self.places = _one_name(contract)

    def alike(self, pairs: Sequence[tuple[str, Feeds]]) -> tuple[Known, list[int], list[Array]] | None:
        """Return what is known of the shapes of all requests, their models, and their inputs, request by
        request. None where anything is not as usual."""
        try:
            model, feeds = pairs[0]
            _, names, seen = self.own[model]
            shapes: Any = shapes_of([feeds[name] for name in names])
            known = seen.get(shapes[0] if len(names) == 1 else shapes)
            if known is None:
                return None
            models, values = (self._one if self.name else self._several)(pairs, shapes, seen)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError):
            return None  # the contract finds out what is wrong
        different = models == self.in_order or len(set(models)) == len(models)
        return (known, models, values) if different else None

    def write(self, places: Sequence[Sequence[Array]], models: list[int], values: list[Array]) -> None:
        """Write the inputs into the slots of their models: `places[k][m]` is that of input k of model m."""
        count = len(places)
        for k, slots in enumerate(places):
            if models != self.in_order:
                slots = [slots[model] for model in models]
            for place, value in zip(slots, values if count == 1 else values[k::count]):  # noqa: B905
                place[...] = value

    def _one(self, pairs: Any, shapes: Any, seen: Any) -> tuple[list[int], list[Array]]:
        """Return the models, and the one input of each, where all models call it alike and take the same
        sizes. Raises ValueError for what is not as usual. Each step runs once for each request, so names are
        bound to locals, and the cheapest look comes first."""
        find, name, dtype, (shape,), array = self.places, self.name, self.dtypes[0], shapes, np.ndarray
        models: list[int] = []
        values: list[Array] = []
        for model, feeds in pairs:
            value = feeds[name]
            if (
                type(value) is not array
                or (
                    value.dtype is not dtype and value.dtype != dtype
                )  # a pickled array has a type of its own
                or value.shape != shape
                or len(feeds) != 1
            ):
                raise ValueError
            models.append(find[model])
            values.append(value)
        return models, values

    def _several(self, pairs: Any, shapes: Any, seen: Any) -> tuple[list[int], list[Array]]:
        """Return the models, and the inputs of each. Raises ValueError for what is not as usual."""
        usual, count = list(zip(self.dtypes, shapes, strict=True)), len(shapes)
        models: list[int] = []
        values: list[Array] = []
        for model, feeds in pairs:
            place, names, shared = self.own[model]
            if len(feeds) != count or shared is not seen:
                raise ValueError
            models.append(place)
            for name, (dtype, shape) in zip(names, usual):  # noqa: B905
                value = feeds[name]
                if type(value) is not np.ndarray or value.dtype != dtype or value.shape != shape:
                    raise ValueError
                values.append(value)
        return models, values


def _one_name(contract: Contract) -> tuple[str, dict[str, int]]:
    """Return the name of the one input of all models, with the place of each model, where they are alike in
    it; else ''."""
    owns = list(contract.own.values())
    first = owns[0]
    alike = all(own.wanted == first.wanted and own.seen is first.seen for own in owns)
    name = first.wanted[0][0] if alike and len(first.wanted) == 1 else ""
    return name, {own.name: own.place for own in owns}
