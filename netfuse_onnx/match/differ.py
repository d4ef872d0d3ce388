"""Why two graphs are not one: the first real difference, in words that let a user act on it.

Steps whose whole past has a counterpart in the other graph are no difference, and steps that merely come
after one are a consequence. What is left on both sides is paired by how alike it is, and the pair's
own difference is what gets reported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.match.flat import Flat, Step, node_name, place, places, step_name
from netfuse_onnx.match.refine import Level, Unequal, from_inputs, from_outputs, refine
from netfuse_onnx.match.sameness import commutative, essential
from netfuse_onnx.ops.axes import ONE, SETS
from netfuse_onnx.types import Weight

LIMIT = 64  # steps of one side that are compared with all of the other's first ones
SAME_CODE = "Export all models from the same code with the same version of the same exporter."
PARTIAL = "--partial merges models that differ in no more than this."
"""Stands for the hint that match gives when it knows in how much they differ."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` completes 'FILES differ at PLACE: '. The rest is as in errors.Mismatch."""

    what: str
    hint: str
    kind: str
    attribute: str = ""
    value: str = ""
    left: str = ""
    right: str = ""


def explain(a: Flat, b: Flat, miss: int) -> NotEquivalent:
    """The error for two graphs that are not isomorphic. `miss` is where the positional walk ended."""
    left, right = from_inputs(a, Level.SHAPES), from_inputs(b, Level.SHAPES)
    only_a, only_b = _surplus(a, left, b, right), _surplus(b, right, a, left)
    if not only_a and not only_b:
        apart = refine(a, b, Level.SHAPES)
        if isinstance(apart, Unequal):
            only_a, only_b = _uncommon(apart.a, apart.b), _uncommon(apart.b, apart.a)
    if only_a and only_b:
        i, j = _most_alike(a, b, (only_a, only_b), miss, (left, right))
        return error(a, i, b, j, difference(a, b, a.steps[i], b.steps[j], (left, right)))
    for mine, other, only in ((a, b, only_a), (b, a, only_b)):
        if only:
            return _extra(a, b, mine, other, only[0])
    return _outputs(a, b)


def error(a: Flat, i: int, b: Flat, j: int, found: Difference) -> NotEquivalent:
    """The error for step i of a, which is unlike step j of b."""
    x, y = a.steps[i], b.steps[j]
    mismatch = Mismatch(
        found.kind,
        (a.path, b.path),
        (node_name(x), node_name(y)),
        (x.node.key, y.node.key),
        found.attribute,
        found.value,
        found.left,
        found.right,
    )
    message = f"{a.path} and {b.path} differ at {places(a, i, b, j)}: {found.what}."
    return NotEquivalent(message, found.hint, mismatch)


def difference(a: Flat, b: Flat, x: Step, y: Step, colours: tuple[list[int], list[int]]) -> Difference:
    """What tells step x of a from step y of b; the operands last, as they may differ as a consequence."""
    if (x.op, x.domain) != (y.op, y.domain):
        return Difference(
            f"{x.node.key} is not {y.node.key}", SAME_CODE, "operator", left=x.node.key, right=y.node.key
        )
    if x.scope != y.scope:
        sides = {"left": "/".join(x.scope), "right": "/".join(y.scope)}
        return Difference(
            "one is inside of a body that the other is not in", SAME_CODE, "connection", **sides
        )
    if attribute_difference(a, b, x, y):
        return of_attributes(a, b, x, y)
    if len(x.ins) != len(y.ins):
        left, right = str(len(x.ins)), str(len(y.ins))
        return Difference(f"{left} inputs and {right} inputs", SAME_CODE, "operands", left=left, right=right)
    if not commutative(x):
        for k, (name, other) in enumerate(zip(x.ins, y.ins, strict=True)):
            if name in a.weights and other in b.weights:
                unlike = _stored_difference(a, name, b, other)
                if unlike:
                    return replace(unlike, what=f"input {k}: {unlike.what}")
    return _wiring(a, b, x, y, colours)


def of_attributes(a: Flat, b: Flat, x: Step, y: Step) -> Difference:
    """The attributes of two steps that are not equal. Those of a table are too long to be told."""
    name, left, right = _attribute_sides(a, b, x, y) or ("", "", "")
    what = attribute_difference(a, b, x, y) or "its attributes differ"
    return Difference(what, PARTIAL, "attribute", attribute=name, left=left, right=right)


def of_weights(head: str, name: str, mine: Weight, other: str, theirs: Weight) -> Difference:
    """Two weights of unequal type or shape. `head` stands before what is said of them."""
    what = head + weight_difference(name, mine, other, theirs)
    return Difference(what, PARTIAL, "weight", value=name, left=weight_text(mine), right=weight_text(theirs))


