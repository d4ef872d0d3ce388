"""Operators that move, drop, regroup, select and write."""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from fuzzing.build import MOST, Builder, Unfit, Value, operators


def _regrouped(b: Builder, size: int) -> list[int]:
    """Sizes whose product is `size`."""
    left, found = size, []
    for _ in range(b.rng.randint(0 if size == 1 else 1, 4) - 1):
        factors = [f for f in range(1, left + 1) if left % f == 0] if left else [0, 1, 2]
        found.append(b.rng.choice(factors))
        left = left // found[-1] if found[-1] else 0
    return [*found, left] if found or size != 1 or b.maybe(0.5) else []


@operators("Reshape", weight=4)
def reshape(b: Builder, op: str) -> None:
    x = b.anything()
    target = _regrouped(b, math.prod(x.shape))
    if b.maybe(0.35) and x.rank and len(target) < 4:  # keeps its first sizes
        keep = b.rng.randint(1, x.rank)
        target = [*x.shape[:keep], *_regrouped(b, math.prod(x.shape[keep:]))][:5]
    if target and b.maybe(0.5) and 0 not in target:
        target[b.rng.randrange(len(target))] = -1
    attrs = {}
    if 0 in target and b.opset >= 14 and b.maybe(0.7):
        attrs["allowzero"] = 1
    elif b.maybe(0.5):
        target = [0 if k < x.rank and x.shape[k] == t else t for k, t in enumerate(target)]
    b.node(op, [x, b.steer(target)], **attrs)


@operators("Transpose", weight=2)
def transpose(b: Builder, op: str) -> None:
    x = b.anything()
    perm = b.rng.sample(range(x.rank), x.rank)
    b.node(op, [x], perm=perm if b.maybe(0.8) else None)


@operators("Squeeze Unsqueeze Flatten", weight=3)
def axes(b: Builder, op: str) -> None:
    x = b.anything((0, 5 if op == "Squeeze" else 4))
    if op == "Flatten":
        b.node(op, [x], axis=b.rng.randint(-x.rank, x.rank) if b.maybe(0.8) else None)
    elif op == "Squeeze":
        ones = [a for a in range(x.rank) if x.shape[a] == 1]
        some = [a - x.rank if b.maybe(0.3) else a for a in ones if b.maybe(0.6)]
        # ONNX Runtime 1.32 reads an empty list as all axes of size 1, onnx as none.
        b.node(op, [x, b.const(some) if some else None])
    else:
        count = b.rng.choice([1, 1, 2])
        found = b.rng.sample(range(x.rank + count), count)
        b.node(op, [x, b.const([a - x.rank - count if b.maybe(0.3) else a for a in found])])


@operators("Expand Tile", weight=2)
def spread(b: Builder, op: str) -> None:
    x = b.anything()
    if op == "Tile":
        b.node(op, [x, b.steer([b.rng.choice([1, 1, 2, 3]) for _ in range(x.rank)])])
        return
    # ONNX Runtime 1.32 takes an Expand to a size of 0 for one that changes nothing.
    shape = [b.rng.choice([1, d, (b.dim() or 1) if d == 1 else d]) for d in x.shape]
    if b.maybe(0.3):
        shape = [b.dim() or 1, *shape]
    elif b.maybe(0.2):
        shape = shape[1:]
    b.node(op, [x, b.steer(shape)])


@operators("Pad", weight=1.5)
def pad(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4)) if b.maybe(0.8) else b.value(np.int64, (1, 4))
    mode = b.rng.choice(["constant"] * 4 + ["reflect", "edge"] + (["wrap"] if b.opset >= 19 else []))
    axes = b.axes(x.rank, least=1) if b.opset >= 18 and b.maybe(0.4) else None
    low = 0 if mode == "wrap" else -1 if b.maybe(0.3) else 0
    most = [x.shape[a] - 1 if mode != "constant" else 2 for a in (axes or range(x.rank))]
    pads = [max(low, min(b.rng.choice([0, 0, 1, 2, low]), m)) for m in most * 2]
    value = b.leaf((), x.dtype) if mode == "constant" and b.maybe(0.5) else None
    b.node(op, [x, b.steer(pads), value, None if axes is None else b.const(axes)], mode=mode)


