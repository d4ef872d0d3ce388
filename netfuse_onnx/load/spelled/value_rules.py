"""The values of integers and booleans that are computed from sizes (sizes.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from netfuse_onnx.load.spelled.polynomials import Poly, equal, poly, quotient
from netfuse_onnx.load.spelled.size_rules import broadcast
from netfuse_onnx.load.spelled.sizes import WHOLE, WIDEST, Array, Indices, Sizes, Values, as_polys, value_rule
from netfuse_onnx.ops.axes import from_front
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Node


@value_rule("Shape")
def _shape(sizes: Sizes, node: Node) -> Values:
    dims = sizes.shape(node.inputs[0])
    return _row(dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))])


@value_rule("Size")
def _size(sizes: Sizes, node: Node) -> Values:
    total = poly(1)
    for size in sizes.shape(node.inputs[0]):
        total = total * size
    return _row([total]).reshape(())


def _row(items: Any) -> Array:
    result = np.empty(len(items), object)
    result[:] = items
    return result


def _static(dims: tuple[Poly, ...]) -> list[int]:
    """Return dims as numbers. Raises LookupError where one is none."""
    numbers = [size.constant for size in dims if size.constant is not None]
    if len(numbers) < len(dims):
        raise LookupError("a size that is not static")
    return numbers


@value_rule("Identity")
def _same(sizes: Sizes, node: Node) -> Values | None:
    return sizes.value(node.inputs[0])


@value_rule("Cast")
def _cast(sizes: Sizes, node: Node) -> Values | None:
    before, after = (sizes.dtype(name) for name in (node.inputs[0], node.outputs[0]))
    values = sizes.value(node.inputs[0])
    if before == after:
        return values
    if before not in WHOLE or WHOLE[after] == 1 or not isinstance(values, np.ndarray):
        return None
    fits = all(abs(value.constant or 0) < WIDEST for value in values.reshape(-1))
    return values if fits else None


@value_rule("Gather")
def _gather(sizes: Sizes, node: Node) -> Values | None:
    data, at = sizes.array(node.inputs[0]), np.array(sizes.numbers(node.inputs[1]), np.int64)
    return _array(np.take(data, at.reshape(_static(sizes.shape(node.inputs[1]))), node.attrs.get("axis", 0)))


@value_rule("Slice")
def _slice(sizes: Sizes, node: Node) -> Values | None:
    data = sizes.array(node.inputs[0])
    starts, ends = (sizes.numbers(name) for name in node.inputs[1:3])
    axes = sizes.numbers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else range(len(starts))
    steps = sizes.numbers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(starts)
    where = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        last = None if step < 0 and end < -size else end
        where[from_front(axis, data.ndim)] = slice(start, last, step)
    return _array(data[tuple(where)])


@value_rule("Concat")
def _concat(sizes: Sizes, node: Node) -> Values:
    return np.concatenate([sizes.array(name) for name in node.inputs], axis=node.attrs["axis"])


@value_rule("Transpose")
def _transpose(sizes: Sizes, node: Node) -> Values:
    return np.transpose(sizes.array(node.inputs[0]), node.attrs.get("perm"))


@value_rule("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _viewed(sizes: Sizes, node: Node) -> Values | None:
    values, dims = sizes.value(node.inputs[0]), sizes.shape(node.outputs[0])
    if isinstance(values, np.ndarray):
        return values.reshape(_static(dims))
    if isinstance(values, Indices) and node.op == "Unsqueeze":
        axes = {from_front(axis, len(dims)) for axis in sizes.axes(node) or ()}
        steps = iter(values.steps)
        spread = tuple([poly(0) if k in axes else next(steps) for k in range(len(dims))])
        return Indices(dims, values.base, spread)
    return None


@value_rule("ConstantOfShape")
def _filled(sizes: Sizes, node: Node) -> Values | None:
    shape = sizes.numbers(node.inputs[0])
    if "value" not in node.attrs or np.prod(shape) > 64:
        return None
    number = weights.array(weights.weight_of(node.attrs["value"])).reshape(-1)[0]
    return as_polys(np.full(shape, int(number)))


@value_rule("Range")
def _range(sizes: Sizes, node: Node) -> Values | None:
    start, _, step = (sizes.array(name).reshape(-1)[0] for name in node.inputs)
    dims = sizes.shape(node.outputs[0])
    return Indices(dims, start, (step,)) if step.constant == 1 else None


@value_rule("Expand")
def _expand(sizes: Sizes, node: Node) -> Values | None:
    return _spread(sizes.value(node.inputs[0]), sizes.shape(node.outputs[0]))


def _spread(values: Values | None, dims: tuple[Poly, ...]) -> Values | None:
    """Return values broadcast to dims: small arrays where these are numbers, else indices."""
    shape = [size.constant for size in dims]
    if isinstance(values, np.ndarray) and None not in shape and np.prod([s or 0 for s in shape]) <= 64:
        return np.broadcast_to(values, [size or 0 for size in shape])
    found = as_indices(values)
    if found is None:
        return None
    before = (*[poly(1)] * (len(dims) - len(found.dims)), *found.dims)
    steps = (*[poly(0)] * (len(dims) - len(found.steps)), *found.steps)
    kept = [_step(*each) for each in zip(steps, before, dims, strict=True)]
    return (
        Indices(dims, found.base, tuple([step for step in kept if step is not None]))
        if None not in kept
        else None
    )


def _step(step: Poly, before: Poly, after: Poly) -> Poly | None:
    """Return the step along an axis that is broadcast; None where the size before may be 1 or not."""
    if not step.terms or before == after:
        return step
    return poly(0) if before.constant == 1 else None


def as_indices(values: Values | None) -> Indices | None:
    """Return one number as indices; None for other arrays."""
    if isinstance(values, np.ndarray) and values.size == 1:
        return Indices((poly(1),) * values.ndim, values.reshape(-1)[0], (poly(0),) * values.ndim)
    return values if isinstance(values, Indices) else None


def _elementwise(sizes: Sizes, node: Node, each: Callable[..., Poly]) -> Values:
    arrays = np.broadcast_arrays(*[sizes.array(name) for name in node.inputs])
    result = np.empty(arrays[0].shape, object)
    for place in np.ndindex(result.shape):
        result[place] = each(*[array[place] for array in arrays])
    return result


@value_rule("Add", "Sub")
def _sum(sizes: Sizes, node: Node) -> Values | None:
    sign = 1 if node.op == "Add" else -1
    values = [sizes.value(name) for name in node.inputs]
    if all(isinstance(each, np.ndarray) for each in values):
        return _elementwise(sizes, node, lambda a, b: a + b * sign)
    dims = broadcast([sizes.shape(name) for name in node.inputs], node.outputs[0])
    a, b = (as_indices(_spread(each, dims)) for each in values)
    if a is None or b is None:
        return None
    steps = tuple([x + y * sign for x, y in zip(a.steps, b.steps, strict=True)])
    return Indices(dims, a.base + b.base * sign, steps)


@value_rule("Mul")
def _product(sizes: Sizes, node: Node) -> Values | None:
    values = [sizes.value(name) for name in node.inputs]
    if all(isinstance(each, np.ndarray) for each in values):
        return _elementwise(sizes, node, lambda a, b: a * b)
    dims = broadcast([sizes.shape(name) for name in node.inputs], node.outputs[0])
    for many, one in (values, values[::-1]):
        if isinstance(one, np.ndarray) and one.size == 1:
            factor, found = one.reshape(-1)[0], as_indices(_spread(many, dims))
            if found is not None:
                return Indices(dims, found.base * factor, tuple([step * factor for step in found.steps]))
    return None


def _known(found: Poly | None) -> Poly:
    if found is None:
        raise ArithmeticError("a value that depends on the run")
    return found


@value_rule("Div")
def _quotient(sizes: Sizes, node: Node) -> Values:
    return _elementwise(sizes, node, lambda a, b: _known(quotient(a, b)))


@value_rule("Neg")
def _negative(sizes: Sizes, node: Node) -> Values:
    return _elementwise(sizes, node, lambda a: -a)


@value_rule("Mod")
def _rest(sizes: Sizes, node: Node) -> Values:
    def rest(a: Poly, b: Poly) -> Poly:
        if not (a.constant is not None and a.constant >= 0 and (b.constant or 0) > 0):
            raise ArithmeticError("a rest of sizes")
        return poly(a.constant % (b.constant or 1))

    return _elementwise(sizes, node, rest)


@value_rule("Max", "Min")
def _extreme(sizes: Sizes, node: Node) -> Values:
    def larger(a: Poly, b: Poly) -> Poly:
        if (a - b).natural:
            return a
        return _known(b if (b - a).natural else None)

    def extreme(*items: Poly) -> Poly:
        best = items[0]
        for item in items[1:]:
            top = larger(best, item)
            best = top if node.op == "Max" else (item if top == best else best)
        return best

    return _elementwise(sizes, node, extreme)


def _truth(answer: bool | None) -> Poly:
    return poly(int(_bool(answer)))


def _bool(answer: bool | None) -> bool:
    if answer is None:
        raise ArithmeticError("an answer that depends on the run")
    return answer


@value_rule("Equal")
def _equal(sizes: Sizes, node: Node) -> Values:
    return _elementwise(sizes, node, lambda a, b: _truth(equal(a, b)))


@value_rule("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def _compared(sizes: Sizes, node: Node) -> Values:
    def at_least(a: Poly, b: Poly, *, more: int) -> bool:
        if (a - b - more).natural:
            return True
        return not _bool(True if (b - a - 1 + more).natural else None)

    def answer(a: Poly, b: Poly) -> Poly:
        a, b = (b, a) if node.op.startswith("Less") else (a, b)
        return poly(int(at_least(a, b, more=int(not node.op.endswith("OrEqual")))))

    return _elementwise(sizes, node, answer)


@value_rule("Not")
def _not(sizes: Sizes, node: Node) -> Values:
    return _elementwise(sizes, node, lambda a: poly(int(not a.constant)))


@value_rule("And", "Or")
def _both(sizes: Sizes, node: Node) -> Values:
    union = node.op == "Or"

    def both(a: Poly, b: Poly) -> Poly:
        x, y = bool(a.constant), bool(b.constant)
        return poly(int(x or y if union else x and y))

    return _elementwise(sizes, node, both)


@value_rule("Where")
def _where(sizes: Sizes, node: Node) -> Values:
    return _elementwise(sizes, node, lambda c, a, b: a if c.constant else b)


def _array(found: Any) -> Array:
    """Return an array also for a single element, which numpy takes out of arrays of objects."""
    if isinstance(found, np.ndarray):
        return found
    result = np.empty((), object)
    result[()] = found
    return result


def each_place(sizes: Sizes, name: str, dims: tuple[Poly, ...]) -> bool:
    """Return True where rows of indices [..., k] are those of all places in the first k axes, in order.

    These are known where the rows are joined by a Concat along the last axis, each part of which counts one
    axis.
    """
    joined = sizes.maker(name)
    if joined is None or joined.op != "Concat":
        return False
    parts = [sizes.value(part) for part in joined.inputs]
    shape = sizes.shape(name)
    if from_front(joined.attrs["axis"], len(shape)) != len(shape) - 1 or len(parts) != shape[-1].constant:
        return False
    axes = [k for k, size in enumerate(shape[:-1]) if size.constant != 1]
    if tuple([shape[k] for k in axes]) != dims[: len(parts)]:
        return False
    return all(_counts(part, shape, axis) for part, axis in zip(parts, axes, strict=True))


def _counts(part: Values | None, shape: tuple[Poly, ...], axis: int) -> bool:
    """Return True where values are the index along one axis of the shape."""
    if not isinstance(part, Indices) or part.base.terms or len(part.dims) != len(shape):
        return False
    steps = part.steps
    return part.dims[:-1] == shape[:-1] and all(
        step.constant == int(k == axis) for k, step in enumerate(steps) if shape[k].constant != 1
    )