def attribute_difference(a: Flat, b: Flat, x: Step, y: Step) -> str:
    """`attribute 'alpha' is 0.1 and 0.2`; empty where all are equal."""
    unlike = _attribute_sides(a, b, x, y)
    if not unlike:
        return ""
    name = unlike[0]
    axes = name in (*ONE.get(x.node.key, ()), *SETS.get(x.node.key, ()))
    told = unranked(x.attrs.get(name), y.attrs.get(name)) if axes else ""
    return "attribute '{}' is {} and {}".format(*unlike) + told


def _attribute_sides(a: Flat, b: Flat, x: Step, y: Step) -> tuple[str, str, str] | None:
    """The first attribute that differs, and its value on both sides; None where all are equal."""
    ours, theirs = essential(x, a), essential(y, b)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return name, _said(x, name), _said(y, name)
    return None


def unranked(mine: Any, its: Any) -> str:
    """Words for axes in normal form of which one side counts from the back: no rank was known there."""
    sides = [axes if isinstance(axes, list) else [axes] for axes in (mine, its) if axes not in (None, [])]
    back = {any(isinstance(axis, int) and axis < 0 for axis in axes) for axes in sides}
    return ", and the rank that they count in is not known" if len(back) > 1 else ""


def weight_difference(name: str, mine: Weight, other: str, theirs: Weight) -> str:
    """`weight 'w' is float32[10,4] and float32[12,4]`; empty where type and shape are equal."""
    if (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape):
        return ""
    second = "" if name == other else f" ('{other}')"
    return f"weight '{name}' is {weight_text(mine)} and {weight_text(theirs)}{second}"


def _stored_difference(a: Flat, name: str, b: Flat, other: str) -> Difference | None:
    """The difference of two operands, by what the files hold; None where type and shape are equal."""
    if not weight_difference(name, a.weights[name], other, b.weights[other]):
        return None
    ours, theirs = a.file_name(name), b.file_name(other)
    if ours in a.weights and theirs in b.weights:
        return of_weights("", ours, a.weights[ours], theirs, b.weights[theirs])
    left, right = _origin(a, ours), _origin(b, theirs)
    what = f"it is {left} and {right}"
    return Difference(what, PARTIAL, "weight", value=ours or theirs, left=left, right=right)


def weight_text(weight: Weight) -> str:
    dtype = TensorProto.DataType.Name(weight.dtype) if weight.dtype else "?"
    return f"{_DTYPES.get(dtype, dtype.lower())}[{','.join(map(str, weight.shape))}]"


_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def _wiring(a: Flat, b: Flat, x: Step, y: Step, colours: tuple[list[int], list[int]]) -> Difference:
    """Which operand comes from elsewhere."""
    kinds_a, kinds_b = _value_colours(a, colours[0]), _value_colours(b, colours[1])
    pairs = list(zip(x.ins, y.ins, strict=True))
    if commutative(x):
        kept = [kinds_b[n] for n in y.ins]
        ours = [n for n in x.ins if not _take(kept, kinds_a[n])]
        kept = [kinds_a[n] for n in x.ins]
        pairs = list(zip(ours, [n for n in y.ins if not _take(kept, kinds_b[n])], strict=False))
    for name, other in pairs:
        if kinds_a[name] != kinds_b[other]:
            if name in a.weights and other in b.weights:
                return _stored_difference(a, name, b, other) or of_weights(
                    "", name, a.weights[name], other, b.weights[other]
                )
            k = x.ins.index(name)
            left, right = _origin(a, name), _origin(b, other)
            said = f"input {k} is {left} in {a.path} and {right} in {b.path}"
            return Difference(said, SAME_CODE, "connection", left=left, right=right)
    left, right = _readers(a, x), _readers(b, y)
    if left != right:
        said = f"its result goes to {left} in {a.path} and to {right} in {b.path}"
        return Difference(said, SAME_CODE, "connection", left=left, right=right)
    return Difference("they are connected differently", SAME_CODE, "connection")


def _extra(a: Flat, b: Flat, mine: Flat, other: Flat, at: int) -> NotEquivalent:
    """The error for a step of one of the two that stands for nothing in the other."""
    step = mine.steps[at]
    nodes, operators = (node_name(step), ""), (step.node.key, "")
    if mine is not a:
        nodes, operators = nodes[::-1], operators[::-1]
    mismatch = Mismatch("extra", (a.path, b.path), nodes, operators, left=operators[0], right=operators[1])
    what = f"{place(mine, at)} of {mine.path} has no counterpart in {other.path}"
    return NotEquivalent(f"{a.path} and {b.path} differ at {what}.", SAME_CODE, mismatch)


def _outputs(a: Flat, b: Flat) -> NotEquivalent:
    """The error for graphs whose outputs, or branches, are connected differently."""
    files = (a.path, b.path)
    for mine, theirs in zip(a.outputs, b.outputs, strict=True):
        ours, other = _origin(a, mine), _origin(b, theirs)
        if ours != other:
            what = f"graph output '{mine}': it is {ours} in {a.path} and {other} in {b.path}"
            mismatch = Mismatch("output", files, value=mine, left=ours, right=other)
            return NotEquivalent(f"{a.path} and {b.path} differ at {what}.", SAME_CODE, mismatch)
    what = "the way their branches are connected"
    return NotEquivalent(f"{a.path} and {b.path} differ at {what}.", SAME_CODE, Mismatch("connection", files))


