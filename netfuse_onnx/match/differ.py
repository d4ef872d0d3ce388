"""The reason why two graphs are not one architecture: the first real difference, in words that let a user
act.

A step whose whole past has a counterpart in the other graph is no difference, and a step that merely comes
after a difference is a consequence. The steps that are left on both sides are paired by how alike they are,
and the difference of the best pair is reported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from netfuse_onnx.errors import Mismatch, NotEquivalent
from netfuse_onnx.match.flat import Flat, Step, node_name, place, places, step_name
from netfuse_onnx.match.refine import Level, from_inputs, from_outputs, refine
from netfuse_onnx.match.sameness import commutative, essential
from netfuse_onnx.ops.axes import ONE, SETS
from netfuse_onnx.types import Weight

LIMIT = 64
"""The number of unmatched steps of each side that are compared with each other."""
SAME_CODE = "Export all models from the same code with the same version of the same exporter."
PARTIAL = "--partial merges models that differ in no more than this."
"""A placeholder for the hint on --partial, which match writes when it knows how much differs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` completes 'FILES differ at PLACE: '. The other fields are those of errors.Mismatch."""

    what: str
    hint: str
    kind: str
    attribute: str = ""
    value: str = ""
    left: str = ""
    right: str = ""


def explain(a: Flat, b: Flat, miss: int) -> NotEquivalent:
    """Return the error for two graphs that are not isomorphic. `miss` is where the positional walk ended."""
    left, right = from_inputs(a, Level.SHAPES), from_inputs(b, Level.SHAPES)
    only_a, only_b = _surplus(a, left, b, right), _surplus(b, right, a, left)
    if not only_a and not only_b:
        colours = refine(a, b, Level.SHAPES)
        only_a, only_b = _excess(colours.a, colours.b), _excess(colours.b, colours.a)
    if only_a and only_b:
        i, j = _most_alike(a, b, (only_a, only_b), miss, (left, right))
        return error(a, i, b, j, difference(a, b, a.steps[i], b.steps[j], (left, right)))
    for mine, other, only in ((a, b, only_a), (b, a, only_b)):
        if only:
            return _extra(a, b, mine, other, only[0])
    return _outputs(a, b)


def error(a: Flat, i: int, b: Flat, j: int, difference: Difference) -> NotEquivalent:
    """Return the error for step i of a, which differs from step j of b."""
    x, y = a.steps[i], b.steps[j]
    files, names, operators = (a.path, b.path), (node_name(x), node_name(y)), (x.node.key, y.node.key)
    sides = difference.attribute, difference.value, difference.left, difference.right
    mismatch = Mismatch(difference.kind, files, names, operators, *sides)
    message = f"{a.path} and {b.path} differ at {places(a, i, b, j)}: {difference.what}."
    return NotEquivalent(message, difference.hint, mismatch)


def difference(a: Flat, b: Flat, x: Step, y: Step, colours: tuple[list[int], list[int]]) -> Difference:
    """Return the difference between step x of a and step y of b. Operands come last: they may only follow."""
    if (x.op, x.domain) != (y.op, y.domain):
        return Difference(
            f"{x.node.key} is not {y.node.key}", SAME_CODE, "operator", left=x.node.key, right=y.node.key
        )
    if x.scope != y.scope:
        left, right = ("/".join(step.scope) or "the main graph" for step in (x, y))
        what = f"one is in {left}, the other in {right}"
        return Difference(what, SAME_CODE, "connection", left=left, right=right)
    if sides := _attribute_sides(a, b, x, y):
        name, left, right = sides
        what = attribute_text(a, b, x, y)
        return Difference(what, PARTIAL, "attribute", attribute=name, left=left, right=right)
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


def weights_differ(head: str, name: str, mine: Weight, other: str, theirs: Weight) -> Difference:
    """Return the difference of two weights of unequal type or shape. `head` begins the sentence."""
    what = head + unequal_weights_text(name, mine, other, theirs)
    return Difference(what, PARTIAL, "weight", value=name, left=weight_text(mine), right=weight_text(theirs))


def attribute_text(a: Flat, b: Flat, x: Step, y: Step) -> str:
    """Return `attribute 'alpha' is 0.1 and 0.2`; empty where all attributes are equal."""
    sides = _attribute_sides(a, b, x, y)
    if not sides:
        return ""
    name = sides[0]
    axes = name in (*ONE.get(x.node.key, ()), *SETS.get(x.node.key, ()))
    rank_text = unranked_text(x.attrs.get(name), y.attrs.get(name)) if axes else ""
    return "attribute '{}' is {} and {}".format(*sides) + rank_text


def _attribute_sides(a: Flat, b: Flat, x: Step, y: Step) -> tuple[str, str, str] | None:
    """Return the first attribute that differs, and its values on both sides; None where all are equal."""
    ours, theirs = essential(x, a), essential(y, b)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return name, _short_value(x, name), _short_value(y, name)
    return None


def unranked_text(mine: Any, its: Any) -> str:
    """Explain axes in normal form of which one side counts from the back: the rank is unknown there."""
    sides = [axes if isinstance(axes, list) else [axes] for axes in (mine, its) if axes not in (None, [])]
    back = {any(isinstance(axis, int) and axis < 0 for axis in axes) for axes in sides}
    unknown = ", and the rank is unknown, so axes from the front can't be compared with axes from the back"
    return unknown if len(back) > 1 else ""


def unequal_weights_text(name: str, mine: Weight, other: str, theirs: Weight) -> str:
    """Return `weight 'w' is float32[10,4] and float32[12,4]`; empty where type and shape are equal."""
    if (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape):
        return ""
    second = "" if name == other else f" ('{other}')"
    return f"weight '{name}' is {weight_text(mine)} and {weight_text(theirs)}{second}"


def _stored_difference(a: Flat, name: str, b: Flat, other: str) -> Difference | None:
    """Return the difference of two stored operands; None where type and shape are equal."""
    if not unequal_weights_text(name, a.weights[name], other, b.weights[other]):
        return None
    ours, theirs = a.file_name(name), b.file_name(other)
    if ours in a.weights and theirs in b.weights:
        return weights_differ("", ours, a.weights[ours], theirs, b.weights[theirs])
    left, right = _origin(a, ours), _origin(b, theirs)
    what = f"it is {left} and {right}"
    return Difference(what, PARTIAL, "weight", value=ours or theirs, left=left, right=right)


def weight_text(weight: Weight) -> str:
    """Return `float32[10,4]`."""
    dtype = TensorProto.DataType.Name(weight.dtype) if weight.dtype else "?"
    return f"{_DTYPES.get(dtype, dtype.lower())}[{','.join(map(str, weight.shape))}]"


_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}


def _wiring(a: Flat, b: Flat, x: Step, y: Step, colours: tuple[list[int], list[int]]) -> Difference:
    """Return the difference in where the operands come from, else in where the outputs go."""
    colours_a, colours_b = _value_colours(a, colours[0]), _value_colours(b, colours[1])
    pairs = list(zip(x.ins, y.ins, strict=True))
    if commutative(x):
        ins_a, ins_b = [colours_a[n] for n in x.ins], [colours_b[n] for n in y.ins]
        places = zip(_excess(ins_a, ins_b), _excess(ins_b, ins_a), strict=False)
        pairs = [(x.ins[k], y.ins[m]) for k, m in places]
    for name, other in pairs:
        if colours_a[name] != colours_b[other]:
            if name in a.weights and other in b.weights:
                return _stored_difference(a, name, b, other) or weights_differ(
                    "", name, a.weights[name], other, b.weights[other]
                )
            k = x.ins.index(name)
            left, right = _origin(a, name), _origin(b, other)
            what = f"input {k} is {left} in {a.path} and {right} in {b.path}"
            return Difference(what, SAME_CODE, "connection", left=left, right=right)
    left, right = _readers(a, x), _readers(b, y)
    if left != right:
        what = f"its result is read by {left} in {a.path} and by {right} in {b.path}"
        return Difference(what, SAME_CODE, "connection", left=left, right=right)
    return Difference("they are connected to other operators in the two files", SAME_CODE, "connection")


def _extra(a: Flat, b: Flat, mine: Flat, other: Flat, at: int) -> NotEquivalent:
    """Return the error for a step of one graph without a counterpart in the other."""
    step = mine.steps[at]
    nodes, operators = (node_name(step), ""), (step.node.key, "")
    if mine is not a:
        nodes, operators = nodes[::-1], operators[::-1]
    mismatch = Mismatch("extra", (a.path, b.path), nodes, operators, left=operators[0], right=operators[1])
    what = f"{place(mine, at)} of {mine.path} has no counterpart in {other.path}"
    return NotEquivalent(f"{a.path} and {b.path} differ at {what}.", SAME_CODE, mismatch)


def _outputs(a: Flat, b: Flat) -> NotEquivalent:
    """Return the error for graphs whose outputs, or branches, are connected differently."""
    files = (a.path, b.path)
    for mine, theirs in zip(a.outputs, b.outputs, strict=True):
        ours, other = _origin(a, mine), _origin(b, theirs)
        if ours != other:
            what = f"graph output '{mine}': it is {ours} in {a.path} and {other} in {b.path}"
            mismatch = Mismatch("output", files, value=mine, left=ours, right=other)
            return NotEquivalent(f"{a.path} and {b.path} differ at {what}.", SAME_CODE, mismatch)
    what = "the way their operators are connected"
    return NotEquivalent(f"{a.path} and {b.path} differ in {what}.", SAME_CODE, Mismatch("connection", files))


def _origin(flat: Flat, name: str) -> str:
    """Describe where a value comes from."""
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
    """List the operators and graph outputs that read the results of a step."""
    names = [step_name(s) for s in flat.steps for n in s.ins if n and n in step.outs]
    names += [f"graph output '{n}'" for n in flat.outputs if n in step.outs]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _value_colours(flat: Flat, colours: list[int]) -> dict[str, int]:
    """Return a colour for each value, which shows its producer."""
    value_colours = {"": 0}
    value_colours |= {name: hash(("input", i)) for i, name in enumerate(flat.inputs)}
    value_colours |= {name: hash(("weight", w.dtype, w.shape)) for name, w in flat.weights.items()}
    for step, colour in zip(flat.steps, colours, strict=True):
        value_colours |= {name: hash((colour, k)) for k, name in enumerate(step.outs) if name}
    return value_colours


def _short_value(step: Step, name: str) -> str:
    """Return an attribute's value as a short text."""
    value: Any = step.node.attrs.get(name, "absent")
    if isinstance(value, bytes):
        value = f"'{value.decode(errors='replace')}'"
    if isinstance(value, TensorProto):
        value = "another tensor"
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _surplus(mine: Flat, colours: list[int], other: Flat, others: list[int]) -> list[int]:
    """Return the steps of `mine` that exceed those of `other` of the same colour. Among equals, the surplus
    ones are those that the other graph has neither by name nor by what depends on them."""
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
        candidates, rest = rest, []
        for i in candidates:
            twins = room[colours[i], key_a[i]]
            if twins:
                del left[twins.pop()]
            else:
                rest.append(i)
    return rest


def _excess(mine: list[int], others: list[int]) -> list[int]:
    """Return the places of the colours of `mine` that exceed those of `others`."""
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
    """Return the pair that most likely is one operator that was edited; among equals the first in the graph.
    A step counts as a first one where everything that it reads has a counterpart."""
    only_a, only_b = only
    first_a, first_b = set(_first(a, only_a)), set(_first(b, only_b))
    after_a, after_b = from_outputs(a, Level.SHAPES), from_outputs(b, Level.SHAPES)
    colours_a, colours_b = _value_colours(a, colours[0]), _value_colours(b, colours[1])
    results_a = {name for i in only_a for name in a.steps[i].outs}
    results_b = {name for j in only_b for name in b.steps[j].outs}
    pairs = [(i, j) for i in only_a[:LIMIT] for j in only_b[:LIMIT]]

    def score(pair: tuple[int, int]) -> tuple[int, int]:
        i, j = pair
        x, y = a.steps[i], b.steps[j]
        points = 4 * (after_a[i] == after_b[j]) + 3 * (x.op == y.op) + (len(x.ins) == len(y.ins))
        points += 3 * (bool(x.node.name) and x.node.name == y.node.name) + 2 * (x.outs == y.outs)
        points += (essential(x, a) == essential(y, b)) + 2 * (i == j == miss)
        points += (i in first_a) + (j in first_b) + 4 * (x.scope == y.scope)
        points += 3 * (sorted(colours_a[n] for n in x.ins) == sorted(colours_b[n] for n in y.ins))
        points -= 6 * (bool(results_a.intersection(x.ins)) and bool(results_b.intersection(y.ins)))
        return points, -(i + j)

    return max(pairs, key=score)


def _first(flat: Flat, only: list[int]) -> list[int]:
    """Return those of `only` that read nothing that another of them produces."""
    results = {name for i in only for name in flat.steps[i].outs if name}
    return [i for i in only if results.isdisjoint(flat.steps[i].ins)]
