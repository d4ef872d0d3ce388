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
    """Finds out if requests are all alike."""

    def __init__(self, contract: Contract) -> None:
        self.dtypes = [port.element.dtype for port in contract.inputs if port.element]
        self.own = {
            name: (own.place, [name for name, _ in own.wanted], own.seen)
            for name, own in contract.own.items()
        }
        self.single = {n: (own.place, own.wanted[0][0], own.seen) for n, own in contract.own.items()}

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
            models, values = (self._one if len(names) == 1 else self._several)(pairs, shapes, seen)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError):
            return None  # the contract finds out what is wrong
        return (known, models, values) if len(set(models)) == len(pairs) else None

    def _one(self, pairs: Any, shapes: Any, seen: Any) -> tuple[list[int], list[Array]]:
        """Return the models, and the one input of each. Raises ValueError for what is not as usual. Names are
        bound to locals here, and shapes compared last, because each step runs once per request."""
        own, dtype, (shape,), array = self.single, self.dtypes[0], shapes, np.ndarray
        models: list[int] = []
        values: list[Array] = []
        for model, feeds in pairs:
            place, name, shared = own[model]
            value = feeds[name]
            if (
                type(value) is not array
                or value.dtype is not dtype
                or value.shape != shape
                or shared is not seen
                or len(feeds) != 1
            ):
                raise ValueError
            models.append(place)
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
            for name, (dtype, shape) in zip(names, usual, strict=True):
                value = feeds[name]
                if type(value) is not np.ndarray or value.dtype is not dtype or value.shape != shape:
                    raise ValueError
                values.append(value)
        return models, values
