"""Colour refinement: which steps of two graphs could correspond, whatever their order and names.

A step starts with a colour that stands for what it is. Round by round the colour takes in those of everything
that the step depends on (a sweep from the inputs) and of everything that depends on it (a sweep from the
outputs). Equal colours are necessary for a correspondence; isomorph.py looks for one among them.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.match.sameness import arity, commutative, essential
from netfuse_onnx.ops import traits
from netfuse_onnx.ops.kinds import INTEGERS
from netfuse_onnx.types import Weight

SMALL = 64  # bytes of a weight whose value may serve as a mark


class Level(enum.IntEnum):
    """The part of a weight that its colour shows. Values tell branches apart that are otherwise alike."""

    VALUES = 0  # type, shape, and the value where it is small
    STEERING = 1  # the value only where it is an index, or decides a shape
    SHAPES = 2  # type and shape
    LOOSE = 3  # nothing; nodes do not show their attributes either


STRICT = (Level.VALUES, Level.STEERING, Level.SHAPES)
"""The levels for sources of one architecture, tried in this order."""


@dataclass(frozen=True, slots=True)
class Colours:
    """One colour for each step of both graphs. They are `equal` as multisets, or those of the first round in
    which they differ: the surplus is near the difference."""

    a: list[int]
    b: list[int]
    equal: bool


def refine(a: Flat, b: Flat, level: Level) -> Colours:
    """Refine the colours of both graphs together until they are stable, or until they differ."""
    sides = (_Side(a, level), _Side(b, level))
    count = 0
    while True:
        left, right = (side.seeds for side in sides)
        if Counter(left) != Counter(right):
            return Colours(left, right, equal=False)
        if len(set(left)) == count:
            return Colours(left, right, equal=True)
        count = len(set(left))
        for side in sides:
            side.seeds = side.backward(side.forward())


def from_inputs(flat: Flat, level: Level) -> list[int]:
    """Return a colour for each step that shows the step and everything that it depends on."""
    return _Side(flat, level).forward()


def from_outputs(flat: Flat, level: Level) -> list[int]:
    """Return a colour for each step that shows everything that depends on it, but not the step itself."""
    side = _Side(flat, level)
    side.backward(side.seeds)
    return side.contexts


class _Side:
    """The colours of one graph."""

    def __init__(self, flat: Flat, level: Level) -> None:
        self.flat = flat
        self.free_order = [commutative(step) for step in flat.steps]
        self.leaves = dict(zip(flat.uses, leaf_marks(flat, level), strict=True))
        self.seeds = [hash(_label(step, flat, level)) for step in flat.steps]
        self.contexts: list[int] = []

    def forward(self) -> list[int]:
        """Return the colours of a sweep from the inputs."""
        open_inputs = self.flat.open_inputs
        values = {name: hash(("input", open_inputs.get(name, i))) for i, name in enumerate(self.flat.inputs)}
        values[""] = 0
        colours = []
        for i, step in enumerate(self.flat.steps):
            ins = [self.leaves[i, k] if (i, k) in self.leaves else values[n] for k, n in enumerate(step.ins)]
            colour = hash((self.seeds[i], tuple(sorted(ins) if self.free_order[i] else ins)))
            colours.append(colour)
            for k, name in enumerate(step.outs):
                if name:
                    values[name] = hash((colour, k))
        return colours

    def backward(self, own: Sequence[int]) -> list[int]:
        """Return the colours of a sweep from the outputs, on top of `own`; `contexts` leaves that out."""
        readers: dict[str, list[int]] = {}
        for i, name in enumerate(self.flat.outputs):
            place = "open" if name in self.flat.open_outputs else i
            readers.setdefault(name, []).append(hash(("output", place)))
        colours = [0] * len(own)
        self.contexts = [0] * len(own)
        for i in range(len(own) - 1, -1, -1):
            step = self.flat.steps[i]
            seen = [hash(tuple(sorted(readers.get(name, ())))) for name in step.outs]
            while seen and seen[-1] == _UNUSED:
                seen.pop()
            self.contexts[i] = hash(tuple(seen))
            colours[i] = hash((own[i], self.contexts[i]))
            for k, name in enumerate(step.ins):
                if name and (i, k) not in self.leaves:
                    slot = -1 if self.free_order[i] else k
                    readers.setdefault(name, []).append(hash((colours[i], slot)))
        return colours


_UNUSED = hash(())


def _label(step: Step, flat: Flat, level: Level) -> str:
    """Return what a step is as text, because Python hashes -1 and -2 alike, and both are common axes."""
    attrs = () if level is Level.LOOSE else sorted(essential(step, flat).items())
    return repr((step.op, step.domain, len(step.ins), arity(step, flat), step.scope, attrs))


def leaf_marks(flat: Flat, level: Level) -> list[int]:
    """Return what each use of a weight shows at this level, in the order of `flat.uses`."""
    marks = []
    for i, k in flat.uses:
        step = flat.steps[i]
        weight = flat.weights[step.ins[k]]
        marks.append(hash(_mark(weight, step, k, level)))
    return marks


def _mark(weight: Weight, step: Step, operand: int, level: Level) -> tuple[object, ...]:
    """Return what one use of a weight shows."""
    if level is Level.LOOSE:
        return ("weight",)
    mark = ("weight", weight.dtype, weight.shape)
    small = isinstance(weight.data, bytes) and len(weight.data) <= SMALL
    index = level is Level.STEERING and weight.dtype in INTEGERS and steers(step, operand)
    return (*mark, weight.data) if small and (level is Level.VALUES or index) else mark


def steers(step: Step, operand: int) -> bool:
    """Return True where the operand's value decides a shape, or selects elements."""
    if step.domain:
        return False
    facts = traits.of(step.op)
    return operand in facts.steered or any(operand == indices.place for indices in facts.indices)
