"""From a correspondence of normal forms back to the files: the merged graph has the first source's spelling.

Where two operands are spelled differently and mean the same, the other source's gives way to the first's.
Where they differ in meaning too, such as another axis, each model keeps its own if both files have one
spelling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.sameness import essential
from netfuse_onnx.ops import tables
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Weight


@dataclass(frozen=True, slots=True)
class BothForms:
    """The steps of a source as its file has them (`own`) and in normal form, one for one."""

    own: Flat
    normal: Flat

    @property
    def with_normal_attributes(self) -> Flat:
        """The steps with the operands of the file and the attributes of the normal form."""
        steps = [
            x if x.attrs is y.attrs else replace(x, attrs=y.attrs)
            for x, y in zip(self.own.steps, self.normal.steps, strict=True)
        ]
        return replace(self.own, steps=steps)


def with_first_attributes(a: BothForms, b: Flat, pairing: Pairing) -> Flat:
    """Return another source whose file is spelled like the first's, with its normal attributes."""
    attrs = {j: a.normal.steps[i].attrs for i, j in enumerate(pairing.steps)}
    steps = [
        x if tables.learned(x.op, x.domain) else replace(x, attrs=attrs[j]) for j, x in enumerate(b.steps)
    ]
    return replace(b, steps=steps)


def in_file_terms(a: BothForms, b: BothForms, pairing: Pairing) -> tuple[Flat, Pairing] | int:
    """Return the other source and its correspondence, given that of the normal forms, in terms of the files.

    Returns a step instead that differs from its counterpart in meaning and in spelling, so that the operands
    of one file can't stand in the other.
    """
    twins = dict(zip(a.normal.uses, pairing.uses, strict=True))
    stored: dict[str, Weight] = dict(b.normal.weights)
    chosen: dict[tuple[int, int], str] = {}
    for i, j in enumerate(pairing.steps):
        operands = a.normal.changed.get(i, frozenset()) | b.normal.changed.get(j, frozenset())
        x, y = a.own.steps[i], b.own.steps[j]
        ours = _stored(a.own, x, operands)
        if all(_same_operand(a.normal, i, b.normal, j, k) for k in operands):
            for k in ours:
                name = f"{i}\0{k}\0first"
                chosen[i, k] = name
                stored[name] = a.own.weights[x.ins[k]]
        elif ours == _stored(b.own, y, operands) and _same_spelling(a, i, b, j):
            chosen |= {(i, k): y.ins[k] for k in ours}
        else:
            return i
    uses = [chosen.get(use) or twins[use] for use in a.own.uses]
    return replace(b.with_normal_attributes, weights=stored), Pairing(pairing.steps, uses)


def _stored(flat: Flat, step: Step, operands: frozenset[int]) -> list[int]:
    """Return those of the operands that are weights."""
    return [k for k in sorted(operands) if k < len(step.ins) and step.ins[k] in flat.weights]


def _same_operand(a: Flat, i: int, b: Flat, j: int, k: int) -> bool:
    """Return True where an operand of two normal forms is absent in both, or the same constant."""
    mine, theirs = (f.weights.get(_operand(f.steps[s], k)) for f, s in ((a, i), (b, j)))
    if mine is None or theirs is None:
        return mine is theirs and bool(_operand(a.steps[i], k)) == bool(_operand(b.steps[j], k))
    return weights.same(mine, theirs)


def _operand(step: Step, k: int) -> str:
    return step.ins[k] if k < len(step.ins) else ""


def _same_spelling(a: BothForms, i: int, b: BothForms, j: int) -> bool:
    """Return True where two files spell a step in one way: equal attributes, as many operands, and stored
    ones of equal type and shape."""
    x, y = a.own.steps[i], b.own.steps[j]
    if len(x.ins) != len(y.ins) or essential(x, a.own) != essential(y, b.own):
        return False
    pairs = [(a.own.weights.get(m), b.own.weights.get(n)) for m, n in zip(x.ins, y.ins, strict=True)]
    return all((m.dtype, m.shape) == (n.dtype, n.shape) for m, n in pairs if m and n)
