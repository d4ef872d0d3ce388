"""From a correspondence of normal forms back to the files: the merged graph has the first's spelling.

Where all that is spelled in another way says the same, the other source's operands give way to the first's.
Where it does not, such as an axis that differs, each model keeps its own, if the two spellings let it.
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
class Sides:
    """A source as its file has it, and in normal form: step for step the same."""

    own: Flat
    normal: Flat

    @property
    def kept(self) -> Flat:
        """The operands of the file, the attributes of the normal form."""
        steps = [
            x if x.attrs is y.attrs else replace(x, attrs=y.attrs)
            for x, y in zip(self.own.steps, self.normal.steps, strict=True)
        ]
        return replace(self.own, steps=steps)


def unchanged(a: Sides, b: Flat, pairing: Pairing) -> Flat:
    """The other source, whose file writes all as the first's does: its attributes mean what those do."""
    attrs = {j: a.normal.steps[i].attrs for i, j in enumerate(pairing.steps)}
    steps = [
        x if tables.learned(x.op, x.domain) else replace(x, attrs=attrs[j]) for j, x in enumerate(b.steps)
    ]
    return replace(b, steps=steps)


class Unkept(Exception):
    """Step `step` of the first source differs from its twin in what it says and in how it says it: no operand
    of one could stand for that of the other."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def kept(a: Sides, b: Sides, pairing: Pairing) -> tuple[Flat, Pairing]:
    """The other source and the correspondence in terms of the files; `pairing` is that of the normal forms.
    Raises Unkept."""
    twins = dict(zip(a.normal.uses, pairing.uses, strict=True))
    held: dict[str, Weight] = dict(b.normal.weights)
    taken: dict[tuple[int, int], str] = {}
    for i, j in enumerate(pairing.steps):
        places = a.normal.changed.get(i, frozenset()) | b.normal.changed.get(j, frozenset())
        x, y = a.own.steps[i], b.own.steps[j]
        ours = _stored(a.own, x, places)
        if all(_alike(a.normal, i, b.normal, j, k) for k in places):
            for k in ours:
                name = f"{i}\0{k}\0first"
                taken[i, k] = name
                held[name] = a.own.weights[x.ins[k]]
        elif ours == _stored(b.own, y, places) and _one_way(a, i, b, j):
            taken |= {(i, k): y.ins[k] for k in ours}
        else:
            raise Unkept(i)
    uses = [taken.get(use) or twins[use] for use in a.own.uses]
    return replace(b.kept, weights=held), Pairing(pairing.steps, uses)


def _stored(flat: Flat, step: Step, places: frozenset[int]) -> list[int]:
    return [k for k in sorted(places) if k < len(step.ins) and step.ins[k] in flat.weights]


def _alike(a: Flat, i: int, b: Flat, j: int, k: int) -> bool:
    """Whether an operand of two normal forms is absent in both, or the same constant."""
    mine, theirs = (f.weights.get(_operand(f.steps[s], k)) for f, s in ((a, i), (b, j)))
    if mine is None or theirs is None:
        return mine is theirs and bool(_operand(a.steps[i], k)) == bool(_operand(b.steps[j], k))
    return weights.same(mine, theirs)


def _operand(step: Step, k: int) -> str:
    return step.ins[k] if k < len(step.ins) else ""


def _one_way(a: Sides, i: int, b: Sides, j: int) -> bool:
    """Whether the two files write the step in one way: with the same attributes, as many operands, and stored
    ones of one type and shape."""
    x, y = a.own.steps[i], b.own.steps[j]
    if len(x.ins) != len(y.ins) or essential(x, a.own) != essential(y, b.own):
        return False
    pairs = [(a.own.weights.get(m), b.own.weights.get(n)) for m, n in zip(x.ins, y.ins, strict=True)]
    return all((m.dtype, m.shape) == (n.dtype, n.shape) for m, n in pairs if m and n)
