"""The common case: two files of one exporter list the same nodes in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.sameness import commutative, same_operation
from netfuse_onnx.types import Weight


@dataclass(frozen=True, slots=True)
class Pairing:
    """An isomorphism. `steps[i]` of the other source stands for step i of the first, and its weight `uses[j]`
    for the weight at the first's `uses[j]`. `inputs` and `outputs` are the pairs that the search decided."""

    steps: list[int]
    uses: list[str]
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


def walk(a: Flat, b: Flat, *, loose: bool = False) -> Pairing | int:
    """Pair step i with step i. Graph inputs and outputs of `a` and `b` correspond by position. Return the
    first step without a counterpart where there is one; `len(a.steps)` where only the outputs differ."""
    twins = dict(zip(a.inputs, b.inputs, strict=True))
    twins[""] = ""
    uses: list[str] = []
    stored, other = a.weights, b.weights
    for i, (x, y) in enumerate(zip(a.steps, b.steps, strict=False)):
        if not same_operation(x, y, a, b, loose):
            return i
        ins = y.ins
        if not _agree(x.ins, ins, twins, stored, other):
            swapped = _swapped(x.ins, ins, twins, a, b) if commutative(x) else None
            if swapped is None:
                return i
            ins = swapped
        uses += [theirs for ours, theirs in zip(x.ins, ins, strict=True) if ours in stored]
        for ours, theirs in zip(x.outs, y.outs, strict=False):
            if ours:
                twins[ours] = theirs
    if len(a.steps) != len(b.steps):
        return min(len(a.steps), len(b.steps))
    if any(twins.get(ours) != theirs for ours, theirs in zip(a.outputs, b.outputs, strict=True)):
        return len(a.steps)
    return Pairing(list(range(len(a.steps))), uses)


def _agree(
    a: tuple[str, ...],
    b: tuple[str, ...],
    twins: Mapping[str, str],
    stored: Mapping[str, Weight],
    other: Mapping[str, Weight],
) -> bool:
    """Return True where the operands of two steps correspond."""
    for ours, theirs in zip(a, b, strict=True):
        if ours in stored:
            if theirs not in other:
                return False
        elif twins.get(ours) != theirs:
            return False
    return True


def _swapped(
    ours: tuple[str, ...], theirs: tuple[str, ...], twins: Mapping[str, str], a: Flat, b: Flat
) -> tuple[str, ...] | None:
    """Return the other's operands in the order of ours; weights of equal type and shape pair first."""
    rest = list(theirs)
    chosen: dict[int, str] = {}
    for k, name in enumerate(ours):
        if name not in a.weights:
            if twins.get(name) not in rest:
                return None
            chosen[k] = twins[name]
            rest.remove(twins[name])
    if any(name not in b.weights for name in rest):
        return None
    for k, name in enumerate(ours):
        if k not in chosen:
            want = a.weights[name]
            alike = [n for n in rest if b.weights[n].shape == want.shape and b.weights[n].dtype == want.dtype]
            chosen[k] = (alike or rest)[0]
            rest.remove(chosen[k])
    return tuple(chosen[k] for k in range(len(ours)))
