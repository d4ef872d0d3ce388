"""Masks and biases that are added to the scores of an attention, as the operator Attention takes them.

ONNX Runtime's Attention adds a mask of floats as Add does, with two exceptions. It gives 0 for a row all of
whose keys have -inf or the lowest number, where a softmax gives NaN for -inf and the mean of the values for
the lowest number. And the kernel for CUDA multiplies the sum by log2(e), so that numbers beyond 2.3e38 become
infinite. So the number that marks a masked key, the lowest one in exports of transformers, becomes -1e29: every
score is absorbed by it as it is by the lowest number. Other values must be known to be far from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from netfuse_onnx.dims import same_dim
from netfuse_onnx.ops import traits
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Dim, Node

MASKED = -1e30
"""Up to here a number marks a key that is masked: no score is left beside it in float32."""
MARK = -1e29
"""The mark that Attention gets. ONNX Runtime takes it for a number, and log2(e) times it is finite."""
PLAIN = 1e20
"""Other numbers in a mask are at most so large: the mark absorbs them."""


class Masks:
    """Makes the masks of one correspondence. Groups with the same masks share one."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._joined: dict[tuple[tuple[str, ...], str, str], str] = {}
        self._marked: dict[str, str] = {}

    def adds_nothing(self, mask: str, sizes: Sequence[Dim]) -> bool:
        """True for zeros that broadcast to scores of these sizes, and make them no larger."""
        dims = self.view.dims(mask)
        if dims is None or len(dims) > len(sizes) or self._everywhere(mask) != 0.0:
            return False
        pairs = zip(dims, sizes[len(sizes) - len(dims) :], strict=True)
        return all(dim == 1 or same_dim(dim, size) for dim, size in pairs)

    def _everywhere(self, name: str) -> float | None:
        """The number that all elements of a value are, in all models; None where that is not known."""
        values = self.view.values(name)
        if values is not None:
            first = values.reshape(-1)[:1]
            return float(first[0]) if first.size and bool(np.all(values == first[0])) else None
        node = self.view.producer(name)
        if node is None or node.domain:
            return None
        if node.op == "Where" and (chosen := self._everywhere(node.inputs[0])) is not None:
            return self._everywhere(node.inputs[1 if chosen else 2])
        if node.op == "And":
            both = [self._everywhere(operand) for operand in node.inputs]
            return 0.0 if 0.0 in both else 1.0 if None not in both else None
        return self._everywhere(node.inputs[0]) if traits.of(node.key).moves and node.inputs else None

    def fit(self, masks: Sequence[str], *, guarded: bool) -> bool:
        """True where Attention does with these masks what Add and Softmax do. `guarded`: a row of NaN is 0."""
        return all(self._fits(mask, guarded) for mask in masks)

    def _fits(self, mask: str, guarded: bool) -> bool:
        kind = self.view.type(mask)
        if kind.dtype != TensorProto.FLOAT or kind.dims is None or len(kind.dims) > 4:
            return False
        numbers = self._choices(mask)
        if numbers is None:
            return self._bounded(mask)
        masked = [number for number in numbers if number <= MASKED]
        endless = any(np.isinf(number) for number in masked)
        others = [number for number in numbers if number > MASKED]
        return (guarded or not endless) and all(abs(number) <= PLAIN for number in others)

    def _choices(self, mask: str) -> tuple[float, float] | None:
        """The two numbers between which a Where chooses."""
        node = self.view.producer(mask)
        if node is None or node.key != "Where":
            return None
        left, right = (self.view.number(name) for name in node.inputs[1:])
        return None if left is None or right is None else (left, right)

    def _bounded(self, name: str) -> bool:
        """True for elements of weights, which are small numbers, moved about."""
        values = self.view.values(name)
        if values is not None:
            return bool(np.all(np.abs(values) <= PLAIN))
        node = self.view.producer(name)
        return (
            node is not None
            and not node.domain
            and traits.of(node.key).moves
            and self._bounded(node.inputs[0])
        )

    # ------------------------------------------------------------------ the new mask

    def joined(self, masks: tuple[str, ...], query: str, key: str, made: list[Node]) -> str:
        """The sum of the masks, as long as queries and keys are, in one value."""
        place = masks, self._length(query), self._length(key)
        if place not in self._joined:
            self._joined[place] = self._spread(self._sum(masks, made), query, key, made)
        return self._joined[place]

    def _length(self, name: str) -> str:
        """What tells the batch and the length of an operand: its dims where they have names, else itself."""
        dims = self.view.types.get(name, self.view.type(name)).dims or (None, None)
        return name if None in dims[:2] else str(dims[:2])

    def _sum(self, masks: Sequence[str], made: list[Node]) -> str:
        total, *others = (self._with_mark(mask, made) for mask in masks)
        for other in others:
            name = self.view.fresh(f"{other}/sum")
            made.append(Node("Add", "", name, (total, other), (name,), {}))
            total = name
        return total

    def _with_mark(self, mask: str, made: list[Node]) -> str:
        """The mask with MARK in the place of the number that marks a masked key, but for -inf."""
        numbers, node = self._choices(mask), self.view.producer(mask)
        if node is None or numbers is None or not any(-np.inf < number <= MASKED for number in numbers):
            return mask
        if mask not in self._marked:
            self._marked[mask] = name = self.view.fresh(f"{mask}/marked")
            chosen = [
                self.view.constant(MARK, np.float32, f"{name}/mark") if -np.inf < number <= MASKED else given
                for given, number in zip(node.inputs[1:], numbers, strict=True)
            ]
            made.append(Node("Where", "", name, (node.inputs[0], *chosen), (name,), {}))
            self.view.types[name] = self.view.type(mask)
        return self._marked[mask]

    def _spread(self, mask: str, query: str, key: str, made: list[Node]) -> str:
        """The mask [B or 1, H or 1, S, T] from one that broadcasts to that."""
        view = self.view
        rows, keys = (view.types.get(name, view.type(name)).dims or () for name in (query, key))
        dims = view.types.get(mask, view.type(mask)).dims or ()
        wide = (1,) * (4 - len(dims)) + dims
        if len(dims) == 4 and _alike(wide, (rows[0], wide[1], rows[1], keys[1])):
            return mask
        result = view.fresh(f"{mask}/spread")
        parts = [self._size(query, 0, made) if wide[0] != 1 else self._one(), self._one()]
        parts += [self._size(query, 1, made), self._size(key, 1, made)]
        shape = view.fresh(f"{result}/shape")
        made.append(Node("Concat", "", shape, tuple(parts), (shape,), {"axis": 0}))
        made.append(Node("Expand", "", result, (mask, shape), (result,), {}))
        return result

    def _size(self, name: str, axis: int, made: list[Node]) -> str:
        result = self.view.fresh(f"{name}/size")
        made.append(Node("Shape", "", result, (name,), (result,), {"start": axis, "end": axis + 1}))
        return result

    def _one(self) -> str:
        return self.view.constant([1], np.int64, "one")


def _alike(dims: Sequence[object], wanted: Sequence[object]) -> bool:
    pairs = zip(dims, wanted, strict=True)
    return all(same_dim(a, b) or (i < 2 and a == 1) for i, (a, b) in enumerate(pairs))  # type: ignore[arg-type]
