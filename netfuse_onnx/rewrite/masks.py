"""Masks and biases that are added to the scores of an attention, as the operator Attention takes them.

ONNX Runtime's Attention adds a mask of floats as Add does, with two exceptions. It gives 0 for a row all of
whose keys have -inf or the lowest number, where a softmax gives NaN for -inf and the mean of the values for
the lowest number. And the kernel for CUDA multiplies the sum by log2(e), so that numbers beyond 2.3e38 become
infinite. So the number that marks a masked key, the lowest one in exports of transformers, becomes -1e29: it
absorbs every score as the lowest number does. Other values must be known to be far from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from netfuse_onnx.dims import broadcast, same_dim
from netfuse_onnx.ops import traits
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Correspondence, Dim, Node, ValueType

MASKED = -1e30
"""Up to here a number marks a key that is masked: no score is left beside it in float32."""
MARK = -1e29
"""The mark that Attention gets. ONNX Runtime takes it for a number, and log2(e) times it is finite."""
SCORES_RANK = 4
PLAIN = 1e20
"""Other numbers in a mask are at most so large: the mark absorbs them."""


def adds_nothing(view: View, mask: str, sizes: Sequence[Dim]) -> bool:
    """True for zeros that broadcast to scores of these sizes, and make them no larger."""
    dims = view.dims(mask)
    if dims is None or len(dims) > len(sizes) or _everywhere(view, mask) != 0.0:
        return False
    pairs = zip(dims, sizes[len(sizes) - len(dims) :], strict=True)
    return all(dim == 1 or same_dim(dim, size) for dim, size in pairs)


def _everywhere(view: View, name: str) -> float | None:
    """The number that all elements of a value are, in all models; None where that is not known."""
    values = view.values(name)
    if values is not None:
        first = values.reshape(-1)[:1]
        return float(first[0]) if first.size and bool(np.all(values == first[0])) else None
    node = view.producer(name)
    if node is None or node.domain:
        return None
    if node.op == "Where" and (chosen := _everywhere(view, node.inputs[0])) is not None:
        return _everywhere(view, node.inputs[1 if chosen else 2])
    if node.op == "And":
        both = [_everywhere(view, operand) for operand in node.inputs]
        return 0.0 if 0.0 in both else 1.0 if None not in both else None
    return _everywhere(view, node.inputs[0]) if traits.of(node.key).moves else None


def fit(view: View, masks: Sequence[str], *, guarded: bool) -> bool:
    """True where Attention does with these masks what Add and Softmax do. `guarded`: a row of NaN is 0.

    Two marks of one key would add up to -inf in the source, and to a number here."""
    marking = sum(min(_choices(view, mask) or (0.0,)) <= MASKED for mask in masks)
    return marking <= 1 and all(_fits(view, mask, guarded) for mask in masks)


def endless(view: View, masks: Sequence[str]) -> bool:
    """True where a mask may hold -inf: then Attention may give 0 for a row."""
    return any(-np.inf in (_choices(view, mask) or ()) for mask in masks)


def _fits(view: View, mask: str, guarded: bool) -> bool:
    kind = view.type(mask)
    if kind.dtype != TensorProto.FLOAT or kind.dims is None or len(kind.dims) > SCORES_RANK:
        return False
    numbers = _choices(view, mask)
    if numbers is None:
        return bounded(view, mask)
    return (guarded or -np.inf not in numbers) and all(
        number <= MASKED or abs(number) <= PLAIN for number in numbers
    )


def _choices(view: View, mask: str) -> tuple[float, float] | None:
    """The two numbers between which a Where chooses."""
    node = view.producer(mask)
    if node is None or node.key != "Where":
        return None
    left, right = (view.number(name) for name in node.inputs[1:])
    return None if left is None or right is None else (left, right)


def bounded(view: View, name: str) -> bool:
    """True for elements of weights, which are small numbers, moved about."""
    values = view.values(name)
    if values is not None:
        return bool(np.all(np.abs(values) <= PLAIN))
    node = view.producer(name)
    return node is not None and traits.of(node.key).moves and bounded(view, node.inputs[0])


@dataclass(frozen=True)
class Spread:
    """A mask [B or 1, H or 1, S, T], as long as a query and a key are."""

    masks: tuple[str, ...]
    name: str
    query: str
    key: str


class Masks:
    """The masks that were made for the attentions of a correspondence. Those that read the same share one."""

    def __init__(self) -> None:
        self._spread: list[Spread] = []
        self._marked: dict[str, str] = {}

    def joined(self, view: View, masks: tuple[str, ...], query: str, key: str, made: list[Node]) -> str:
        """The sum of the masks in one value, made by new nodes where there is none yet."""
        for one in self._spread:
            if one.masks == masks and _alike(view, one.query, query, 2) and _alike(view, one.key, key, 2):
                return one.name
        total = self._sum(view, masks, made)
        if _fills(view, total, query, key):
            return total
        name = _spread(view, total, query, key, made)
        self._spread.append(Spread(masks, name, query, key))
        return name

    def believed(self, corr: Correspondence) -> Correspondence:
        """The correspondence with the sizes of the masks, of which inference knows little. Attention, which
        reads them, fails where they are others."""
        believed = dict(corr.believed)
        for one in self._spread:
            dims = corr.type_of(one.name).dims
            (batch, length, *_), (_, keys, *_) = (
                corr.type_of(n).dims or (None, None) for n in (one.query, one.key)
            )
            if dims is not None:
                sizes = (1 if dims[0] == 1 else batch, dims[1], length, keys)
                believed[one.name] = ValueType(TensorProto.FLOAT, sizes)
        return replace(corr, believed=believed)

    def _sum(self, view: View, masks: Sequence[str], made: list[Node]) -> str:
        total, *others = (self._with_mark(view, mask, made) for mask in masks)
        for other in others:
            name = view.fresh(f"{other}/sum")
            made.append(Node("Add", "", name, (total, other), (name,), {}))
            view.note(
                name, ValueType(TensorProto.FLOAT, broadcast([view.dims(n) or () for n in (total, other)]))
            )
            total = name
        return total

    def _with_mark(self, view: View, mask: str, made: list[Node]) -> str:
        """The mask with MARK in the place of the number that marks a masked key, but for -inf."""
        numbers, node = _choices(view, mask), view.producer(mask)
        if node is None or numbers is None or not any(-np.inf < number <= MASKED for number in numbers):
            return mask
        if mask not in self._marked:
            self._marked[mask] = name = view.fresh(f"{mask}/marked")
            chosen = [
                view.constant(MARK, np.float32, f"{name}/mark") if -np.inf < number <= MASKED else given
                for given, number in zip(node.inputs[1:], numbers, strict=True)
            ]
            made.append(Node("Where", "", name, (node.inputs[0], *chosen), (name,), {}))
            view.note(name, view.type(mask))
        return self._marked[mask]


def _alike(view: View, one: str, other: str, axes: int) -> bool:
    """True where two values are known to be equally long along their first axes."""
    left, right = view.dims(one), view.dims(other)
    return one == other or all(
        same_dim(a, b) for a, b in zip((left or ())[:axes], (right or ())[:axes], strict=True)
    )


def _fills(view: View, mask: str, query: str, key: str) -> bool:
    """True for a mask that has the sizes which Attention asks for."""
    dims, rows, keys = (view.dims(name) or () for name in (mask, query, key))
    if len(dims) != SCORES_RANK:
        return False
    first = dims[0] == 1 or same_dim(dims[0], rows[0])
    return first and same_dim(dims[2], rows[1]) and same_dim(dims[3], keys[1])


def _spread(view: View, mask: str, query: str, key: str, made: list[Node]) -> str:
    """The mask [B or 1, H or 1, S, T] from one that broadcasts to that."""

    def size(name: str, axis: int) -> str:
        result = view.fresh(f"{name}/size")
        made.append(Node("Shape", "", result, (name,), (result,), {"start": axis, "end": axis + 1}))
        return result

    dims = view.dims(mask) or ()
    one = view.constant([1], np.int64, f"{mask}/one")
    result = view.fresh(f"{mask}/spread")
    for_all = len(dims) < SCORES_RANK or dims[0] == 1
    parts = (one if for_all else size(query, 0), one, size(query, 1), size(key, 1))
    shape = view.fresh(f"{result}/shape")
    made.append(Node("Concat", "", shape, parts, (shape,), {"axis": 0}))
    made.append(Node("Expand", "", result, (mask, shape), (result,), {}))
    return result