@operators("Slice", weight=3)
def slices(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    axes = b.axes(x.rank, least=1)
    starts, ends, steps = [], [], []
    for axis in axes:
        d = x.shape[axis]
        step = b.rng.choice([1, 1, 1, 2, -1, -2])
        start, end = sorted((b.rng.randint(0, d), b.rng.randint(0, d)))
        if step < 0:
            start, end = end, start - d - 1
        elif b.maybe(0.3):
            end = b.rng.choice([end - d if end < d else end, 2**31, 2**62])
        starts.append(start)
        ends.append(end)
        steps.append(step)
    kind = np.int32 if b.maybe(0.15) and max(ends) < 2**31 else np.int64
    if axes == list(range(len(axes))) and set(steps) == {1} and b.maybe(0.5):
        b.node(op, [x, b.steer(starts, kind), b.steer(ends, kind)])
        return
    tail = [b.const(axes, kind), b.const(steps, kind) if set(steps) != {1} or b.maybe(0.5) else None]
    b.node(op, [x, b.steer(starts, kind), b.steer(ends, kind), *tail])


@operators("Split", weight=2)
def split(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    axis = b.axis(x.rank)
    size = x.shape[axis]
    if b.maybe(0.6):
        cut = b.rng.randint(0, size)
        sizes = [cut, size - cut] if b.maybe(0.7) else [size]
        outs = [True] if len(sizes) == 1 else [True, True]
        b.many(op, [x, b.steer(sizes)], outs, axis=axis)
        return
    count = b.rng.choice([c for c in range(1, max(size, 1) + 1) if b.opset >= 18 or size % c == 0] or [1])
    b.many(op, [x], count, axis=axis, num_outputs=count if b.opset >= 18 else None)


@operators("Concat", weight=2.5)
def concat(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    axis = b.axis(x.rank)
    others: list[Value] = []
    for _ in range(b.rng.choice([0, 1, 1, 1, 2])):
        shape = list(x.shape)
        shape[axis] = b.dim()
        others.append(x if b.maybe(0.2) else b.like(shape, x.dtype))
    ins = [x, *others]
    b.rng.shuffle(ins)
    b.node(op, ins, axis=axis)


# --------------------------------------------------------------------------- by index


def _indices(b: Builder, shape: tuple[int, ...], size: int, *, low: int | None = None) -> Value:
    """Indices below `size`, some of them negative."""
    if size == 0:
        raise Unfit("nothing to index")
    low = low if low is not None else -size if b.maybe(0.3) else 0
    kind = np.int32 if b.maybe(0.2) else np.int64
    if b.maybe(0.2):
        computed = [
            v for v in b.pool
            if v.dtype == kind and v.shape == shape and all(((a >= low) & (a < size)).all() for a in v.arrays)
        ]  # fmt: skip
        if computed:
            return b.rng.choice(computed)
    return b.leaf(shape, kind, low=low, high=size - 1)


@operators("Gather", weight=3)
def gather(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    axis = b.axis(x.rank)
    indices = _indices(b, b.dims(b.rng.choice([0, 1, 1, 2])), x.shape[axis])
    b.node(op, [x, indices], axis=axis if b.maybe(0.9) or axis % x.rank else None)


@operators("GatherElements", weight=1)
def gather_elements(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    axis = b.axis(x.rank)
    shape = [b.rng.randint(min(1, d), d) for d in x.shape]
    shape[axis] = b.dim()
    b.node(op, [x, _indices(b, tuple(shape), x.shape[axis])], axis=axis)


def _coordinates(b: Builder, sizes: tuple[int, ...], lead: tuple[int, ...], *, apart: bool) -> Value:
    """Tuples of indices [*lead, len(sizes)]; `apart`: no two are the same, so that writes don't collide."""
    world, total = b.world, math.prod(sizes)
    count = math.prod(lead)
    if total == 0 or (apart and count > total):
        raise Unfit("too few places")
    role = b.rng.choice(("input", "weight", "shared weight", "shared input"))
    arrays = []
    for _ in range(world.models):
        flat = world.numpy.permutation(total)[:count] if apart else world.numpy.integers(0, total, count)
        found = np.stack(np.unravel_index(flat, sizes), axis=-1).reshape(*lead, len(sizes))
        if b.maybe(0.2):
            found = found - np.array(sizes)
        arrays.append(found.astype(np.int64))
    return b.hold(role, arrays[:1] * world.models if role.startswith("shared") else arrays)


@operators("GatherND", weight=1)
def gather_nd(b: Builder, op: str) -> None:
    x = b.anything((1, 4))
    batch = b.rng.choice([0, 0, 1, 2])
    if batch >= x.rank:
        raise Unfit("too few axes")
    depth = b.rng.randint(1, x.rank - batch)
    lead = (*x.shape[:batch], *b.dims(b.rng.choice([0, 1, 2])))
    where = _coordinates(b, x.shape[batch : batch + depth], lead, apart=False)
    b.node(op, [x, where], batch_dims=batch or None)


@operators("ScatterElements", weight=1)
def scatter_elements(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4)) if b.maybe(0.8) else b.value(np.int64, (1, 4))
    axis = b.axis(x.rank)
    shape = tuple(b.rng.randint(min(1, d), d) for d in x.shape)
    how = b.rng.choice(["none", "add"] if b.opset >= 16 else ["none"])
    role = b.rng.choice(("input", "weight", "shared weight", "shared input"))
    order = [b.world.numpy.permuted(np.indices(x.shape)[axis], axis=axis) for _ in range(b.world.models)]
    arrays = [o[tuple(slice(s) for s in shape)].astype(np.int64) for o in order]
    where = b.hold(role, arrays[:1] * b.world.models if role.startswith("shared") else arrays)
    attrs = {"reduction": how} if how != "none" else {}
    b.node(op, [x, where, b.like(shape, x.dtype)], axis=axis, keeps="arith", **attrs)


@operators("ScatterND", weight=1)
def scatter_nd(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4)) if b.maybe(0.8) else b.value(np.int64, (1, 4))
    depth = b.rng.randint(1, x.rank)
    how = b.rng.choice(["none", "add"] + (["max"] if b.opset >= 18 else []) if b.opset >= 16 else ["none"])
    lead = b.dims(b.rng.choice([1, 1, 2]))
    where = _coordinates(b, x.shape[:depth], lead, apart=how == "none")
    attrs = {"reduction": how} if how != "none" else {}
    b.node(op, [x, where, b.like((*lead, *x.shape[depth:]), x.dtype)], keeps="arith", **attrs)


@operators("OneHot", weight=0.8)
def one_hot(b: Builder, op: str) -> None:
    depth = b.rng.choice([b.world.models, 2, 3])
    x = b.leaf(b.dims(b.rng.choice([0, 1, 2, 3])), np.int64, low=-depth - 1, high=depth + 1)
    marks = b.leaf((2,), role=b.rng.choice(("weight", "shared weight", "shared weight", "input")))
    size = b.steer([depth] if b.maybe(0.3) else depth)
    b.node(op, [x, size, marks], axis=b.rng.randint(-x.rank - 1, x.rank) if b.maybe(0.7) else None)


@operators("ConstantOfShape Range", weight=1)
def made(b: Builder, op: str) -> None:
    if op == "Range":
        limit = b.rng.randint(0, 5)
        b.node(op, [b.const(0), b.steer(limit), b.const(b.rng.choice([1, 2]))])
        return
    value = numpy_helper.from_array(np.array([b.rng.randint(-2, 2)], b.world.float))
    b.node(op, [b.steer(b.dims(b.rng.randint(0, 3)))], value=value)


@operators("ReverseSequence", weight=0.5)
def reverse_sequence(b: Builder, op: str) -> None:
    x = b.value(rank=(2, 4))
    axis = b.rng.choice([0, 1])
    length = x.shape[1 - axis]
    lengths = b.leaf((x.shape[axis],), np.int64, low=min(1, length), high=length)
    b.node(op, [x, lengths], batch_axis=axis, time_axis=1 - axis)


@operators("NonZero Compress Unique", weight=0.8)
def ragged(b: Builder, op: str) -> None:
    if op == "NonZero":
        b.node(op, [b.number((1, 3))])
    elif op == "Unique":
        b.node(op, [b.number((1, 2))])
    else:
        x = b.anything((1, 3))
        axis = b.axis(x.rank)
        b.node(op, [x, b.leaf((x.shape[axis],), np.bool_)], axis=axis)


@operators("CenterCropPad:18 DepthToSpace SpaceToDepth Col2Im:18", weight=0.8)
def blocks(b: Builder, op: str) -> None:
    if op == "CenterCropPad":
        x = b.value(rank=(1, 4))
        axes = b.axes(x.rank, least=1)
        b.node(op, [x, b.const([b.rng.randint(1, 4) for _ in axes])], axes=axes)
    elif op == "Col2Im":
        x = b.like((b.dim(), b.rng.choice([1, 2]) * 4, 6))
        b.node(op, [x, b.const([3, 4]), b.const([2, 2])], keeps="arith")
    elif op == "DepthToSpace":
        x = b.like((b.dim(), 4 * b.rng.choice([1, 2, 3]), b.dim(), b.dim()))
        b.node(op, [x], blocksize=2, mode=b.rng.choice(["DCR", "CRD"]))
    else:
        b.node(op, [b.like((b.dim(), b.dim(), 2 * b.rng.choice([1, 2]), 4))], blocksize=2)


@operators("RandomNormalLike RandomUniform", weight=0.2)
def random(b: Builder, op: str) -> None:
    """With a seed, so that the values can be compared."""
    if op == "RandomUniform":
        b.node(op, [], shape=list(b.dims(2)), seed=3.0)
    else:
        b.node(op, [b.value(np.float32, (1, 3))], seed=4.0)


@operators("SequenceConstruct", weight=0.3)
def sequence(b: Builder, op: str) -> None:
    """A sequence that is made and taken apart again."""
    from onnx import helper

    from fuzzing.build import evaluate

    x = b.value(rank=(1, 3))
    y = b.partner(x)
    names = [b.world.name() for _ in range(2)]
    at = b.const(b.rng.choice([0, 1, -1]))
    nodes = [
        helper.make_node(op, [x.name, y.name], names[:1]),
        helper.make_node("SequenceAt", [names[0], at.name], names[1:]),
    ]
    results = evaluate(nodes, [x, y, at], names[1:], b.world)
    found = Value(names[1], results[names[1]], x.exact and y.exact)
    if found.arrays[0].size > MOST:
        raise Unfit("too large")
    b.nodes += nodes
    b.pool.append(found)
    b.world.known[found.name] = found
