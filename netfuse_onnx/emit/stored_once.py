"""Storing the bytes of a weight once, in however many forms and for however many models nodes read it.

One weight may be read as it is and transposed: tied embeddings are a table for a Gather and a matrix for a
product. Or it has its model axis in two places. One of the forms is stored. Nodes make the others, which ONNX
Runtime computes when it loads the file.

The same nodes let a bundle store its weights in the order of the sources, so that its views can read them,
where the merged graph wants another: a call costs nothing more, and loading the merged file a copy of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import onnx_graphsurgeon as gs

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.emit.repeat import is_repeated, nbytes, put, store_once
from netfuse_onnx.lowered import Conversion
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import AS_IS, SwapAt, SwapLast, Transform
from netfuse_onnx.types import Weight


def stored_once(emit: Emitter, *, unmoved: bool = False) -> Iterator[Conversion]:
    """Replaces each weight of the finished graph that repeats source weights, or that another one holds in
    another form, and with `unmoved` each that holds its parts in another order than the sources. Yields the
    conversions that it takes."""
    yield from store_once(emit)
    forms: dict[tuple[str, tuple[Weight, ...]], list[tuple[gs.Constant, Recipe]]] = {}
    for tensor, recipe in emit.weights_read():
        if is_repeated(recipe.dtype, nbytes(recipe)) and _is_derivable(recipe):
            forms.setdefault((recipe.value, recipe.parts), []).append((tensor, recipe))
    for (value, _), group in forms.items():
        base = next((form for form in group if form[1].transform == AS_IS), None)
        if unmoved and not (base and _in_order(base[1])):
            base = next((form for form in group if _in_order(form[1])), None) or _plain(emit, *group[0])
        for tensor, recipe in group if base else ():
            if base and tensor is not base[0]:
                count = len(emit.graph.nodes)
                emit.scope = f"{tensor.name}/form"
                made = _derived(emit, *base, recipe)
                yield Conversion(value, _text(base[1]), _text(recipe), len(emit.graph.nodes) - count)
                put(emit, tensor, made, count)


def _in_order(recipe: Recipe) -> bool:
    """Returns True where the parts lie one after the other, each as its source has it."""
    together = recipe.outer == 1 or len(recipe.parts) == 1
    return together and not recipe.transform.moves(recipe.parts[0].shape)


def _plain(emit: Emitter, tensor: Tensor, recipe: Recipe) -> tuple[gs.Constant, Recipe]:
    """Returns the weight with its parts in order, each as its source has it, and the recipe of that."""
    shape = (len(recipe.parts), *recipe.parts[0].shape)
    plain = emit.reform(tensor, shape=shape, outer=1, transform=AS_IS)
    return plain, emit.recipes[plain.name]


def _is_derivable(recipe: Recipe) -> bool:
    """Returns True for parts of one shape, in an order that a Transpose makes."""
    alike = len({part.shape for part in recipe.parts}) == 1
    return alike and isinstance(recipe.transform, type(AS_IS) | SwapLast | SwapAt)


def _derived(emit: Emitter, base: Tensor, held: Recipe, wanted: Recipe) -> Tensor:
    """Returns the form `wanted` of a weight that `base` holds as it is: runs [r, N, ..] -> [s, N, ..]."""
    models, size = len(held.parts), held.counts[0]
    turned = wanted.transform != AS_IS
    seen = _Seen(base, held.shape)
    if models > 1 and held.outer > 1 and (turned or held.outer != wanted.outer):
        seen = seen.swapped(emit, (held.outer, models, size // held.outer), (1, 0, 2))
    if turned:
        count, rows, columns = _matrices(wanted.transform, wanted.parts[0].shape)
        seen = seen.swapped(emit, (models * count, rows, columns), (0, 2, 1))
    if models > 1 and wanted.outer > 1 and (turned or held.outer != wanted.outer):
        seen = seen.swapped(emit, (models, wanted.outer, size // wanted.outer), (1, 0, 2))
    return seen.reshaped(emit, wanted.shape).tensor


class _Seen(NamedTuple):
    """A weight with its shape. Each node that is computed when the file is loaded takes a copy, so that a
    weight that has a shape already is not reshaped."""

    tensor: Tensor
    shape: tuple[int, ...]

    def reshaped(self, emit: Emitter, shape: tuple[int, ...]) -> _Seen:
        if self.shape == shape:
            return self
        return _Seen(emit("Reshape", self.tensor, emit.const(list(shape))), shape)

    def swapped(self, emit: Emitter, shape: tuple[int, ...], perm: tuple[int, ...]) -> _Seen:
        turned = emit("Transpose", self.reshaped(emit, shape).tensor, perm=list(perm))
        return _Seen(turned, tuple(shape[axis] for axis in perm))


def _matrices(transform: Transform, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the number of matrices that a transform turns, and their rows and columns."""
    axis = transform.axis if isinstance(transform, SwapAt) else len(shape) - 1
    first = 0 if isinstance(transform, SwapAt) else len(shape) - 2
    return math.prod(shape[:first]), math.prod(shape[first:axis]), math.prod(shape[axis:])


def _text(recipe: Recipe) -> str:
    """Returns a form in the words of a report."""
    return f"{list(recipe.shape)}{recipe.transform.text and ' transposed'}"