def _origin(flat: Flat, name: str) -> str:
    """Where a value comes from."""
    name = flat.file_name(name)
    if not name:
        return "absent"
    if name in flat.weights:
        return f"weight '{name}' {weight_text(flat.weights[name])}"
    if name in flat.inputs:
        return f"graph input '{name}'"
    maker = next(step for step in flat.steps if name in step.outs)
    return f"the result of {step_name(maker)}"


def _readers(flat: Flat, step: Step) -> str:
    names = [step_name(s) for s in flat.steps for n in s.ins if n and n in step.outs]
    names += [f"graph output '{n}'" for n in flat.outputs if n in step.outs]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _value_colours(flat: Flat, colours: list[int]) -> dict[str, int]:
    kinds = {"": 0}
    kinds |= {name: hash(("input", i)) for i, name in enumerate(flat.inputs)}
    kinds |= {name: hash(("weight", w.dtype, w.shape)) for name, w in flat.weights.items()}
    for step, colour in zip(flat.steps, colours, strict=True):
        kinds |= {name: hash((colour, k)) for k, name in enumerate(step.outs) if name}
    return kinds


def _take(items: list[int], item: int) -> bool:
    """Removes the item; False where it isn't there."""
    if item not in items:
        return False
    items.remove(item)
    return True


def _said(step: Step, name: str) -> str:
    """An attribute's value, short."""
    value: Any = step.node.attrs.get(name, "absent")
    if isinstance(value, bytes):
        value = f"'{value.decode(errors='replace')}'"
    if isinstance(value, TensorProto):
        value = "another tensor"
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _surplus(mine: Flat, colours: list[int], other: Flat, others: list[int]) -> list[int]:
    """Steps of `mine` that are more than `other` has of their colour. Among equals, those that the other
    has neither by name nor by what depends on them count as the extra ones."""
    rest = list(range(len(colours)))
    left = dict.fromkeys(range(len(others)))
    after, behind = from_outputs(mine, Level.SHAPES), from_outputs(other, Level.SHAPES)
    for key_a, key_b in (
        ([step.node.name for step in mine.steps], [step.node.name for step in other.steps]),
        (after, behind),
        ([""] * len(colours), [""] * len(others)),
    ):
        room: dict[object, list[int]] = defaultdict(list)
        for j in left:
            room[others[j], key_b[j]].append(j)
        kept, rest = rest, []
        for i in kept:
            twins = room[colours[i], key_a[i]]
            if twins:
                del left[twins.pop()]
            else:
                rest.append(i)
    return rest


def _uncommon(mine: list[int], others: list[int]) -> list[int]:
    room = Counter(others)
    result = []
    for i, colour in enumerate(mine):
        if room[colour]:
            room[colour] -= 1
        else:
            result.append(i)
    return result


def _most_alike(
    a: Flat, b: Flat, only: tuple[list[int], list[int]], miss: int, colours: tuple[list[int], list[int]]
) -> tuple[int, int]:
    """The pair that most likely is one operator, edited; of equally likely ones the first in the graph. A
    step counts as a first one where all that it reads has a counterpart."""
    only_a, only_b = only
    first_a, first_b = set(_first(a, only_a)), set(_first(b, only_b))
    after_a, after_b = from_outputs(a, Level.SHAPES), from_outputs(b, Level.SHAPES)
    kinds_a, kinds_b = _value_colours(a, colours[0]), _value_colours(b, colours[1])
    made_a = {name for i in only_a for name in a.steps[i].outs}
    made_b = {name for j in only_b for name in b.steps[j].outs}
    pairs = [(i, j) for i in only_a[:LIMIT] for j in only_b[:LIMIT]]

    def score(pair: tuple[int, int]) -> tuple[int, int]:
        i, j = pair
        x, y = a.steps[i], b.steps[j]
        points = 4 * (after_a[i] == after_b[j]) + 3 * (x.op == y.op) + (len(x.ins) == len(y.ins))
        points += 3 * (bool(x.node.name) and x.node.name == y.node.name) + 2 * (x.outs == y.outs)
        points += (essential(x, a) == essential(y, b)) + 2 * (i == j == miss)
        points += (i in first_a) + (j in first_b) + 4 * (x.scope == y.scope)
        points += 3 * (sorted(kinds_a[n] for n in x.ins) == sorted(kinds_b[n] for n in y.ins))
        points -= 3 * (bool(made_a.intersection(x.ins)) and bool(made_b.intersection(y.ins)))
        return points, -(i + j)

    return max(pairs, key=score)


def _first(flat: Flat, only: list[int]) -> list[int]:
    """Those of `only` that read nothing that comes from another of them."""
    made = {name for i in only for name in flat.steps[i].outs if name}
    return [i for i in only if made.isdisjoint(flat.steps[i].ins)]
