"""The inputs and outputs of another source, paired as the graphs say where these contradict the proposal.

Names that both sources have stay pairs: two files that give one name to two roles are no family. What has no
name in common may stand for anything of its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.match import pairing
from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.refine import Colours, Level, refine
from netfuse_onnx.match.signature import kind_text
from netfuse_onnx.types import Edge, Source, ValueType

Side = tuple[Source, Flat]


def search(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> Edge | None:
    """Pairs by which the graphs correspond, or None. Of pairs that the graphs take for interchangeable, the
    proposed ones count."""
    return _found(ours, other, proposed, pairing.common(proposed), levels)


def crossed(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> str:
    """The hint, where the graphs correspond only if one name stands for two things; for sources of which it
    is known that they do not correspond otherwise."""
    found = _found(ours, other, proposed, Edge({}, {}), levels)
    return "" if found is None else _crossed(ours[1], other[1], found)


def _found(ours: Side, other: Side, proposed: Edge, kept: Edge, levels: Sequence[Level]) -> Edge | None:
    if kept == proposed:
        return None
    a = _opened(*ours, set(kept.inputs), set(kept.outputs))
    b = _opened(*other, set(kept.inputs.values()), set(kept.outputs.values()))
    for level in levels:
        colours = refine(a, b, level)
        if isinstance(colours, Colours):
            found = isomorphism(a, b, (colours.a, colours.b), level)
            if found is not None:
                outputs = {**kept.outputs, **found.outputs}
                return Edge(
                    _completed({**kept.inputs, **found.inputs}, proposed.inputs),
                    {name: outputs[name] for name in proposed.outputs},
                )
    return None


def _opened(source: Source, flat: Flat, inputs: set[str], outputs: set[str]) -> Flat:
    """The graph with all inputs and outputs open but those named."""
    types = source.graph.types
    free = {name: kind_text(types.get(name, ValueType())) for name in flat.inputs if name not in inputs}
    return replace(flat, open_inputs=free, open_outputs=frozenset(flat.outputs) - outputs)


def _completed(found: dict[str, str], proposed: Mapping[str, str]) -> dict[str, str]:
    """All inputs in the first source's order: what nothing reads pairs as proposed, else in order."""
    taken = set(found.values())
    for name, twin in proposed.items():
        if name not in found and twin not in taken:
            found[name] = twin
            taken.add(twin)
    rest = iter([twin for twin in proposed.values() if twin not in taken])
    return {name: found[name] if name in found else next(rest) for name in proposed}


def _crossed(a: Flat, b: Flat, found: Edge) -> str:
    sides = ((found.inputs, b.inputs), (found.outputs, b.outputs))
    for pairs, own in sides:
        for name, twin in pairs.items():
            if name != twin and name in own:
                return (
                    f"'{name}' of {a.path} does what '{twin}' of {b.path} does, which has a '{name}' of its "
                    "own: rename the inputs and outputs of one file, so that a name means the same in all."
                )
    return ""
