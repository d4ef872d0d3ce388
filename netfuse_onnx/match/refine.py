"""Colour refinement: which steps of two graphs could correspond, whatever their order and names.

A step's colour starts from what it is and takes in, round by round, the colours of all that it depends
on (a sweep from the inputs) and of all that depends on it (a sweep from the outputs). Equal colours are
necessary for a correspondence; isomorph.py finds one among them.
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
    """What a weight tells of itself. Values serve to tell apart branches that are otherwise alike."""

    VALUES = 0  # type, shape, and the value where it is small
    STEERING = 1  # the value only where it is an index, or decides a shape
    SHAPES = 2  # type and shape
    LOOSE = 3  # nothing, and nodes nothing of their attributes


@dataclass(frozen=True, slots=True)
class Colours:
    """One colour for each step of both graphs, equal as multisets."""

    a: list[int]
    b: list[int]


@dataclass(frozen=True, slots=True)
class Apart:
    """The first round after which the colours differ: what is of one graph only is near the difference."""

    a: list[int]
    b: list[int]


def refine(a: Flat, b: Flat, level: Level) -> Colours | Apart:
    """Refines both together until nothing more can be told apart, or until they differ."""
    sides = (_Side(a, level), _Side(b, level))
    count = 0
    while True:
        left, right = (side.seeds for side in sides)
        if Counter(left) != Counter(right):
            return Apart(left, right)
        if len(set(left)) == count:
            return Colours(left, right)
        count = len(set(left))
        for side in sides:
            side.seeds = side.backward(side.forward())


def from_inputs(flat: Flat, level: Level) -> list[int]:
    """One colour for each step by what it is and all that it depends on, nothing else."""
    return _Side(flat, level).forward()


def from_outputs(flat: Flat, level: Level) -> list[int]:
    """One colour for each step by all that depends on it; what it is itself doesn't count."""
    side = _Side(flat, level)
    side.backward(side.seeds)
    return side.contexts


class _Side:
    """One graph under refinement."""

    def __init__(self, flat: Flat, level: Level) -> None:
        self.flat = flat
        self.free_order = [commutative(step) for step in flat.steps]
        self.leaves = dict(zip(flat.uses, leaf_marks(flat, level), strict=True))
        self.seeds = [hash(_label(step, flat, level)) for step in flat.steps]
        self.contexts: list[int] = []

    def forward(self) -> list[int]:
        """Colours from the inputs on."""
        free = self.flat.open_inputs
        known = {name: hash(("input", free.get(name, i))) for i, name in enumerate(self.flat.inputs)}
        known[""] = 0
        colours = []
        for i, step in enumerate(self.flat.steps):
            ins = [self.leaves[i, k] if (i, k) in self.leaves else known[n] for k, n in enumerate(step.ins)]
            colour = hash((self.seeds[i], tuple(sorted(ins) if self.free_order[i] else ins)))
            colours.append(colour)
            for k, name in enumerate(step.outs):
                if name:
                    known[name] = hash((colour, k))
        return colours

    def backward(self, own: Sequence[int]) -> list[int]:
        """Colours from the outputs back, on top of `own`; `contexts` is the part without a step's own."""
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
    """As text, because Python hashes -1 and -2 alike, and both are common axes."""
    attrs = () if level is Level.LOOSE else sorted(essential(step, flat).items())
    return repr((step.op, step.domain, len(step.ins), arity(step, flat), step.scope, attrs))


def leaf_marks(flat: Flat, level: Level) -> list[int]:
    """What each use of a weight shows of it at this level, in the order of `flat.uses`."""
    marks = []
    for i, k in flat.uses:
        step = flat.steps[i]
        weight = flat.weights[step.ins[k]]
        marks.append(hash(_mark(weight, step, k, level)))
    return marks


def _mark(weight: Weight, step: Step, operand: int, level: Level) -> tuple[object, ...]:
    if level is Level.LOOSE:
        return ("weight",)
    mark = ("weight", weight.dtype, weight.shape)
    small = isinstance(weight.data, bytes) and len(weight.data) <= SMALL
    index = level is Level.STEERING and weight.dtype in INTEGERS and steers(step, operand)
    return (*mark, weight.data) if small and (level is Level.VALUES or index) else mark


def steers(step: Step, operand: int) -> bool:
    """Whether the operand's value decides a shape, or picks elements."""
    if step.domain:
        return False
    facts = traits.of(step.op)
    return operand in facts.steered or any(operand == indices.place for indices in facts.indices)
