"""The cases of operators in the proof that rows stay apart (rows_apart.py).

Each says of one node, for any size of the batch, where its output has the rows. It gives None where it does
not apply, and raises Mixed where rows may meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.dims import INFERRED, product, same_dim
from netfuse_onnx.ops.axes import REDUCERS
from netfuse_onnx.plan import row_sizes
from netfuse_onnx.plan.row_dims import axes_of
from netfuse_onnx.plan.row_sizes import Size, Sizes
from netfuse_onnx.plan.row_states import (
    HAVE_ROWS,
    Facts,
    Indices,
    Mixed,
    Numbers,
    Rowed,
    Shaped,
    State,
    places,
)
from netfuse_onnx.rules.elementwise import BROADCAST, UNARY
from netfuse_onnx.run import gaps
from netfuse_onnx.types import Dim, Node


def _shape(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Shape of rows: the size of the axis of rows is a multiple of the batch."""
    state = ins[0]
    if not isinstance(state, HAVE_ROWS):
        return None
    dims = facts.dims(node.inputs[0])
    entries = [Size(True, state.width) if i == state.axis else Size(False, dim) for i, dim in enumerate(dims)]
    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(dims))
    return Sizes(tuple(entries[int(start) : int(end)]))


def _broadcast(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Rows must meet rows: all that are rowed are so at one axis from the back, and others have size 1
    there."""
    if any(isinstance(state, Sizes | Indices) for state in ins):
        return None
    place, width, rank = places(facts, node.inputs, ins)
    kind = Shaped if any(isinstance(state, Numbers | Shaped) for state in ins) else Rowed
    return kind(rank - place, width)


def _matmul(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Rows are matrices of their own, rows of the first operand, or columns of the second."""
    if any(isinstance(state, Sizes | Numbers | Shaped | Indices) for state in ins[:2]) or any(ins[2:]):
        return None
    dims = [facts.dims(name) for name in node.inputs[:2]]
    if min(map(len, dims)) < 2:
        return None
    rank, (x, w) = max(map(len, dims)), ins[:2]
    if isinstance(x, Rowed) and x.axis == len(dims[0]) - 2 and w is None:
        return Rowed(rank - 2, x.width)
    if isinstance(w, Rowed) and w.axis == len(dims[1]) - 1 and x is None:
        return Rowed(rank - 1, w.width)
    place, width, rank = places(facts, node.inputs[:2], ins[:2])
    return Rowed(rank - place, width) if place > 2 else None


def _einsum(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """The letter of the rows is that of each rowed operand, and of no other."""
    text = str(node.attrs["equation"].decode()).replace(" ", "")
    terms, _, out = text.partition("->")
    names = terms.split(",")
    if "." in text or not out or any(isinstance(s, Sizes | Numbers | Shaped | Indices) for s in ins):
        return None
    letters = {term[s.axis] for term, s in zip(names, ins, strict=True) if isinstance(s, Rowed)}
    if len(letters) != 1:
        return None
    (letter,) = letters
    once = all(term.count(letter) == isinstance(s, Rowed) for term, s in zip(names, ins, strict=True))
    widths = {s.width for s in ins if isinstance(s, Rowed)}
    fits = once and out.count(letter) == 1 and len(widths) == 1
    return Rowed(out.index(letter), widths.pop()) if fits else None


def _transpose(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    rank = len(facts.dims(node.inputs[0]))
    perm = [int(axis) for axis in node.attrs.get("perm") or reversed(range(rank))]
    return replace(ins[0], axis=perm.index(ins[0].axis)) if isinstance(ins[0], Rowed) else None


def _unary(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    if node.op in ("Cast", "Identity") and isinstance(ins[0], Numbers):
        return ins[0]
    return ins[0] if isinstance(ins[0], Rowed) and not any(ins[1:]) else None


def _along(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """An operator along other axes than that of the rows, of one shape before and after."""
    states = [state for state in ins if state is not None]
    dims = facts.dims(node.inputs[0])
    axes = axes_of(facts, node, len(dims))
    others = ins[1:] if node.op in ("Concat", "GatherElements") else ()
    if not isinstance(ins[0], Rowed) or axes is None or any(state != ins[0] for state in states):
        return None
    if any(state != ins[0] for state in others) or ins[0].axis in axes:
        return None
    return ins[0]


def _reduced(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """A reduction along other axes, or a Squeeze of them."""
    rank, state = len(facts.dims(node.inputs[0])), ins[0]
    axes = axes_of(facts, node, rank)
    if not isinstance(state, Rowed) or axes is None or not axes or state.axis in axes or any(ins[1:]):
        return None
    kept = node.op != "Squeeze" and node.attrs.get("keepdims", 1)
    return state if kept else replace(state, axis=state.axis - sum(axis < state.axis for axis in axes))


def _unsqueeze(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    state, given = ins[0], facts.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    count = len(node.attrs.get("axes", ())) if given is None else given.size
    rank = len(facts.dims(node.inputs[0])) + count
    axes = axes_of(facts, node, rank)
    if not isinstance(state, Rowed | Numbers) or not axes:
        return None
    return replace(state, axis=[axis for axis in range(rank) if axis not in axes][state.axis])


def _gather(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Rows at places that are the same for any batch, or a table that is the same at the places of rows."""
    data, where = ins
    rank, more = (len(facts.dims(name)) for name in node.inputs)
    axis = int(node.attrs.get("axis", 0)) % rank
    if isinstance(data, Rowed) and where is None and axis != data.axis:
        return data if data.axis < axis else replace(data, axis=data.axis + more - 1)
    if data is None and isinstance(where, Rowed):
        return replace(where, axis=axis + where.axis)
    return None


def _pad(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Nothing is added along the axis of the rows."""
    rank, state = len(facts.dims(node.inputs[0])), ins[0]
    if not isinstance(state, Rowed) or any(ins[1:]) or len(node.inputs) not in (2, 3):
        return None
    pads = facts.constant(node.inputs[1])
    widths = [] if pads is None else [int(pads.reshape(-1)[k]) for k in (state.axis, state.axis + rank)]
    return state if widths == [0, 0] else None


def _reshape(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """The entries of a row lie side by side, and stay so: the axes before the rows come out as they go in."""
    state, target = ins[0], facts.sizes(node.inputs[1])
    if not isinstance(state, Rowed | Numbers) or target is None:
        return None
    if node.attrs.get("allowzero") and Size(False, 0) in target.entries:
        raise Mixed("a 0 in its target is a size")
    dims = facts.dims(node.inputs[0])
    sizes = [
        (Size(True, state.width) if i == state.axis else Size(False, dims[i]))
        if size == Size(False, 0) and i < len(dims)
        else size
        for i, size in enumerate(target.entries)
    ]
    rows = [i for i, size in enumerate(sizes) if size.rows]
    open_ = [i for i, size in enumerate(sizes) if size == Size(False, -1)]
    if len(rows) > 1 or len(open_) > 1 or not (rows or open_):
        raise Mixed("its target has no axis that grows with the batch, or several")
    axis = (rows or open_)[0]
    before, after = list(dims[: state.axis]), [size.value for size in sizes[:axis]]
    if not _same_volume(before, after):
        raise Mixed("its target moves the axis of the rows")
    if rows and open_ and not rows < open_:
        raise Mixed("its target moves the axis of the rows")
    given = [*dims[: state.axis], state.width, *dims[state.axis + 1 :]]
    wanted = [None if i in open_ else size.value for i, size in enumerate(sizes)]
    if open_:
        left = _uncancelled(given, [size for i, size in enumerate(wanted) if i not in open_])
        if not rows and _may_pair_rows(*left):
            raise Mixed("its target may put entries of several rows side by side")
        wanted[open_[0]] = _quotient(*left)
    facts.note(node.outputs[0], tuple(wanted))
    return replace(state, axis=axis, width=wanted[axis])


def _uncancelled(dims: Sequence[Dim], wanted: Sequence[Any]) -> tuple[list[Dim], list[Any]]:
    """The sizes that are left of both lists without those that are in both, and without sizes of 1."""
    given, left = [*dims], [size for size in wanted if size != 1]
    for size in [*left]:
        if size is not None and size in given:
            given.remove(size)
            left.remove(size)
    return [dim for dim in given if dim != 1], left


def _may_pair_rows(given: Sequence[Dim], left: Sequence[Any]) -> bool:
    """True where callers can choose sizes for which the product of `given` is no multiple of that of `left`:
    one row alone fails there, and several would share an entry. A size that only inference made up follows
    from others, and is taken to be one with which a row alone runs."""
    if any(dim is None or str(dim).startswith(INFERRED) for dim in (*given, *left)):
        return False
    one, two = math.prod(dim for dim in given if isinstance(dim, int)), product(left)
    return two is None or two <= 0 or one % two != 0


def _quotient(given: Sequence[Dim], left: Sequence[Any]) -> Dim:
    """The product of `given` divided by that of `left`; None where it is neither a number nor a symbol."""
    if not left and len(given) == 1:
        return given[0]
    one, two = product(given), product(left)
    return one // two if one and two and one % two == 0 else None


def _same_volume(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """True where two lists of sizes are known to be equal, but for sizes of 1."""
    left, right = ([dim for dim in dims if dim != 1] for dims in (one, two))
    return len(left) == len(right) and all(same_dim(a, b) for a, b in zip(left, right, strict=True))


def _expand(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Rows stay where they are. What is the same for any batch is repeated for each row."""
    state, target = ins[0], facts.sizes(node.inputs[1])
    if isinstance(state, Sizes | Shaped | Indices) or target is None:
        return None
    dims = facts.dims(node.inputs[0])
    rank = max(len(dims), len(target.entries))
    sizes = [Size(False, 1)] * (rank - len(target.entries)) + list(target.entries)
    padded = [1] * (rank - len(dims)) + list(dims)
    rows = [i for i, size in enumerate(sizes) if size.rows]
    if state is None:
        if len(rows) != 1 or padded[rows[0]] != 1 or sizes[rows[0]].value is None:
            raise Mixed("its shape is not one row for each row of the batch")
        return Rowed(rows[0], sizes[rows[0]].value)
    axis = state.axis + rank - len(dims)
    fits = sizes[axis] in (Size(False, 1), Size(True, state.width)) and state.width is not None
    if not fits or any(i != axis for i in rows):
        raise Mixed("its shape has the rows along another axis")
    return replace(state, axis=axis)


def _constant_of_shape(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """One value everywhere, with one axis that grows with the batch."""
    target = facts.sizes(node.inputs[0])
    rows = [i for i, size in enumerate(target.entries) if size.rows] if target else []
    if len(rows) != 1:
        raise Mixed("its shape is not one row for each row of the batch")
    assert target is not None
    return Rowed(rows[0], target.entries[rows[0]].value)


def _slice(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """A Slice that takes all of the axis of rows, among others."""
    state = ins[0]
    if not isinstance(state, Rowed) or any(ins[1:]):
        return None
    given = [facts.constant(name) if name else None for name in node.inputs[1:]]
    given += [None] * (4 - len(given))
    starts, ends, axes, steps = (None if v is None else [int(i) for i in v.reshape(-1)] for v in given)
    absent = [len(node.inputs) <= k or not node.inputs[k] for k in (3, 4)]
    rank = len(facts.dims(node.inputs[0]))
    if axes is None and absent[0] and starts is not None:
        axes = list(range(len(starts)))
    if axes is None:
        return None
    places = [axis % rank for axis in axes]
    if state.axis not in places:
        return state
    k = places.index(state.axis)
    whole = starts is not None and ends is not None and starts[k] == 0 and ends[k] >= row_sizes.LAST
    step = 1 if steps is None and absent[1] else steps[k] if steps is not None else 0
    return state if whole and step == 1 else None


def _range(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """0 to B - 1."""
    start, limit, step = map(facts.sizes, node.inputs)
    if start is None or limit is None or step is None:
        return None
    plain = start.entries == (Size(False, 0),) and step.entries == (Size(False, 1),)
    return Numbers(0) if plain and limit.entries == (Size(True, 1),) else None


def _concat(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Rows with rows, along another axis; or indices that name their own row first: [number of the row,
    place in the row]."""
    if isinstance(ins[0], Numbers):
        last = len(facts.dims(node.inputs[0])) - 1
        axis = int(node.attrs.get("axis", 0))
        others = ins[1:]
        mine = Rowed(ins[0].axis, ins[0].width)
        if axis in (-1, last) and ins[0].axis < last and all(state == mine for state in others):
            return Indices(ins[0].axis, ins[0].width)
        return None
    return _along(facts, node, ins)


def _gather_nd(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Each row is read at indices that name this row first, or all at the same ones along other axes."""
    data, where = ins
    if not isinstance(data, Rowed) or node.attrs.get("batch_dims"):
        return None
    if data == Rowed(0) and isinstance(where, Indices):
        return Rowed(where.axis, where.width)
    dims = facts.dims(node.inputs[1])
    if where is None and isinstance(dims[-1], int) and dims[-1] <= data.axis:
        return replace(data, axis=data.axis - dims[-1] + len(dims) - 1)
    return None


def _resize(facts: Facts, node: Node, ins: Sequence[State]) -> State:
    """Images are resized one by one; below rank 4 all axes are blended."""
    state, rank = ins[0], len(facts.dims(node.inputs[0]))
    if not isinstance(state, Rowed) or any(ins[1:3]) or rank <= gaps.RESIZE_BLENDS_UP_TO or state.axis > 1:
        return None
    sizes = facts.sizes(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    if sizes is None or node.attrs.get("axes"):
        return None
    return state if sizes.entries[state.axis] == Size(True, state.width) and state.width is not None else None


Special = Callable[[Facts, Node, Sequence[State]], State]
ALONG = (
    "CumSum", "GatherElements", "Hardmax", "LogSoftmax", "LpNormalization", "Softmax", "Split", "TopK",
)  # fmt: skip
SPECIAL: Mapping[str, Special] = {
    "Shape": _shape, "Reshape": _reshape, "Expand": _expand, "ConstantOfShape": _constant_of_shape,
    "Slice": _slice, "Range": _range, "GatherND": _gather_nd, "MatMul": _matmul, "MatMulInteger": _matmul,
    "com.microsoft.MatMulIntegerToFloat": _matmul, "Einsum": _einsum,
    "Transpose": _transpose, "Unsqueeze": _unsqueeze, "Squeeze": _reduced, "Gather": _gather, "Pad": _pad,
    "Resize": _resize,
    **dict.fromkeys(REDUCERS, _reduced), **dict.fromkeys(ALONG, _along), **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BROADCAST, _broadcast), "Concat": _concat,
}  # fmt: skip
"""The cases by operator. None where a case does not apply."""
