"""If, Loop and Scan around a few random operators, which read outer values and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, helper

from fuzzing.build import Array, Builder, Unfit, Value, body, evaluate, operators


def _depth(b: Builder) -> int:
    return 1 + _depth(b.around) if b.around else 0


def _inner(b: Builder, inputs: Sequence[Value] = ()) -> Builder:
    if _depth(b) >= 2 or (b.around and b.maybe(0.6)):
        raise Unfit("nested too deep")
    child = Builder(b.world, b)
    child.pool += inputs
    child.grow(b.rng.randint(1, 3))
    return child


def _own(child: Builder, value: Value) -> Value:
    """`value` as the result of one of the body's nodes."""
    if any(value.name in node.output for node in child.nodes):
        return value
    return child.node("Identity", [value])


def _result(child: Builder, dtype: object, shape: tuple[int, ...]) -> Value:
    """A result of the body that has this type and shape."""
    made = {name for node in child.nodes for name in node.output}
    fits = [v for v in child.pool if v.dtype == dtype and v.shape == shape and v.steady and not v.ragged]
    last = [v for v in fits if v.name in made]
    return _own(child, last[-1] if last else child.rng.choice(fits) if fits else child.leaf(shape, dtype))


def _add(b: Builder, op: str, ins: Sequence[Value | None], bodies: dict[str, GraphProto], outs: int,
         exact: bool, **attrs: object) -> None:  # fmt: skip
    names = [b.world.name() for _ in range(outs)]
    node = helper.make_node(op, [v.name if v else "" for v in ins], names, **bodies, **attrs)
    results = evaluate([node], [v for v in ins if v], names, b.world)
    found = [b._checked(Value(name, arrays, exact), None, 400) for name, arrays in results.items()]
    b.nodes.append(node)
    b.world.known.update((v.name, v) for v in found)
    b.pool += found


@operators("If", weight=1.2)
def if_(b: Builder, op: str) -> None:
    flags = [v for v in b.pool if v.dtype == np.bool_ and v.shape in ((), (1,)) and not v.ragged]
    if flags and b.maybe(0.5):
        flag = b.rng.choice(flags)
    else:
        flag = b.leaf(
            (), np.bool_, role=b.rng.choice(("shared input", "shared input", "shared weight", "input"))
        )
    then = _inner(b)
    outs = [_own(then, v) for v in then.pool[-b.rng.choice([1, 1, 2]) :]]
    other = _inner(b)
    others = []
    for v in outs:
        if b.maybe(0.15):
            same = [u for u in other.pool if u.dtype == v.dtype and u.rank == v.rank]
            others.append(_own(other, b.rng.choice(same)) if same else _result(other, v.dtype, v.shape))
        else:
            others.append(_result(other, v.dtype, v.shape))
    if len({v.name for v in outs}) < len(outs) or len({v.name for v in others}) < len(others):
        raise Unfit("one value twice")
    shapes = b.maybe(0.5)
    bodies = {"then_branch": body(then, (), outs, shapes), "else_branch": body(other, (), others, shapes)}
    _add(b, op, [flag], bodies, len(outs), all(v.exact for v in (*outs, *others)))


def _inside(b: Builder, arrays: list[Array]) -> Value:
    """An input of a body, with its values in the first iteration."""
    value = Value(b.world.name(), arrays, exact=arrays[0].dtype.kind != "f")
    b.world.known[value.name] = value
    return value


@operators("Loop", weight=1)
def loop(b: Builder, op: str) -> None:
    models = b.world.models
    trips = b.steer(b.rng.choice([0, 1, 2, 3]))
    states = [b.value(fits=lambda v: not v.ragged) for _ in range(b.rng.choice([0, 1, 1, 2]))]
    number = _inside(b, [np.array(0, np.int64)] * models)
    before = _inside(b, [np.array(True)] * models)
    own = [_inside(b, v.arrays) for v in states]
    child = _inner(b, [number, *own])
    after = child.node("Identity", [before])
    if b.maybe(0.3):
        after = child.node("Less", [number, child.const(b.rng.choice([0, 1, 2]))])
    outs = [_result(child, v.dtype, v.shape) for v in own]
    if b.maybe(0.5) or not outs:
        outs.append(_own(child, b.rng.choice(child.pool[-2:])))
    if len({v.name for v in outs}) < len(outs):
        raise Unfit("one value twice")
    graph = body(child, [number, before, *own], [after, *outs], b.maybe(0.5))
    go = b.const(True, np.bool_) if b.maybe(0.6) else None
    _add(b, op, [trips, go, *states], {"body": graph}, len(outs), False)


@operators("Scan", weight=1)
def scan(b: Builder, op: str) -> None:
    states = [b.value(fits=lambda v: not v.ragged) for _ in range(b.rng.choice([0, 1]))]
    first = b.value(rank=(1, 3), fits=lambda v: min(v.shape) > 0 and not v.ragged)
    scanned, axes = [first], [b.axis(first.rank)]
    if b.maybe(0.3):
        second = b.leaf((first.shape[axes[0]], *b.dims(1)))
        scanned.append(second)
        axes.append(0)
    slices = [
        _inside(b, [np.take(a, 0, axis=axis) for a in v.arrays])
        for v, axis in zip(scanned, axes, strict=True)
    ]
    own = [_inside(b, v.arrays) for v in states]
    child = _inner(b, [*own, *slices])
    outs = [_result(child, v.dtype, v.shape) for v in own]
    outs.append(_own(child, b.rng.choice(child.pool[-2:])))
    if len({v.name for v in outs}) < len(outs):
        raise Unfit("one value twice")
    if not outs[-1].arrays[0].size:
        raise Unfit("ONNX Runtime 1.32 divides by the size of what Scan collects")
    graph = body(child, [*own, *slices], outs, b.maybe(0.5))
    attrs: dict[str, object] = {"num_scan_inputs": len(scanned)}
    if axes != [0] * len(axes):
        attrs["scan_input_axes"] = axes
    if b.maybe(0.3):
        attrs["scan_output_axes"] = [b.rng.randint(-1, outs[-1].rank)]
    if b.maybe(0.3):
        attrs["scan_input_directions"] = [b.rng.choice([0, 1]) for _ in scanned]
    _add(b, op, [*states, *scanned], {"body": graph}, len(outs), False, **attrs)
